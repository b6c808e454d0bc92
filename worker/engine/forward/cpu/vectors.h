// Vectors of this processor, and numbers of 16 bits. They are those of GCC and Clang: this compiles for any processor.

#pragma once

#include <torch/headeronly/util/Half.h>

#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

using torch::headeronly::Half;

#if defined(__AVX512BW__)
#define GENQUEUE_AVX512
#if defined(__AVX512VNNI__)
#define GENQUEUE_VNNI
#endif
constexpr int kLanes = 16;
#elif defined(__AVX2__)
#define GENQUEUE_AVX2
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

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
// What is used more than once: GCC would rather load it each time, and loads are what there are fewest of.
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
inline Floats first_lanes(Floats values, int64_t count) {  // zero in the others
  Words lane;
  for (int i = 0; i < kLanes; ++i) lane[i] = i;
  return lane < uint32_t(count) ? values : Floats{};
}

struct TwoVectors {
  Floats first, second;
};
template <class T>
inline TwoVectors load_two(const T* at) {
  return {load(at), load(at + kLanes)};
}
// Those at even places, and those at odd ones: each is a word's half, which costs one instruction.
inline TwoVectors load_two(const BFloat16* at) {
  Words both = load_raw<uint32_t>(at);
  keep_in_register(both);
  return {(Floats)(both << 16), (Floats)(both & 0xFFFF0000u)};
}
inline TwoVectors even_and_odd(const float* at) {
#if defined(GENQUEUE_AVX512)
  const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  const __m512i odd = _mm512_or_si512(even, _mm512_set1_epi32(1));
  const __m512 low = (__m512)load(at), high = (__m512)load(at + kLanes);
  return {(Floats)_mm512_permutex2var_ps(low, even, high), (Floats)_mm512_permutex2var_ps(low, odd, high)};
#else
  TwoVectors found;
  for (int i = 0; i < kLanes; ++i) {
    found.first[i] = at[2 * i];
    found.second[i] = at[2 * i + 1];
  }
  return found;
#endif
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

}  // namespace
