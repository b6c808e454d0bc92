// A row's numbers as integers of 24 bits, as exact as float32 is. Their three digits meet four weights of 8 bits in one
// instruction, and sums of integers are exact.

#pragma once

#include "vectors.h"

#include <cstdint>

#if defined(GENQUEUE_VNNI)
namespace {

constexpr int kDigits = 3;

// Some numbers share a unit.
struct Integers {
  static constexpr float kLargest = 8355000;  // a digit is at most 127 then; and eight times 15 of it fit 32 bits

  float unit;  // no number, where one of them is none
  Floats inverse;

  // count: a multiple of kLanes.
  Integers(const float* x, int count) {
    Floats most = {}, nothing = {};
    for (int i = 0; i < count; i += kLanes) {
      most = (Floats)_mm512_max_ps((__m512)most, _mm512_abs_ps((__m512)load(x + i)));
      nothing += 0 * load(x + i);
    }
    unit = _mm512_reduce_max_ps((__m512)most) / kLargest;
    inverse = Floats{} + (unit > 1e-37f ? 1 / unit : 0.0f);
    unit += _mm512_reduce_add_ps((__m512)nothing);
  }

  Ints of(const float* x) const { return (Ints)_mm512_cvtps_epi32((__m512)(load(x) * inverse)); }
};

// The digits of some integers, the lowest first; those of each lie together, as many bytes apart.
inline void store_digits(Ints integers, uint8_t* to, int64_t apart) {
  for (int digit = 0; digit < kDigits; ++digit, to += apart) {
    const Ints last = integers << 24 >> 24;  // from -128 to 127
    _mm_storeu_si128((__m128i*)to, _mm512_cvtepi32_epi8((__m512i)last));
    integers = (integers - last) >> 8;
  }
}

}  // namespace
#endif
