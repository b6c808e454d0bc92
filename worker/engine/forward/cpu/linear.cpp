// The linear of some rows with a matrix of any form (see `matrices.py`) on a CPU, in one read of the matrix.
//
// Weights become float32 in registers, and products are summed in float32. An output is summed by one thread, in an
// order in which neither the number of threads nor that of other rows counts, but for whether there are any.
//
// Vectors are those of GCC and Clang, and so this compiles for any processor. It is registered through torch's stable
// interface, which compiles in a second and is called in microseconds.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <optional>
#include <type_traits>
#include <vector>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

using torch::headeronly::Half;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

#if defined(__AVX512BW__)
#define GENQUEUE_AVX512
constexpr int kLanes = 16;
#elif defined(__AVX2__)
#define GENQUEUE_AVX2
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
constexpr int kRows = 4;  // of a matrix, that are read side by side
constexpr int kOthers = kLanes == 16 ? 4 : 2;  // rows that meet kRows of a matrix
constexpr int64_t kLeastShare = 1 << 16, kLargestShare = 1 << 20;  // bytes, that a thread takes at once

// -- vectors

template <class T>
struct Vectors {
  typedef T Type __attribute__((vector_size(kLanes * sizeof(T))));
  typedef T Unaligned __attribute__((vector_size(kLanes * sizeof(T)), aligned(alignof(T)), may_alias));
};
using Floats = Vectors<float>::Type;
using Ints = Vectors<int32_t>::Type;
using Words = Vectors<uint32_t>::Type;

struct BFloat16 {
  uint16_t bits;
};

template <class T>
inline typename Vectors<T>::Type load_raw(const void* at) {
  return *reinterpret_cast<const typename Vectors<T>::Unaligned*>(at);
}
inline Floats load(const float* at) { return load_raw<float>(at); }

// GCC takes vectors apart whose elements become wider or change their places: such steps are written by hand.
#if defined(GENQUEUE_AVX512)
inline Floats load(const BFloat16* at) {
  return (Floats)((Words)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)at)) << 16);
}
inline Floats load(const int8_t* at) {
  return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)at)));
}
inline Words load_bytes(const uint8_t* at) {
  return (Words)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)at));
}
inline __m128 folded(Floats values) {
  __m256 half = _mm256_add_ps(
      _mm512_castps512_ps256((__m512)values),
      _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd((__m512)values), 1)));
  return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}
inline void keep_in_register(Words& words) { asm("" : "+v"(words)); }
inline void keep_in_register(Floats& floats) { asm("" : "+v"(floats)); }
#elif defined(GENQUEUE_AVX2)
inline Floats load(const BFloat16* at) {
  return (Floats)((Words)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)at)) << 16);
}
inline Floats load(const int8_t* at) {
  return (Floats)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)at)));
}
inline Words load_bytes(const uint8_t* at) {
  return (Words)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)at));
}
inline __m128 folded(Floats values) {
  return _mm_add_ps(_mm256_castps256_ps128((__m256)values), _mm256_extractf128_ps((__m256)values, 1));
}
inline void keep_in_register(Words& words) { asm("" : "+x"(words)); }
inline void keep_in_register(Floats&) {}  // there are too few of them
#else
inline Floats load(const BFloat16* at) {
  return (Floats)(__builtin_convertvector(load_raw<uint16_t>(at), Words) << 16);
}
inline Floats load(const int8_t* at) {
  return __builtin_convertvector(__builtin_convertvector(load_raw<int8_t>(at), Ints), Floats);
}
inline Words load_bytes(const uint8_t* at) { return __builtin_convertvector(load_raw<uint8_t>(at), Words); }
inline Floats folded(Floats values) { return values; }
inline void keep_in_register(Words&) {}
inline void keep_in_register(Floats&) {}
#endif

template <class T>
inline Floats load_first(const T* at, int64_t count) {
  alignas(64) T padded[kLanes] = {};
  std::memcpy(padded, at, count * sizeof(T));
  return load(padded);
}
inline void store(float* at, Floats values) { *reinterpret_cast<Vectors<float>::Unaligned*>(at) = values; }

// Of the lanes of several vectors: out[i * stride] = sum(values[i]).
template <int kCount>
inline void sums(const Floats* values, float* out, int64_t stride) {
#if defined(GENQUEUE_AVX512) || defined(GENQUEUE_AVX2)
  if constexpr (kCount == 4) {
    __m128 a = folded(values[0]), b = folded(values[1]), c = folded(values[2]), d = folded(values[3]);
    _MM_TRANSPOSE4_PS(a, b, c, d);
    alignas(16) float found[4];
    _mm_store_ps(found, _mm_add_ps(_mm_add_ps(a, c), _mm_add_ps(b, d)));
    for (int i = 0; i < 4; ++i) out[i * stride] = found[i];
    return;
  }
#endif
  for (int i = 0; i < kCount; ++i) {
    auto four = folded(values[i]);
    out[i * stride] = (four[0] + four[2]) + (four[1] + four[3]);
  }
}

