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

namespace ring {
namespace RING_ISA_NAMESPACE {

// Without byte tables, e4m3fn bits are shifted into a float's exponent and mantissa, which gives
// the value times 2^-120; exact, subnormals included. The way back is taken in two halves, by the
// activations and by the sum, since 2^120 itself could overflow. Only the NaN code 0x7F becomes a
// number by the shift, and is looked for apart.
constexpr float kHalfway = 0x1p60f;

#if defined(__AVX512F__)

constexpr int kLanes = 16;
// Outputs of one register tile of a product of many tokens: rows x tokens.
constexpr int kTileRows = 4;
constexpr int kTileTokens = 6;

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
// Keeps the compiler from reading the value again from memory at each use.
inline Floats held_in_register(Floats a) {
  asm("" : "+v"(a.v));
  return a;
}
inline Floats load_bf16(const uint8_t* p) {
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16))};
}
#if defined(__AVX512VBMI__)

// BF16 bytes of the codes 0 to 127, low and high: two table look-ups make 64 exact BF16 values, NaN
// and subnormals included.
struct E4m3Tables {
  alignas(64) uint8_t low[128], high[128];
  constexpr E4m3Tables() : low(), high() {
    for (int code = 0; code < 128; ++code) {
      const int exponent = code >> 3, mantissa = code & 7;
      int bits = 0;
      if (code == 127) {
        bits = 0x7fc0;
      } else if (exponent > 0) {
        bits = (exponent + 120) << 7 | mantissa << 4;
      } else if (mantissa > 0) {
        const int shift = mantissa >= 4 ? 2 : mantissa >= 2 ? 1 : 0;  // mantissa = 1.f * 2^shift
        bits = (118 + shift) << 7 | ((mantissa << (7 - shift)) & 0x7f);
      }
      low[code] = static_cast<uint8_t>(bits & 0xff);
      high[code] = static_cast<uint8_t>(bits >> 8);
    }
  }
};
alignas(64) constexpr E4m3Tables kE4m3Tables;

// Unpacking mixes the columns within 16: chunk 0 holds the even ones of the first 8, chunk 1 the
// odd ones, chunks 2 and 3 those of the second 8.
constexpr float kE4m3Up = 1.0f;
struct NanMark {
  void look(const uint8_t*) {}
  bool any() const { return false; }  // a NaN is one already
};
inline void widen_codes(__m512i codes, Floats (&out)[4]) {
  const __m512i low = _mm512_permutex2var_epi8(_mm512_load_si512(kE4m3Tables.low), codes,
                                               _mm512_load_si512(kE4m3Tables.low + 64));
  const __m512i magnitude = _mm512_permutex2var_epi8(_mm512_load_si512(kE4m3Tables.high), codes,
                                                     _mm512_load_si512(kE4m3Tables.high + 64));
  const __m512i sign = _mm512_set1_epi8(static_cast<char>(0x80));
  const __m512i high =
      _mm512_ternarylogic_epi32(magnitude, codes, sign, 0xf8);  // magnitude | (codes & sign)
  const __m512i first = _mm512_unpacklo_epi8(low, high), second = _mm512_unpackhi_epi8(low, high);
  const __m512i odd = _mm512_set1_epi32(static_cast<int>(0xffff0000));
  out[0].v = _mm512_castsi512_ps(_mm512_slli_epi32(first, 16));
  out[1].v = _mm512_castsi512_ps(_mm512_and_si512(first, odd));
  out[2].v = _mm512_castsi512_ps(_mm512_slli_epi32(second, 16));
  out[3].v = _mm512_castsi512_ps(_mm512_and_si512(second, odd));
}
inline void widen_e4m3(const uint8_t* p, Floats (&out)[4]) {
  widen_codes(_mm512_loadu_si512(p), out);
}
// Group after group of a row that does not begin with a cache line: whole lines are read, each
// once, and a group is cut from two of them. A load that straddles two lines costs two. Every line
// read holds a byte of the row, so none lies on a page of its own past a map's end.
constexpr bool kHasCodeLines = true;
class CodeLines {
 public:
  explicit CodeLines(const uint8_t* p) {
    alignas(64) uint8_t cut[64];
    const int phase = static_cast<int>(reinterpret_cast<uintptr_t>(p) & 63);
    for (int i = 0; i < 64; ++i) cut[i] = static_cast<uint8_t>(i + phase);
    cut_ = _mm512_load_si512(cut);
    line_ = p - phase;
    held_ = _mm512_load_si512(line_);
  }
  void widen(Floats (&out)[4]) {
    line_ += 64;
    const __m512i next = _mm512_load_si512(line_);
    widen_codes(_mm512_permutex2var_epi8(held_, cut_, next), out);
    held_ = next;
  }

