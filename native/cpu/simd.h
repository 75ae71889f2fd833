// A handful of floats at a time, in the widest registers the translation unit is compiled for.
// Every operation is written out (multiply-add is one fused operation with AVX2 and AVX-512, a
// product and a sum in the portable build), so the compiler has no say in the rounding and the same
// inputs give the same bits in every kernel of one instruction set.
#pragma once
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#define RING_UNROLL _Pragma("GCC unroll 32")
// Whoever takes vectors by reference must be inlined, or they live in memory.
#define RING_INLINE __attribute__((always_inline)) inline

namespace ring {
namespace RING_ISA_NAMESPACE {

#if defined(__AVX512F__)

constexpr int kLanes = 16;

struct Floats {
  __m512 v;
};
inline Floats zero() { return {_mm512_setzero_ps()}; }
inline Floats splat(float value) { return {_mm512_set1_ps(value)}; }
inline Floats load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, Floats a) { _mm512_storeu_ps(p, a.v); }
inline Floats add(Floats a, Floats b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Floats mul(Floats a, Floats b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Floats fma(Floats a, Floats b, Floats c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline Floats divide(Floats a, Floats b) { return {_mm512_div_ps(a.v, b.v)}; }
// The second where either is NaN, and so for smaller_of.
inline Floats larger_of(Floats a, Floats b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Floats smaller_of(Floats a, Floats b) { return {_mm512_min_ps(a.v, b.v)}; }
// a times 2^n, n whole and at most 150 from 0.
inline Floats times_power(Floats a, Floats n) { return {_mm512_scalef_ps(a.v, n.v)}; }
inline Floats load_bf16(const uint8_t* p) {
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16))};
}
// Keeps the compiler from reading the value again from memory at each use.
inline Floats held_in_register(Floats a) {
  asm("" : "+v"(a.v));
  return a;
}

// Sum of the lanes, always by the same tree: halves, quarters, pairs.
inline float sum(Floats a) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

// Four such sums at once, by the same tree.
inline void store_sums(const Floats (&v)[4], float* out) {
  const __m512 ab = _mm512_add_ps(_mm512_shuffle_f32x4(v[0].v, v[1].v, 0x44),
                                  _mm512_shuffle_f32x4(v[0].v, v[1].v, 0xee));
  const __m512 cd = _mm512_add_ps(_mm512_shuffle_f32x4(v[2].v, v[3].v, 0x44),
                                  _mm512_shuffle_f32x4(v[2].v, v[3].v, 0xee));
  const __m512 four =
      _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
  const __m512 two = _mm512_add_ps(four, _mm512_permute_ps(four, 0x4e));
  const __m512 one = _mm512_add_ps(two, _mm512_permute_ps(two, 0xb1));
  const __m512i first = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
  _mm_storeu_ps(out, _mm512_castps512_ps128(_mm512_permutexvar_ps(first, one)));
}

#elif defined(__AVX2__)

constexpr int kLanes = 8;

struct Floats {
  __m256 v;
};
inline Floats zero() { return {_mm256_setzero_ps()}; }
inline Floats splat(float value) { return {_mm256_set1_ps(value)}; }
inline Floats load(const float* p) { return {_mm256_loadu_ps(p)}; }
inline void store(float* p, Floats a) { _mm256_storeu_ps(p, a.v); }
inline Floats add(Floats a, Floats b) { return {_mm256_add_ps(a.v, b.v)}; }
inline Floats mul(Floats a, Floats b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline Floats fma(Floats a, Floats b, Floats c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
inline Floats divide(Floats a, Floats b) { return {_mm256_div_ps(a.v, b.v)}; }
inline Floats larger_of(Floats a, Floats b) { return {_mm256_max_ps(a.v, b.v)}; }
inline Floats smaller_of(Floats a, Floats b) { return {_mm256_min_ps(a.v, b.v)}; }
// In two halves, since 2^n itself may be too large or too small for a float.
inline Floats times_power(Floats a, Floats n) {
  const __m256i whole = _mm256_cvtps_epi32(n.v), half = _mm256_srai_epi32(whole, 1);
  const auto power = [](__m256i k) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(k, _mm256_set1_epi32(127)), 23));
  };
  return {_mm256_mul_ps(_mm256_mul_ps(a.v, power(half)), power(_mm256_sub_epi32(whole, half)))};
}
inline Floats load_bf16(const uint8_t* p) {
  const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16))};
}
inline Floats held_in_register(Floats a) {
  asm("" : "+x"(a.v));
  return a;
}
inline float sum(Floats a) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

#else

constexpr int kLanes = 4;

// The compiler's own short vectors: SSE on x86-64, NEON on ARM, plain code elsewhere.
typedef float Float4 __attribute__((vector_size(16)));
typedef int32_t Int4 __attribute__((vector_size(16)));
typedef uint32_t Word4 __attribute__((vector_size(16)));
struct Floats {
  Float4 v;
};
inline Floats splat(float value) { return {Float4{value, value, value, value}}; }
inline Floats zero() { return splat(0.0f); }
inline Floats load(const float* p) {
  Floats r;
  memcpy(&r.v, p, sizeof r.v);
  return r;
}
inline void store(float* p, Floats a) { memcpy(p, &a.v, sizeof a.v); }
inline Floats add(Floats a, Floats b) { return {a.v + b.v}; }
inline Floats mul(Floats a, Floats b) { return {a.v * b.v}; }
inline Floats fma(Floats a, Floats b, Floats c) { return {c.v + a.v * b.v}; }
inline Floats divide(Floats a, Floats b) { return {a.v / b.v}; }
inline Floats larger_of(Floats a, Floats b) { return {a.v > b.v ? a.v : b.v}; }
inline Floats smaller_of(Floats a, Floats b) { return {a.v < b.v ? a.v : b.v}; }
inline Floats times_power(Floats a, Floats n) {
  const Int4 whole = __builtin_convertvector(n.v, Int4), half = whole >> 1;
  const auto power = [](Int4 k) {
    return reinterpret_cast<Float4>(reinterpret_cast<Word4>(k + 127) << 23);
  };
  return {a.v * power(half) * power(whole - half)};
}
inline Floats load_bf16(const uint8_t* p) {
  uint16_t half[4];
  memcpy(half, p, sizeof half);
  const Word4 bits = Word4{half[0], half[1], half[2], half[3]} << 16;
  return {reinterpret_cast<Float4>(bits)};
}
inline Floats held_in_register(Floats a) { return a; }
inline float sum(Floats a) { return (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]); }

#endif

// e to the power of x, within about one unit of the last place; 0 from -104 down, infinite from 89
// up, NaN for NaN. 2^n comes off, n = x / ln 2 rounded, and the rest is at most ln 2 / 2, where
// eight terms of the series do.
inline Floats exp(Floats x) {
  x = smaller_of(splat(89.0f), larger_of(splat(-104.0f), x));
  const Floats round = splat(0x1.8p23f);  // its last place is 1
  const Floats n = add(fma(x, splat(0x1.715476p0f), round), splat(-0x1.8p23f));
  // ln 2 in two parts: the first has so few bits that its products are exact.
  const Floats rest = fma(n, splat(2.12194440e-4f), fma(n, splat(-0.693359375f), x));
  Floats sum = splat(1.0f / 5040);
  for (const float term : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f})
    sum = fma(sum, rest, splat(term));
  return times_power(sum, n);
}

#if !defined(__AVX512F__)
inline void store_sums(const Floats (&v)[4], float* out) {
  for (int i = 0; i < 4; ++i) out[i] = sum(v[i]);
}
#endif

}  // namespace RING_ISA_NAMESPACE
}  // namespace ring
