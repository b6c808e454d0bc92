// A matrix of floats; or of int8 with a scale for each output, which become floats.

#pragma once

#include "vectors.h"

#include <algorithm>
#include <type_traits>
#include <vector>

namespace {

template <class T>
struct Plain {
  const T* values;
  const float* scales;
  int64_t outputs, inputs;

  int64_t bytes_of_output() const { return inputs * sizeof(T); }

  // What `dots` wants of a row: what meets the two vectors of `load_two`, one behind the other.
  const float* prepared(const float* row, std::vector<float>& kept) const {
    if constexpr (!std::is_same_v<T, BFloat16>) return row;
    kept.assign(row, row + inputs);
    for (int64_t k = 0; k + 2 * kLanes <= inputs; k += 2 * kLanes) {
      const TwoVectors parts = even_and_odd(row + k);
      store(kept.data() + k, parts.first);
      store(kept.data() + k + kLanes, parts.second);
    }
    return kept.data();
  }

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
        keep_in_register(x);
        keep_in_register(y);
#pragma GCC unroll 8
        for (int r = 0; r < kCount; ++r) {
          const TwoVectors w = load_two(at[r] + k);
          low[r] += w.first * x;
          high[r] += w.second * y;
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

}  // namespace
