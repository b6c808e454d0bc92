// A matrix of int8 with a scale for each output.

#pragma once

#include "integers.h"
#include "plain.h"

#include <algorithm>
#include <cstdint>
#include <vector>

namespace {

#if defined(GENQUEUE_VNNI)
// The columns of a block meet the digits of a row in three instructions, and sums of a digit are kept for some blocks.
// An instruction wants weights without sign, which are 128 too much: the row's digits times that are taken off.
struct Int8 : Plain<int8_t> {
  static constexpr int kColumns = 4 * kLanes, kBlocks = 4;  // of a block; of a segment, which has one unit
  static constexpr int kSegment = kBlocks * kColumns, kVectors = (kBlocks + 1) * kDigits;
  static constexpr int kPrepared = kVectors * kLanes;  // floats for each segment

  int64_t segments() const { return (inputs + kSegment - 1) / kSegment; }

  // Of each segment: the digits of its blocks, and what is taken off; then the units of all.
  const float* prepared(const float* row, std::vector<float>& kept) const {
    kept.assign(segments() * (kPrepared + 1), 0.0f);
    float x[kSegment];
    for (int64_t segment = 0; segment < segments(); ++segment) {
      const int64_t here = std::min<int64_t>(kSegment, inputs - segment * kSegment);
      std::copy_n(row + segment * kSegment, here, x);
      std::fill(x + here, x + kSegment, 0.0f);
      kept[segments() * kPrepared + segment] = prepare(x, kept.data() + segment * kPrepared);
    }
    return kept.data();
  }

  static float prepare(const float* x, float* to) {
    const Integers integers(x, kSegment);
    for (int i = 0; i < kSegment; i += kLanes)
      store_digits(
          integers.of(x + i), reinterpret_cast<uint8_t*>(to + i / kColumns * kDigits * kLanes) + i % kColumns,
          kLanes * sizeof(float));
    for (int digit = 0; digit < kDigits; ++digit) {
      __m512i sum = _mm512_setzero_si512();
      for (int block = 0; block < kBlocks; ++block)
        sum = _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(-128), (__m512i)digits(to, block, digit));
      _mm512_storeu_si512(to + (kBlocks * kDigits + digit) * kLanes, _mm512_sub_epi32(_mm512_setzero_si512(), sum));
    }
    return integers.unit;
  }

  static Words digits(const float* segment, int block, int digit) {
    Words loaded = load_raw<uint32_t>(segment + (block * kDigits + digit) * kLanes);
    keep_in_register(loaded);
    return loaded;
  }

  // For each lane, in units.  left: columns that are there, if not all.
  template <int kCount, bool kIsWhole>
  static void products(const int8_t* const* at, const float* segment, int64_t left, Floats* found) {
    __m512i sums[kCount][kDigits];
#pragma GCC unroll 4
    for (int digit = 0; digit < kDigits; ++digit)
#pragma GCC unroll 4
      for (int r = 0; r < kCount; ++r) sums[r][digit] = (__m512i)digits(segment, kBlocks, digit);
#pragma GCC unroll 4
    for (int block = 0; block < kBlocks; ++block) {
      const int64_t here = left - block * kColumns;
      if (!kIsWhole && here <= 0) break;
      const __mmask64 mask = here < kColumns ? (__mmask64(1) << here) - 1 : ~__mmask64(0);
      Words x[kDigits];
#pragma GCC unroll 4
      for (int digit = 0; digit < kDigits; ++digit) x[digit] = digits(segment, block, digit);
#pragma GCC unroll 4
      for (int r = 0; r < kCount; ++r) {
        const int8_t* from = at[r] + block * kColumns;
        const __m512i signed_ones = kIsWhole ? _mm512_loadu_si512(from) : _mm512_maskz_loadu_epi8(mask, from);
        const __m512i weights = _mm512_xor_si512(signed_ones, _mm512_set1_epi8(-128));
#pragma GCC unroll 4
        for (int digit = 0; digit < kDigits; ++digit)
          sums[r][digit] = _mm512_dpbusd_epi32(sums[r][digit], weights, (__m512i)x[digit]);
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < kCount; ++r) {
      const Ints upper = ((Ints)sums[r][2] << 8) + (Ints)sums[r][1];
      found[r] = (Floats)_mm512_cvtepi32_ps((__m512i)upper) * 256.0f + (Floats)_mm512_cvtepi32_ps(sums[r][0]);
    }
  }

  template <int kCount>
  void dots(int64_t first, int64_t apart, int64_t count, const float* prepared, float* out) const {
    const float* units = prepared + segments() * kPrepared;
    const int64_t whole = inputs / kSegment;
    for (int64_t output = first; output < first + count; ++output) {
      const int8_t* at[kCount];
      for (int r = 0; r < kCount; ++r) at[r] = values + (output + r * apart) * inputs;
      Floats totals[kCount] = {}, found[kCount];
      for (int64_t segment = 0; segment < segments(); ++segment) {
        if (segment < whole)
          products<kCount, true>(at, prepared + segment * kPrepared, kSegment, found);
        else
          products<kCount, false>(at, prepared + segment * kPrepared, inputs - segment * kSegment, found);
        for (int r = 0; r < kCount; ++r) {
          totals[r] += found[r] * units[segment];
          at[r] += kSegment;
        }
      }
      sums<kCount>(totals, out + output, apart);
      for (int r = 0; r < kCount; ++r) out[output + r * apart] *= scales[output + r * apart];
    }
  }
};
#else
struct Int8 : Plain<int8_t> {};
#endif

}  // namespace
