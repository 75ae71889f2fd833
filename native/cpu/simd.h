// Sixteen floats at a time, in the widest registers the translation unit is compiled for. Every
// operation is written out (multiply-add is one fused operation with AVX2 and AVX-512, a product
// and a sum in the portable build), so the compiler has no say in the rounding and the same inputs
// give the same bits in every kernel of one instruction set.
#pragma once
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace ring {
namespace RING_ISA_NAMESPACE {

constexpr int kLanes = 16;

// e4m3fn bits shifted into a float's exponent and mantissa are the value times 2^-120; exact,
// subnormals included. The code 0x7F is NaN and must stay so.
constexpr float kE4m3Scale = 0x1p120f;

#if defined(__AVX512F__)

struct F32x16 {
  __m512 v;
};
inline F32x16 zero() { return {_mm512_setzero_ps()}; }
inline F32x16 splat(float value) { return {_mm512_set1_ps(value)}; }
inline F32x16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, F32x16 a) { _mm512_storeu_ps(p, a.v); }
inline F32x16 add(F32x16 a, F32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F32x16 mul(F32x16 a, F32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F32x16 fma(F32x16 a, F32x16 b, F32x16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline F32x16 load_bf16(const uint8_t* p) {
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16))};
}
inline F32x16 load_e4m3(const uint8_t* p) {
  const __m512i wide =
      _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __m512i bits =
      _mm512_and_si512(_mm512_slli_epi32(wide, 20), _mm512_set1_epi32(static_cast<int>(0x87f00000)));
  const __mmask16 nan = _mm512_cmpeq_epi32_mask(_mm512_and_si512(wide, _mm512_set1_epi32(0x7f)),
                                                _mm512_set1_epi32(0x7f));
  const __m512 value = _mm512_mul_ps(_mm512_castsi512_ps(bits), _mm512_set1_ps(kE4m3Scale));
  return {_mm512_mask_blend_ps(nan, value, _mm512_set1_ps(__builtin_nanf("")))};
}

#elif defined(__AVX2__)

struct F32x16 {
  __m256 a, b;
};
inline F32x16 zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline F32x16 splat(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
inline F32x16 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, F32x16 x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
inline F32x16 add(F32x16 x, F32x16 y) {
  return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)};
}
inline F32x16 mul(F32x16 x, F32x16 y) {
  return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)};
}
inline F32x16 fma(F32x16 x, F32x16 y, F32x16 z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
inline __m256 eight_bf16(const uint8_t* p) {
  const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}
inline F32x16 load_bf16(const uint8_t* p) { return {eight_bf16(p), eight_bf16(p + 16)}; }
inline __m256 eight_e4m3(const uint8_t* p) {
  const __m256i wide =
      _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  const __m256i bits =
      _mm256_and_si256(_mm256_slli_epi32(wide, 20), _mm256_set1_epi32(static_cast<int>(0x87f00000)));
  const __m256i nan = _mm256_cmpeq_epi32(_mm256_and_si256(wide, _mm256_set1_epi32(0x7f)),
                                         _mm256_set1_epi32(0x7f));
  const __m256 value = _mm256_mul_ps(_mm256_castsi256_ps(bits), _mm256_set1_ps(kE4m3Scale));
  return _mm256_or_ps(value, _mm256_castsi256_ps(nan));
}
inline F32x16 load_e4m3(const uint8_t* p) { return {eight_e4m3(p), eight_e4m3(p + 8)}; }

#else

struct F32x16 {
  float v[kLanes];
};
inline F32x16 splat(float value) {
  F32x16 r;
  for (int i = 0; i < kLanes; ++i) r.v[i] = value;
  return r;
}
inline F32x16 zero() { return splat(0.0f); }
inline F32x16 load(const float* p) {
  F32x16 r;
  memcpy(r.v, p, sizeof r.v);
  return r;
}
inline void store(float* p, F32x16 a) { memcpy(p, a.v, sizeof a.v); }
inline F32x16 add(F32x16 a, F32x16 b) {
  for (int i = 0; i < kLanes; ++i) a.v[i] += b.v[i];
  return a;
}
inline F32x16 mul(F32x16 a, F32x16 b) {
  for (int i = 0; i < kLanes; ++i) a.v[i] *= b.v[i];
  return a;
}
inline F32x16 fma(F32x16 a, F32x16 b, F32x16 c) {
  for (int i = 0; i < kLanes; ++i) c.v[i] += a.v[i] * b.v[i];
  return c;
}
inline F32x16 load_bf16(const uint8_t* p) {
  F32x16 r;
  for (int i = 0; i < kLanes; ++i) {
    uint16_t half;
    memcpy(&half, p + 2 * i, 2);
    const uint32_t bits = static_cast<uint32_t>(half) << 16;
    memcpy(&r.v[i], &bits, 4);
  }
  return r;
}
inline F32x16 load_e4m3(const uint8_t* p) {
  F32x16 r;
  for (int i = 0; i < kLanes; ++i) {
    const uint32_t code = p[i];
    uint32_t bits = (code & 0x80u) << 24 | (code & 0x7fu) << 20;
    float value;
    memcpy(&value, &bits, 4);
    r.v[i] = (code & 0x7fu) == 0x7fu ? __builtin_nanf("") : value * kE4m3Scale;
  }
  return r;
}

#endif

// Sum of the lanes, always by the same tree: halves, quarters, pairs.
inline float sum(F32x16 a) {
  float lane[kLanes];
  store(lane, a);
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) lane[i] += lane[i + width];
  }
  return lane[0];
}

}  // namespace RING_ISA_NAMESPACE
}  // namespace ring
