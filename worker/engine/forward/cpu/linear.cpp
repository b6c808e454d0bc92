// The linear of some rows with a matrix of any form (see `matrices.py`) on a CPU, in one read of the matrix.
//
// Weights become float32 in registers, or a row integers that are as exact, and products are summed in float32. An output
// is summed by one thread, in an order in which neither the number of threads nor that of other rows counts, but for
// whether there are any.
//
// It is registered through torch's stable interface, which compiles in a second and is called in microseconds.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <optional>
#include <type_traits>
#include <vector>

#include "int4.h"
#include "int8.h"
#include "plain.h"

namespace {

using torch::stable::Tensor;

constexpr int kRows = 4;  // of a matrix, that are read side by side
constexpr int kOthers = kLanes == 16 ? 4 : 2;  // rows that meet kRows of a matrix
constexpr int64_t kLeastShare = 1 << 16, kLargestShare = 1 << 20;  // bytes, that a thread takes at once

// -- several rows

// Some outputs, whose weights are floats, of some rows.
template <int kCount, int kColumns>
inline void dots_of_several(const float* weights, const float* rows, int64_t inputs, float* out, int64_t outputs) {
  Floats totals[kColumns][kCount] = {};
  int64_t k = 0;
  for (; k + kLanes <= inputs; k += kLanes) {
    Floats w[kCount];
#pragma GCC unroll 8
    for (int r = 0; r < kCount; ++r) w[r] = load(weights + r * inputs + k);
#pragma GCC unroll 8
    for (int c = 0; c < kColumns; ++c) {
      const Floats x = load(rows + c * inputs + k);
#pragma GCC unroll 8
      for (int r = 0; r < kCount; ++r) totals[c][r] += w[r] * x;
    }
  }
  if (k < inputs) {
    for (int c = 0; c < kColumns; ++c) {
      const Floats x = load_first(rows + c * inputs + k, inputs - k);
      for (int r = 0; r < kCount; ++r) totals[c][r] += load_first(weights + r * inputs + k, inputs - k) * x;
    }
  }
  for (int c = 0; c < kColumns; ++c) sums<kCount>(totals[c], out + c * outputs, 1);
}

template <int kCount>
inline void of_all_rows(
    const float* weights, const float* rows, int64_t count, int64_t inputs, float* out, int64_t outputs) {
  int64_t c = 0;
  for (; c + kOthers <= count; c += kOthers)
    dots_of_several<kCount, kOthers>(weights, rows + c * inputs, inputs, out + c * outputs, outputs);
  for (; c < count; ++c) dots_of_several<kCount, 1>(weights, rows + c * inputs, inputs, out + c * outputs, outputs);
}

template <class Form>
void several(const Form& form, int64_t first, int64_t end, const float* rows, int64_t count, int64_t inputs, float* out) {
  thread_local std::vector<float> tile;  // kRows outputs, that stay in the nearest cache
  if (!std::is_same_v<Form, Plain<float>>) tile.resize(kRows * inputs);
  for (int64_t output = first; output < end; output += kRows) {
    const int64_t here = std::min<int64_t>(kRows, end - output);
    const float* weights = tile.data();
    if constexpr (std::is_same_v<Form, Plain<float>>)
      weights = form.values + output * inputs;
    else
      for (int64_t r = 0; r < here; ++r) form.write_out(output + r, tile.data() + r * inputs);
    if (here == kRows)
      of_all_rows<kRows>(weights, rows, count, inputs, out + output, form.outputs);
    else
      for (int64_t r = 0; r < here; ++r)
        of_all_rows<1>(weights + r * inputs, rows, count, inputs, out + output + r, form.outputs);
  }
}

// -- the operator

// Threads take shares until none is left: one that is held up holds up no other.
template <class Function>
void in_shares(int64_t items, int64_t bytes_of_item, const Function& function) {
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t bytes = std::clamp(items * bytes_of_item / (4 * threads), kLeastShare, kLargestShare);
  const int64_t share = std::max<int64_t>(bytes / bytes_of_item, 1), shares = (items + share - 1) / share;
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, std::min(threads, shares), 1, [&](int64_t, int64_t) {
    for (int64_t number; (number = next.fetch_add(1)) < shares;)
      function(number * share, std::min((number + 1) * share, items));
  });
}

template <class Form>
void multiply_by(const Form& form, const float* rows, int64_t count, int64_t inputs, float* out) {
  if (count > 1) {
    const int64_t blocks = (form.outputs + kRows - 1) / kRows;
    in_shares(blocks, kRows * form.bytes_of_output(), [&](int64_t first, int64_t end) {
      several(form, first * kRows, std::min(end * kRows, form.outputs), rows, count, inputs, out);
    });
    return;
  }
  std::vector<float> kept;
  const float* row = form.prepared(rows, kept);
  // Each thread reads four places far apart: that keeps more of the memory busy.
  const int64_t apart = form.outputs / kRows;
  in_shares(apart, kRows * form.bytes_of_output(), [&](int64_t first, int64_t end) {
    form.template dots<kRows>(first, apart, end - first, row, out);
  });
  form.template dots<1>(apart * kRows, 1, form.outputs - apart * kRows, row, out);
}

template <class T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

