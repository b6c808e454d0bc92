// What a block of int4 weights, a word of eight for each lane, makes of a row: in floats, or in integers.

#pragma once

#include "vectors.h"

#include <cstdint>

namespace {

// The words of a group, one behind the other, hold its first half in their low bits and its second in their high ones.
template <int kWords>
struct OfGroup {
  static constexpr int kGroup = 8 * kWords;

  // Of what meets each word, for the zero that is taken off.
  static float sum(const float* low) {
    const float* high = low + kGroup / 2;
    return ((low[0] + low[1]) + (low[2] + low[3])) + ((high[0] + high[1]) + (high[2] + high[3]));
  }
};

// The bits of a weight, moved to where those of a float32 between 1 and 2 are, make it 1 + weight / 16. What that is too
// much by, and the group's zero, is taken off block by block, so that no small difference of large sums is left:
//
//   sum((v - zero) * scale * x) = 16 * scale * sum((1 + v / 16) * x) - scale * (16 + zero) * sum(x)
template <int kWords>
struct BlockOfFloats : OfGroup<kWords> {
  static constexpr int kVectors = 9;  // what meets each of the eight weights of the words; and the sum of that
  static constexpr float kUnit = 16, kTooMuch = 1;

  // x: a group of the row, whose first word is that one of all.
  static void prepare(const float* x, float* blocks, int64_t first) {
    for (int word = 0; word < kWords; ++word) {
      const float *low = x + 4 * word, *high = low + OfGroup<kWords>::kGroup / 2;
      float* to = blocks + (first + word) / kLanes * (kVectors * kLanes) + (first + word) % kLanes;
      for (int byte = 0; byte < 4; ++byte) {
        to[2 * byte * kLanes] = low[byte];
        to[(2 * byte + 1) * kLanes] = high[byte];
      }
      to[8 * kLanes] = OfGroup<kWords>::sum(low);
    }
  }

  template <int kShift>
  static Floats weights(Words words) {
    const Words moved = kShift > 0 ? words << (kShift > 0 ? kShift : 0) : words >> (kShift > 0 ? 0 : -kShift);
    return (Floats)((moved & 0x780000u) | 0x3F800000u);
  }

  static Floats product(Words words, const Floats* x, Floats of_sums, Floats of_rows) {
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
};

#if defined(GENQUEUE_AVX512) && defined(__AVX512VNNI__)
// A row's numbers become integers of 24 bits, by a unit for each group: as exact as float32 is. Their three digits meet
// four weights in one instruction, and sums of integers are exact.
template <int kWords>
struct BlockOfIntegers : OfGroup<kWords> {
  static constexpr int kDigits = 3;
  static constexpr int kVectors = 2 * kDigits + 2;  // digits for low and for high weights; units; sums
  static constexpr float kUnit = 1, kTooMuch = 0;
  static constexpr float kLargest = 8355000;  // a digit is at most 127 then; and eight times 15 of it fit 32 bits

  static_assert(kWords <= kLanes, "a group lies within a block");

  static void prepare(const float* x, float* blocks, int64_t first) {
    constexpr int kHalf = OfGroup<kWords>::kGroup / 2;
    float* block = blocks + first / kLanes * (kVectors * kLanes);
    const int lane = first % kLanes;
    const float unit = largest(x) / kLargest;
    const Floats inverse = Floats{} + (unit > 1e-37f ? 1 / unit : 0.0f);
    for (int half = 0; half < 2; ++half)
      for (int column = 0; column < kHalf; column += kLanes) {
        Ints integers = (Ints)_mm512_cvtps_epi32((__m512)(load(x + half * kHalf + column) * inverse));
        uint8_t* to = reinterpret_cast<uint8_t*>(block + half * kDigits * kLanes + lane) + column;
        for (int digit = 0; digit < kDigits; ++digit, to += kLanes * sizeof(float)) {
          const Ints last = integers << 24 >> 24;  // from -128 to 127
          _mm_storeu_si128((__m128i*)to, _mm512_cvtepi32_epi8((__m512i)last));
          integers = (integers - last) >> 8;
        }
      }
    for (int word = 0; word < kWords; ++word) {
      block[2 * kDigits * kLanes + lane + word] = unit;
      block[(2 * kDigits + 1) * kLanes + lane + word] = OfGroup<kWords>::sum(x + 4 * word);  // carries what is no number
    }
  }

  static float largest(const float* x) {
    Floats most = {};
    for (int i = 0; i < OfGroup<kWords>::kGroup; i += kLanes)
      most = (Floats)_mm512_max_ps((__m512)most, _mm512_abs_ps((__m512)load(x + i)));
    return _mm512_reduce_max_ps((__m512)most);
  }

  static Floats product(Words words, const Floats* x, Floats of_sums, Floats of_rows) {
    const __m512i low = (__m512i)(words & 0x0F0F0F0Fu), high = (__m512i)(words >> 4 & 0x0F0F0F0Fu);
    Ints sum = {};
#pragma GCC unroll 4
    for (int digit = kDigits - 1; digit >= 0; --digit)  // each by itself: instructions wait for none before
      sum = (sum << 8) + (Ints)_mm512_dpbusd_epi32(
                             _mm512_dpbusd_epi32(_mm512_setzero_si512(), low, (__m512i)x[digit]), high,
                             (__m512i)x[kDigits + digit]);
    const Floats product = (Floats)_mm512_cvtepi32_ps((__m512i)sum) * x[2 * kDigits];
    return of_rows * x[2 * kDigits + 1] + of_sums * product;
  }
};

template <int kWords>
using Block = BlockOfIntegers<kWords>;
#else
template <int kWords>
using Block = BlockOfFloats<kWords>;
#endif

}  // namespace