inline float to_float(float value) { return value; }
inline float to_float(BFloat16 value) {
  uint32_t bits = uint32_t(value.bits) << 16;
  float result;
  std::memcpy(&result, &bits, 4);
  return result;
}
inline float to_float(Half value) { return value; }

inline BFloat16 to_bfloat16(float value) {  // the nearest, ties to even
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return {uint16_t(value != value ? 0x7FC0 : (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16)};
}

// -- forms of a matrix

// Floats, or int8 with a scale for each output.
template <class T>
struct Plain {
  const T* values;
  const float* scales;
  int64_t outputs, inputs;

  int64_t bytes_of_output() const { return inputs * sizeof(T); }

  // What `dots` wants of a row.
  const float* prepared(const float* row, std::vector<float>&) const { return row; }

  // The products of a row with `count` outputs from each of `first`, `first + apart`, …: kCount streams.
  template <int kCount>
  void dots(int64_t first, int64_t apart, int64_t count, const float* row, float* out) const {
    for (int64_t output = first; output < first + count; ++output) {
      const T* at[kCount];
      Floats low[kCount] = {}, high[kCount] = {};
      for (int r = 0; r < kCount; ++r) at[r] = values + (output + r * apart) * inputs;
      int64_t k = 0;
      for (; k + 2 * kLanes <= inputs; k += 2 * kLanes) {
        Floats x = load(row + k), y = load(row + k + kLanes);
#pragma GCC unroll 8
        for (int r = 0; r < kCount; ++r) {
          low[r] += load(at[r] + k) * x;
          high[r] += load(at[r] + k + kLanes) * y;
        }
      }
      for (; k < inputs; k += kLanes) {
        const int64_t rest = std::min<int64_t>(kLanes, inputs - k);
        Floats x = load_first(row + k, rest);
        for (int r = 0; r < kCount; ++r) low[r] += load_first(at[r] + k, rest) * x;
      }
      for (int r = 0; r < kCount; ++r) low[r] += high[r];
      sums<kCount>(low, out + output, apart);
      if (scales)
        for (int r = 0; r < kCount; ++r) out[output + r * apart] *= scales[output + r * apart];
    }
  }

  void write_out(int64_t output, float* to) const {
    const T* at = values + output * inputs;
    const Floats scale = Floats{} + (scales ? scales[output] : 1.0f);
    int64_t k = 0;
    for (; k + kLanes <= inputs; k += kLanes) store(to + k, load(at + k) * scale);
    if (k < inputs) {
      alignas(64) float lanes[kLanes];
      store(lanes, load_first(at + k, inputs - k) * scale);
      std::memcpy(to + k, lanes, (inputs - k) * sizeof(float));
    }
  }
};

// Two weights a byte, read in words of eight. The bits of a weight, moved to where those of a float32 between 1 and 2
// are, make it 1 + weight / 16. What that is too much by, and the group's zero, is taken off block by block, so that no
// small difference of large sums is left:
//
//   sum((v - zero) * scale * x) = 16 * scale * sum((1 + v / 16) * x) - scale * (16 + zero) * sum(x)
template <int kWords>  // of a group
struct Int4 {
  static constexpr int kGroup = 8 * kWords;
  static constexpr int kGroups = kWords >= kLanes ? 1 : kLanes / kWords;  // of a block, which has a word for each lane
  static constexpr int kPrepared = 9 * kLanes;  // floats for each block

  const uint8_t* values;
  const void* scales;
  ScalarType of_scales;
  const uint8_t* zeros;  // or null, for 8
  int64_t outputs, groups;

  int64_t words() const { return groups * kWords; }
  int64_t bytes_of_output() const { return 4 * words(); }

  // Block by block, what meets each of the eight weights of its words; and the sum of that.
  const float* prepared(const float* row, std::vector<float>& kept) const {
    kept.assign((words() + kLanes - 1) / kLanes * kPrepared, 0.0f);
    for (int64_t word = 0; word < words(); ++word) {
      const float* low = row + word / kWords * kGroup + word % kWords * 4;
      const float* high = low + kGroup / 2;
      float* lane = kept.data() + word / kLanes * kPrepared + word % kLanes;
      for (int b = 0; b < 4; ++b) {
        lane[2 * b * kLanes] = low[b];
        lane[(2 * b + 1) * kLanes] = high[b];
      }
      lane[8 * kLanes] = ((low[0] + low[1]) + (low[2] + low[3])) + ((high[0] + high[1]) + (high[2] + high[3]));
    }
    return kept.data();
  }

  // For each lane, what its group has.
  static Floats spread(const float* of_groups) {
    if constexpr (kGroups == 1) {
      return Floats{} + *of_groups;
    } else {
#if defined(GENQUEUE_AVX512)
      const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
      const __m512i group = _mm512_srli_epi32(lanes, kGroups == 4 ? 2 : 3);
      return (Floats)_mm512_permutexvar_ps(group, _mm512_castps128_ps512(_mm_loadu_ps(of_groups)));
#elif defined(GENQUEUE_AVX2)
      return (Floats)_mm256_insertf128_ps(
          _mm256_castps128_ps256(_mm_broadcast_ss(of_groups)), _mm_broadcast_ss(of_groups + 1), 1);
#endif
    }
  }

  // Of groups that follow on each other: what sums are multiplied by, and what the sums of the row are.
  template <class Scale>
  void factors_of(int64_t first, int64_t count, float* of_sums, float* of_rows) const {
    const Scale* scale = static_cast<const Scale*>(scales) + first;
    for (int64_t g = 0; g < count; ++g) of_sums[g] = 16 * to_float(scale[g]);
    if (zeros)
      for (int64_t g = 0; g < count; ++g) of_rows[g] = of_sums[g] * (-1 - zeros[first + g] / 16.0f);
    else
      for (int64_t g = 0; g < count; ++g) of_rows[g] = of_sums[g] * -1.5f;
  }
  void factors(int64_t first, int64_t count, float* of_sums, float* of_rows) const {
    if (of_scales == ScalarType::BFloat16) return factors_of<BFloat16>(first, count, of_sums, of_rows);
    if (of_scales == ScalarType::Half) return factors_of<Half>(first, count, of_sums, of_rows);
    factors_of<float>(first, count, of_sums, of_rows);
  }

  template <int kShift>
  static Floats weights(Words words) {
    const Words moved = kShift > 0 ? words << (kShift > 0 ? kShift : 0) : words >> (kShift > 0 ? 0 : -kShift);
    return (Floats)((moved & 0x780000u) | 0x3F800000u);
  }

  static Floats of_block(Words words, const Floats* x, Floats of_sums, Floats of_rows) {
    keep_in_register(words);
    Floats some = weights<19>(words) * x[0], others = weights<15>(words) * x[1];
    some += weights<11>(words) * x[2];
    others += weights<7>(words) * x[3];
    some += weights<3>(words) * x[4];
    others += weights<-1>(words) * x[5];
    some += weights<-5>(words) * x[6];
    others += weights<-9>(words) * x[7];
    return of_rows * x[8] + of_sums * (some + others);
  }

  template <int kCount>
  void dots(int64_t first, int64_t apart, int64_t count, const float* prepared, float* out) const {
    constexpr int64_t kFactors = 512;  // groups, for which they are made at once
    const int64_t at_once = std::max<int64_t>(kFactors / groups, 1), whole = words() / kLanes;
    thread_local std::vector<float> kept;
    const int64_t of_stream = at_once * groups;
    kept.resize(2 * kCount * of_stream + kLanes);  // a block at the end reads more factors than there are groups
    float *const all_sums = kept.data(), *const all_rows = all_sums + kCount * of_stream;
    for (int64_t begin = 0; begin < count; begin += at_once) {
      const int64_t here = std::min(at_once, count - begin);
      for (int r = 0; r < kCount; ++r)
        factors(
            (first + begin + r * apart) * groups, here * groups, all_sums + r * of_stream, all_rows + r * of_stream);
      for (int64_t i = 0; i < here; ++i) {
        const int64_t output = first + begin + i;
        const uint8_t* at[kCount];
        for (int r = 0; r < kCount; ++r) at[r] = values + (output + r * apart) * bytes_of_output();
        const float *of_sums = all_sums + i * groups, *of_rows = all_rows + i * groups, *lanes = prepared;
        Floats totals[kCount] = {}, x[9];
        for (int64_t block = 0; block < whole; ++block, lanes += kPrepared) {
#pragma GCC unroll 9
          for (int j = 0; j < 9; ++j) {
            x[j] = load(lanes + j * kLanes);
            keep_in_register(x[j]);
          }
          const int64_t group = block * kLanes / kWords;
#pragma GCC unroll 8
          for (int r = 0; r < kCount; ++r)
            totals[r] += of_block(
                load_raw<uint32_t>(at[r] + block * 4 * kLanes), x, spread(of_sums + r * of_stream + group),
                spread(of_rows + r * of_stream + group));
        }
        if (const int64_t rest = words() - whole * kLanes) {
          for (int j = 0; j < 9; ++j) x[j] = load(lanes + j * kLanes);
          for (int r = 0; r < kCount; ++r) {
            uint32_t words_left[kLanes] = {};
            float sums_left[kLanes] = {}, rows_left[kLanes] = {};
            const int64_t group = whole * kLanes / kWords, left = (groups - group) * sizeof(float);
            std::memcpy(words_left, at[r] + whole * 4 * kLanes, rest * 4);
            std::memcpy(sums_left, of_sums + r * of_stream + group, left);
            std::memcpy(rows_left, of_rows + r * of_stream + group, left);
            totals[r] += of_block(load_raw<uint32_t>(words_left), x, spread(sums_left), spread(rows_left));
          }
        }
        sums<kCount>(totals, out + output, apart);
      }
    }
  }

  void write_out(int64_t output, float* to) const {
    if (of_scales == ScalarType::BFloat16) return write_out_by<BFloat16>(output, to);
    if (of_scales == ScalarType::Half) return write_out_by<Half>(output, to);
    write_out_by<float>(output, to);
  }
  template <class Scale>
  void write_out_by(int64_t output, float* to) const {
    const uint8_t* at = values + output * bytes_of_output();
    for (int64_t group = output * groups; group < (output + 1) * groups; ++group, at += kGroup / 2, to += kGroup) {
      const Floats scale = Floats{} + to_float(static_cast<const Scale*>(scales)[group]);
      const Floats zero = Floats{} + (zeros ? zeros[group] : 8.0f);
#pragma GCC unroll 16
      for (int i = 0; i < kGroup / 2; i += kLanes) {
        const Words bytes = load_bytes(at + i);
        store(to + i, (__builtin_convertvector((Ints)(bytes & 15), Floats) - zero) * scale);
        store(to + i + kGroup / 2, (__builtin_convertvector((Ints)(bytes >> 4), Floats) - zero) * scale);
      }
    }
  }
};

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

void multiply(
    const Tensor& values, const std::optional<Tensor>& scales, const std::optional<Tensor>& zeros, const float* rows,
    int64_t count, int64_t inputs, float* out) {
  const int64_t outputs = values.size(0);
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
      multiply_by(form, rows, count, inputs, out);
    };
    switch (values.size(2)) {
      case 16: return by(Int4<4>{});
      case 32: return by(Int4<8>{});
      case 64: return by(Int4<16>{});
      default: STD_TORCH_CHECK(false, "int4 is in groups of 32, 64 or 128");
    }
  }
  switch (values.scalar_type()) {
    case ScalarType::Float:
      return multiply_by(Plain<float>{data<float>(values), nullptr, outputs, inputs}, rows, count, inputs, out);
    case ScalarType::BFloat16:
      return multiply_by(Plain<BFloat16>{data<BFloat16>(values), nullptr, outputs, inputs}, rows, count, inputs, out);
    case ScalarType::Char:
      STD_TORCH_CHECK(scales && scales->scalar_type() == ScalarType::Float, "scales of int8 are float32");
      return multiply_by(
          Plain<int8_t>{data<int8_t>(values), data<float>(*scales), outputs, inputs}, rows, count, inputs, out);
    default: STD_TORCH_CHECK(false, "weights are float32, bfloat16, int8 or int4");
  }
}