// What the function makes of the matrix, in its form.
template <class Function>
void in_form(
    const Tensor& values, const std::optional<Tensor>& scales, const std::optional<Tensor>& zeros,
    const Function& function) {
  const int64_t outputs = values.size(0), inputs = values.size(1);
  if (values.dim() == 3) {
    const ScalarType type = scales ? scales->scalar_type() : ScalarType::Undefined;
    STD_TORCH_CHECK(
        type == ScalarType::Float || type == ScalarType::BFloat16 || type == ScalarType::Half,
        "scales of int4 are float32, bfloat16 or float16");
    auto by = [&](auto form) {
      form.values = data<uint8_t>(values);
      form.scales = scales->const_data_ptr();
      form.of_scales = scales->scalar_type();
      form.zeros = zeros ? data<uint8_t>(*zeros) : nullptr;
      form.outputs = outputs;
      form.groups = values.size(1);
      function(form);
    };
    switch (values.size(2)) {
      case 16: return by(Int4<4>{});
      case 32: return by(Int4<8>{});
      case 64: return by(Int4<16>{});
      default: STD_TORCH_CHECK(false, "int4 is in groups of 32, 64 or 128");
    }
  }
  switch (values.scalar_type()) {
    case ScalarType::Float: return function(Plain<float>{data<float>(values), nullptr, outputs, inputs});
    case ScalarType::BFloat16: return function(Plain<BFloat16>{data<BFloat16>(values), nullptr, outputs, inputs});
    case ScalarType::Char:
      STD_TORCH_CHECK(scales && scales->scalar_type() == ScalarType::Float, "scales of int8 are float32");
      return function(Int8{{data<int8_t>(values), data<float>(*scales), outputs, inputs}});
    default: STD_TORCH_CHECK(false, "weights are float32, bfloat16, int8 or int4");
  }
}

int64_t columns_of(const Tensor& values) {
  return values.dim() == 3 ? values.size(1) * values.size(2) * 2 : values.size(1);
}

void check_contiguous(const Tensor& values, const std::optional<Tensor>& scales, const std::optional<Tensor>& zeros) {
  STD_TORCH_CHECK(
      values.is_contiguous() && (!scales || scales->is_contiguous()) && (!zeros || zeros->is_contiguous()),
      "weights are contiguous");
}

// (rows, in) of float32 or bfloat16, and the fields of a matrix of (out, in) -> (rows, out). All are contiguous.
Tensor linear(
    const Tensor& rows, const Tensor& values, std::optional<Tensor> scales, std::optional<Tensor> zeros) {
  const int64_t count = rows.size(0), inputs = rows.size(1), outputs = values.size(0);
  STD_TORCH_CHECK(columns_of(values) == inputs, "rows are as long as those of the matrix");
  STD_TORCH_CHECK(rows.is_contiguous(), "rows are contiguous");
  check_contiguous(values, scales, zeros);
  Tensor out = torch::stable::new_empty(rows, {count, outputs});
  if (count == 0) return out;
  auto multiply = [&](const float* rows, float* out) {
    in_form(values, scales, zeros, [&](const auto& form) { multiply_by(form, rows, count, inputs, out); });
  };
  if (rows.scalar_type() == ScalarType::Float) {
    multiply(data<float>(rows), static_cast<float*>(out.mutable_data_ptr()));
    return out;
  }
  STD_TORCH_CHECK(rows.scalar_type() == ScalarType::BFloat16, "rows are float32 or bfloat16");
  std::vector<float> wide(count * inputs), sums(count * outputs);
  std::transform(data<BFloat16>(rows), data<BFloat16>(rows) + wide.size(), wide.begin(), [](BFloat16 value) {
    return to_float(value);
  });
  multiply(wide.data(), sums.data());
  std::transform(sums.begin(), sums.end(), static_cast<BFloat16*>(out.mutable_data_ptr()), to_bfloat16);
  return out;
}

// The weights of a matrix of (out, in), by its fields, into (out, in) of float32.
void write_out(const Tensor& values, std::optional<Tensor> scales, std::optional<Tensor> zeros, Tensor numbers) {
  const int64_t inputs = columns_of(values);
  STD_TORCH_CHECK(
      numbers.scalar_type() == ScalarType::Float && numbers.is_contiguous() && numbers.dim() == 2 &&
          numbers.size(0) == values.size(0) && numbers.size(1) == inputs,
      "a matrix is written out into one of contiguous float32");
  check_contiguous(values, scales, zeros);
  float* const to = static_cast<float*>(numbers.mutable_data_ptr());
  in_form(values, scales, zeros, [&](const auto& form) {
    in_shares(form.outputs, form.bytes_of_output(), [&](int64_t first, int64_t end) {
      for (int64_t output = first; output < end; ++output) form.write_out(output, to + output * inputs);
    });
  });
}

}  // namespace

STABLE_TORCH_LIBRARY(genqueue, library) {
  library.def("linear(Tensor rows, Tensor values, Tensor? scales, Tensor? zeros) -> Tensor");
  library.def("write_out(Tensor values, Tensor? scales, Tensor? zeros, Tensor(a!) numbers) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(genqueue, CPU, library) {
  library.impl("linear", TORCH_BOX(&linear));
  library.impl("write_out", TORCH_BOX(&write_out));
}
