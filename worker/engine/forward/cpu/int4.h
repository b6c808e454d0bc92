// A matrix of int4 in groups, two weights a byte, read in words of eight.
//
//   sum((v - zero) * scale * x) = scale * sum((v - 8) * x) + scale * (8 - zero) * sum(x)
//
// of which blocks of words make the first sum; the second is one number for each group, and 0 without zeros.

#pragma once

#include <torch/headeronly/core/ScalarType.h>

#include "int4_block.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace {

using torch::headeronly::ScalarType;

template <int kWords>  // of a group
struct Int4 {
  static constexpr int kGroup = 8 * kWords;
  static constexpr int kGroups = kWords >= kLanes ? 1 : kLanes / kWords;  // of a block, which has a word for each lane
  static constexpr int kVectors = Block<kWords>::kVectors, kPrepared = kVectors * kLanes;  // floats for each block
  static constexpr int64_t kFactors = 512;  // groups, for which they are made at once

  const uint8_t* values;
  const void* scales;
  ScalarType of_scales;
  const uint8_t* zeros;  // or null, for 8
  int64_t outputs, groups;

  int64_t words() const { return groups * kWords; }
  int64_t bytes_of_output() const { return 4 * words(); }

  // Blocks of the row; then the units of its groups, and their sums, both as often as outputs are done at once.
  const float* prepared(const float* row, std::vector<float>& kept) const {
    kept.assign(floats_of_blocks() + 2 * groups_at_once(), 0.0f);
    float *const units = kept.data() + floats_of_blocks(), *const of_row = units + groups_at_once();
    for (int64_t group = 0; group < groups; ++group) {
      const float* x = row + group * kGroup;
      Floats sum = {};
      for (int i = 0; i < kGroup; i += kLanes) sum += load(x + i);
      sums<1>(&sum, of_row + group, 1);
      units[group] = Block<kWords>::prepare(x, kept.data(), group * kWords);
    }
    for (int64_t g = groups; g < groups_at_once(); ++g) {
      units[g] = units[g - groups];
      of_row[g] = of_row[g - groups];
    }
    return kept.data();
  }
  int64_t floats_of_blocks() const { return (words() + kLanes - 1) / kLanes * kPrepared; }
  int64_t outputs_at_once() const { return std::max<int64_t>(kFactors / groups, 1); }
  int64_t groups_at_once() const { return outputs_at_once() * groups; }

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

  // Of groups that follow on each other: what products are multiplied by, and what is added, as zeros are not kMiddle.
  template <class Scale>
  void factors_of(int64_t first, int64_t count, const float* units, float* by, float* more) const {
    const Scale* scale = static_cast<const Scale*>(scales) + first;
    for (int64_t g = 0; g < count; ++g) by[g] = to_float(scale[g]);
    if (zeros) {
      const float* of_row = units + groups_at_once();
      const uint8_t* zero = zeros + first;
      int64_t g = 0;
      for (; g + kLanes <= count; g += kLanes) {
        const Floats off = __builtin_convertvector(kMiddle - (Ints)load_bytes(zero + g), Floats);
        store(more + g, load(by + g) * load(of_row + g) * off);
      }
      for (; g < count; ++g) more[g] = by[g] * of_row[g] * (kMiddle - int(zero[g]));
    }
    for (int64_t g = 0; g < count; ++g) by[g] *= units[g];
  }
  void factors(int64_t first, int64_t count, const float* units, float* by, float* more) const {
    if (of_scales == ScalarType::BFloat16) return factors_of<BFloat16>(first, count, units, by, more);
    if (of_scales == ScalarType::Half) return factors_of<Half>(first, count, units, by, more);
    factors_of<float>(first, count, units, by, more);
  }

  // The sum of some numbers, over the lanes of what is returned. Behind them is memory for a vector.
  static Floats gathered(const float* numbers, int64_t count) {
    Floats total = {};
    int64_t g = 0;
    for (; g + kLanes <= count; g += kLanes) total += load(numbers + g);
    if (g < count) total += first_lanes(load(numbers + g), count - g);
    return total;
  }

  template <int kCount>
  void dots(int64_t first, int64_t apart, int64_t count, const float* prepared, float* out) const {
    const int64_t at_once = outputs_at_once(), of_stream = groups_at_once(), whole = words() / kLanes;
    const float* units = prepared + floats_of_blocks();
    thread_local std::vector<float> kept;
    kept.resize(2 * kCount * of_stream + kLanes);  // a vector at the end reads more factors than there are groups
    float *const all_by = kept.data(), *const all_more = all_by + kCount * of_stream;
    for (int64_t begin = 0; begin < count; begin += at_once) {
      const int64_t here = std::min(at_once, count - begin);
      for (int r = 0; r < kCount; ++r)
        factors(
            (first + begin + r * apart) * groups, here * groups, units, all_by + r * of_stream, all_more + r * of_stream);
      for (int64_t i = 0; i < here; ++i) {
        const int64_t output = first + begin + i;
        const uint8_t* at[kCount];
        for (int r = 0; r < kCount; ++r) at[r] = values + (output + r * apart) * bytes_of_output();
        const float *by = all_by + i * groups, *more = all_more + i * groups, *lanes = prepared;
        Floats totals[kCount] = {}, x[kVectors];
        if (zeros)
          for (int r = 0; r < kCount; ++r) totals[r] = gathered(more + r * of_stream, groups);
        for (int64_t block = 0; block < whole; ++block, lanes += kPrepared) {
#pragma GCC unroll 9
          for (int j = 0; j < kVectors; ++j) {
            x[j] = load(lanes + j * kLanes);
            keep_in_register(x[j]);
          }
          const float* of_block = by + block * kLanes / kWords;
#pragma GCC unroll 8
          for (int r = 0; r < kCount; ++r)
            totals[r] += spread(of_block + r * of_stream) *
                         Block<kWords>::product(load_raw<uint32_t>(at[r] + block * 4 * kLanes), x);
        }
        if (const int64_t rest = words() - whole * kLanes) {
          for (int j = 0; j < kVectors; ++j) x[j] = load(lanes + j * kLanes);
          for (int r = 0; r < kCount; ++r) {
            uint32_t words_left[kLanes] = {};
            float by_left[kLanes] = {};
            const int64_t group = whole * kLanes / kWords;
            std::memcpy(words_left, at[r] + whole * 4 * kLanes, rest * 4);
            std::memcpy(by_left, by + r * of_stream + group, (groups - group) * sizeof(float));
            totals[r] += spread(by_left) * Block<kWords>::product(load_raw<uint32_t>(words_left), x);
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

}  // namespace