 private:
  const uint8_t* line_;
  __m512i held_, cut_;
};
// Puts 64 columns into that order.
inline void order_as_e4m3(Floats (&x)[4]) {
  const __m512i first = _mm512_setr_epi32(0, 2, 4, 6, 16, 18, 20, 22, 1, 3, 5, 7, 17, 19, 21, 23);
  const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
  const __m512 a = _mm512_permutex2var_ps(x[0].v, first, x[1].v),
               b = _mm512_permutex2var_ps(x[2].v, first, x[3].v);
  const __m512 c = _mm512_permutex2var_ps(x[0].v, second, x[1].v),
               d = _mm512_permutex2var_ps(x[2].v, second, x[3].v);
  x[0].v = _mm512_shuffle_f32x4(a, b, 0x44);
  x[1].v = _mm512_shuffle_f32x4(a, b, 0xee);
  x[2].v = _mm512_shuffle_f32x4(c, d, 0x44);
  x[3].v = _mm512_shuffle_f32x4(c, d, 0xee);
}

#else

constexpr float kE4m3Up = kHalfway;
// Looks for NaN codes, 64 at a time: doubled, they alone reach 0xfe, so a running maximum tells.
struct NanMark {
  __m512i most = _mm512_setzero_si512();
  void look(const uint8_t* p) {
    const __m512i codes = _mm512_loadu_si512(p);
    most = _mm512_max_epu8(most, _mm512_add_epi8(codes, codes));
  }
  bool any() const {
    return _mm512_cmpeq_epi8_mask(most, _mm512_set1_epi8(static_cast<char>(0xfe))) != 0;
  }
};
inline void widen_e4m3(const uint8_t* p, Floats (&out)[4]) {
  const __m512i mask = _mm512_set1_epi32(static_cast<int>(0x87f00000));
  for (int c = 0; c < 4; ++c) {
    const __m512i wide =
        _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 16 * c)));
    out[c].v = _mm512_castsi512_ps(_mm512_and_si512(_mm512_slli_epi32(wide, 20), mask));
  }
}
inline void order_as_e4m3(Floats (&)[4]) {}

#endif

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
constexpr int kTileRows = 3;
constexpr int kTileTokens = 4;

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
inline Floats held_in_register(Floats a) {
  asm("" : "+x"(a.v));
  return a;
}
inline Floats load_bf16(const uint8_t* p) {
  const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16))};
}
constexpr float kE4m3Up = kHalfway;
struct NanMark {
  __m256i most = _mm256_setzero_si256();
  void look(const uint8_t* p) {
    for (int half = 0; half < 2; ++half) {
      const __m256i codes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32 * half));
      most = _mm256_max_epu8(most, _mm256_add_epi8(codes, codes));
    }
  }
  bool any() const {
    const __m256i nan = _mm256_set1_epi8(static_cast<char>(0xfe));
    return _mm256_movemask_epi8(_mm256_cmpeq_epi8(most, nan)) != 0;
  }
};
inline void widen_e4m3(const uint8_t* p, Floats (&out)[8]) {
  const __m256i mask = _mm256_set1_epi32(static_cast<int>(0x87f00000));
  for (int c = 0; c < 8; ++c) {
    const __m256i wide =
        _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + 8 * c)));
    out[c].v = _mm256_castsi256_ps(_mm256_and_si256(_mm256_slli_epi32(wide, 20), mask));
  }
}
inline void order_as_e4m3(Floats (&)[8]) {}
inline float sum(Floats a) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

#else

constexpr int kLanes = 4;
constexpr int kTileRows = 3;
constexpr int kTileTokens = 3;

// The compiler's own short vectors: SSE on x86-64, NEON on ARM, plain code elsewhere.
typedef float Float4 __attribute__((vector_size(16)));
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
inline Floats held_in_register(Floats a) { return a; }
inline Floats load_bf16(const uint8_t* p) {
  uint16_t half[4];
  memcpy(half, p, sizeof half);
  const Word4 bits = Word4{half[0], half[1], half[2], half[3]} << 16;
  return {reinterpret_cast<Float4>(bits)};
}
constexpr float kE4m3Up = kHalfway;
struct NanMark {
  bool found = false;
  void look(const uint8_t* p) {
    for (int word = 0; word < 8; ++word) {
      uint64_t codes;
      memcpy(&codes, p + 8 * word, 8);
      // A byte of 0x7F without its sign becomes 0x80 when 1 is added, and nothing else does.
      const uint64_t low = codes & 0x7f7f7f7f7f7f7f7full;
      found |= ((low + 0x0101010101010101ull) & 0x8080808080808080ull) != 0;
    }
  }
  bool any() const { return found; }
};
inline void widen_e4m3(const uint8_t* p, Floats (&out)[16]) {
  for (int c = 0; c < 16; ++c) {
    const Word4 code = {p[4 * c], p[4 * c + 1], p[4 * c + 2], p[4 * c + 3]};
    out[c].v = reinterpret_cast<Float4>((code & 0x80u) << 24 | (code & 0x7fu) << 20);
  }
}
inline void order_as_e4m3(Floats (&)[16]) {}
inline float sum(Floats a) { return (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]); }

#endif

#if !defined(__AVX512VBMI__)
constexpr bool kHasCodeLines = false;
struct CodeLines {
  explicit CodeLines(const uint8_t*) {}
  template <typename Out>
  void widen(Out&) {}
};
#endif

#if !defined(__AVX512F__)
inline void store_sums(const Floats (&v)[4], float* out) {
  for (int i = 0; i < 4; ++i) out[i] = sum(v[i]);
}
#endif

}  // namespace RING_ISA_NAMESPACE
}  // namespace ring
