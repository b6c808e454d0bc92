// A matrix of int4 in groups, two weights a byte, read in words of eight.

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

  const uint8_t* values;
  const void* scales;
  ScalarType of_scales;
  const uint8_t* zeros;  // or null, for 8
  int64_t outputs, groups;

  int64_t words() const { return groups * kWords; }
  int64_t bytes_of_output() const { return 4 * words(); }

  const float* prepared(const float* row, std::vector<float>& kept) const {
    kept.assign((words() + kLanes - 1) / kLanes * kPrepared, 0.0f);
    for (int64_t group = 0; group < groups; ++group)
      Block<kWords>::prepare(row + group * kGroup, kept.data(), group * kWords);
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

  static constexpr float of_zero(float zero) { return Block<kWords>::kTooMuch + zero / Block<kWords>::kUnit; }

  // Of groups that follow on each other: what sums are multiplied by, and what the sums of the row are.
  template <class Scale>
  void factors_of(int64_t first, int64_t count, float* of_sums, float* of_rows) const {
    const Scale* scale = static_cast<const Scale*>(scales) + first;
    for (int64_t g = 0; g < count; ++g) of_sums[g] = Block<kWords>::kUnit * to_float(scale[g]);
    if (zeros)
      for (int64_t g = 0; g < count; ++g) of_rows[g] = of_sums[g] * -of_zero(zeros[first + g]);
    else
      for (int64_t g = 0; g < count; ++g) of_rows[g] = of_sums[g] * -of_zero(8);
  }
  void factors(int64_t first, int64_t count, float* of_sums, float* of_rows) const {
    if (of_scales == ScalarType::BFloat16) return factors_of<BFloat16>(first, count, of_sums, of_rows);
    if (of_scales == ScalarType::Half) return factors_of<Half>(first, count, of_sums, of_rows);
    factors_of<float>(first, count, of_sums, of_rows);
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
        Floats totals[kCount] = {}, x[kVectors];
        for (int64_t block = 0; block < whole; ++block, lanes += kPrepared) {
#pragma GCC unroll 9
          for (int j = 0; j < kVectors; ++j) {
            x[j] = load(lanes + j * kLanes);
            keep_in_register(x[j]);
          }
          const int64_t group = block * kLanes / kWords;
#pragma GCC unroll 8
          for (int r = 0; r < kCount; ++r)
            totals[r] += Block<kWords>::product(
                load_raw<uint32_t>(at[r] + block * 4 * kLanes), x, spread(of_sums + r * of_stream + group),
                spread(of_rows + r * of_stream + group));
        }
        if (const int64_t rest = words() - whole * kLanes) {
          for (int j = 0; j < kVectors; ++j) x[j] = load(lanes + j * kLanes);
          for (int r = 0; r < kCount; ++r) {
            uint32_t words_left[kLanes] = {};
            float sums_left[kLanes] = {}, rows_left[kLanes] = {};
            const int64_t group = whole * kLanes / kWords, left = (groups - group) * sizeof(float);
            std::memcpy(words_left, at[r] + whole * 4 * kLanes, rest * 4);
            std::memcpy(sums_left, of_sums + r * of_stream + group, left);
            std::memcpy(rows_left, of_rows + r * of_stream + group, left);
            totals[r] += Block<kWords>::product(load_raw<uint32_t>(words_left), x, spread(sums_left), spread(rows_left));
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