// (rows, in) of float32 or bfloat16, and the fields of a matrix of (out, in) -> (rows, out). All are contiguous.
Tensor linear(
    const Tensor& rows, const Tensor& values, std::optional<Tensor> scales, std::optional<Tensor> zeros) {
  const int64_t count = rows.size(0), inputs = rows.size(1), outputs = values.size(0);
  const int64_t columns = values.dim() == 3 ? values.size(1) * values.size(2) * 2 : values.size(1);
  STD_TORCH_CHECK(columns == inputs, "rows are as long as those of the matrix");
  STD_TORCH_CHECK(
      rows.is_contiguous() && values.is_contiguous() && (!scales || scales->is_contiguous()) &&
          (!zeros || zeros->is_contiguous()),
      "rows and weights are contiguous");
  Tensor out = torch::stable::new_empty(rows, {count, outputs});
  if (count == 0) return out;
  if (rows.scalar_type() == ScalarType::Float) {
    multiply(values, scales, zeros, data<float>(rows), count, inputs, static_cast<float*>(out.mutable_data_ptr()));
    return out;
  }
  STD_TORCH_CHECK(rows.scalar_type() == ScalarType::BFloat16, "rows are float32 or bfloat16");
  std::vector<float> wide(count * inputs), sums(count * outputs);
  std::transform(data<BFloat16>(rows), data<BFloat16>(rows) + wide.size(), wide.begin(), [](BFloat16 value) {
    return to_float(value);
  });
  multiply(values, scales, zeros, wide.data(), count, inputs, sums.data());
  std::transform(sums.begin(), sums.end(), static_cast<BFloat16*>(out.mutable_data_ptr()), to_bfloat16);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY(genqueue, library) {
  library.def("linear(Tensor rows, Tensor values, Tensor? scales, Tensor? zeros) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(genqueue, CPU, library) { library.impl("linear", TORCH_BOX(&linear)); }
