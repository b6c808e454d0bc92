// What a block of int4 weights, a word of eight for each lane, makes of a row: in floats, or in integers.

#pragma once

#include "integers.h"
#include "vectors.h"

#include <cstdint>
#include <cstring>

namespace {

constexpr int kMiddle = 8;  // what a block takes off each weight

// The words of a group, one behind the other, hold its first half in their low bits and its second in their high ones.
template <int kWords>
struct OfGroup {
  static constexpr int kGroup = 8 * kWords;

  // Of what meets a word. T: float, or int32_t.
  template <class T>
  static T sum(const T* low) {
    const T* high = low + kGroup / 2;
    return ((low[0] + low[1]) + (low[2] + low[3])) + ((high[0] + high[1]) + (high[2] + high[3]));
  }
};

// A weight becomes a float where it stands in its word, so that it is as many times itself; what it meets is as many
// times smaller, which is exact.
template <int kWords>
struct BlockOfFloats : OfGroup<kWords> {
  static constexpr int kVectors = 9;  // what meets each of the eight weights of the words; and what is taken off

  // x: a group of the row, whose first word is that one of all.  Returns the unit of its products.
  static float prepare(const float* x, float* blocks, int64_t first) {
    for (int word = 0; word < kWords; ++word) {
      const float *low = x + 4 * word, *high = low + OfGroup<kWords>::kGroup / 2;
      float* to = blocks + (first + word) / kLanes * (kVectors * kLanes) + (first + word) % kLanes;
      for (int byte = 0; byte < 4; ++byte) {
        to[2 * byte * kLanes] = low[byte] / times(2 * byte);
        to[(2 * byte + 1) * kLanes] = high[byte] / times(2 * byte + 1);
      }
      to[8 * kLanes] = -kMiddle * OfGroup<kWords>::sum(low);
    }
    return 1;
  }

  static constexpr float times(int weight) { return weight < 7 ? uint32_t{1} << 4 * weight : 1; }

  template <int kWeight>
  static Floats weights(Words words) {
    // The last one would have a sign there.
    return __builtin_convertvector((Ints)(kWeight < 7 ? words & (15u << 4 * kWeight) : words >> 28), Floats);
  }

  static Floats product(Words words, const Floats* x) {
    keep_in_register(words);
    Floats some = weights<0>(words) * x[0] + x[8], others = weights<1>(words) * x[1];
    some += weights<2>(words) * x[2];
    others += weights<3>(words) * x[3];
    some += weights<4>(words) * x[4];
    others += weights<5>(words) * x[5];
    some += weights<6>(words) * x[6];
    others += weights<7>(words) * x[7];
    return some + others;
  }
};

#if defined(GENQUEUE_VNNI)
template <int kWords>
struct BlockOfIntegers : OfGroup<kWords> {
  static constexpr int kVectors = 2 * kDigits + 1;  // digits for low and for high weights; and what is taken off

  static_assert(kWords <= kLanes, "a group lies within a block");

  static float prepare(const float* x, float* blocks, int64_t first) {
    constexpr int kGroup = OfGroup<kWords>::kGroup, kHalf = kGroup / 2;
    float* block = blocks + first / kLanes * (kVectors * kLanes) + first % kLanes;
    const Integers integers(x, kGroup);
    int32_t numbers[kGroup];
    for (int i = 0; i < kGroup; i += kLanes) {
      const Ints some = integers.of(x + i);
      _mm512_storeu_si512(numbers + i, (__m512i)some);
      uint8_t* to = reinterpret_cast<uint8_t*>(block + i / kHalf * kDigits * kLanes) + i % kHalf;
      store_digits(some, to, kLanes * sizeof(float));
    }
    for (int word = 0; word < kWords; ++word) {
      const int32_t off = -kMiddle * OfGroup<kWords>::sum(numbers + 4 * word);
      std::memcpy(block + 2 * kDigits * kLanes + word, &off, sizeof off);
    }
    return integers.unit;
  }

  static Floats product(Words words, const Floats* x) {
    const __m512i low = (__m512i)(words & 0x0F0F0F0Fu), high = (__m512i)(words >> 4 & 0x0F0F0F0Fu);
    Ints sum = {};
#pragma GCC unroll 4
    for (int digit = kDigits - 1; digit >= 0; --digit) {  // each by itself: instructions wait for none before
      const __m512i from = digit ? _mm512_setzero_si512() : (__m512i)x[2 * kDigits];
      sum = (sum << 8) + (Ints)_mm512_dpbusd_epi32(
                             _mm512_dpbusd_epi32(from, low, (__m512i)x[digit]), high, (__m512i)x[kDigits + digit]);
    }
    return (Floats)_mm512_cvtepi32_ps((__m512i)sum);
  }
};

template <int kWords>
using Block = BlockOfIntegers<kWords>;
#else
template <int kWords>
using Block = BlockOfFloats<kWords>;
#endif

}  // namespace
