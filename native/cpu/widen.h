// Stored numbers as registers, one instruction set's way, exact. FP8 codes and BF16 numbers both
// come as halves: a register of 32-bit words, each of which holds the upper halves of two floats.
// So a register of BF16 as it is stored is one of halves, and a register of codes becomes two.
// Which columns end up in which lane is whatever is cheapest; activations are brought into that
// order.
#pragma once
#include "simd.h"

namespace ring {
namespace RING_ISA_NAMESPACE {

// Without byte tables, e4m3fn bits are shifted into a float's exponent and mantissa, which gives
// the value times 2^-120; subnormals included. The way back is taken in two halves, by the
// activations and by the sum, since 2^120 itself could overflow. Only the NaN code 0x7F becomes a
// number by the shift, and is looked for apart.
constexpr float kHalfway = 0x1p60f;

#if defined(__AVX512F__)

struct Words {
  __m512i v;
};
inline Words load_words(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
inline Floats as_floats(Words a) { return {_mm512_castsi512_ps(a.v)}; }
inline Floats even_halves(Words a) { return {_mm512_castsi512_ps(_mm512_slli_epi32(a.v, 16))}; }
inline Floats odd_halves(Words a) {
  const __m512i odd = _mm512_set1_epi32(static_cast<int>(0xffff0000));
  return {_mm512_castsi512_ps(_mm512_and_si512(a.v, odd))};
}
// Even and odd columns of two registers of them, as even_halves and odd_halves have them.
inline void part_columns(Floats a, Floats b, Floats& even, Floats& odd) {
  const __m512i first =
      _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  even.v = _mm512_permutex2var_ps(a.v, first, b.v);
  odd.v = _mm512_permutex2var_ps(a.v, _mm512_add_epi32(first, _mm512_set1_epi32(1)), b.v);
}
// Unpacking codes takes eight of sixteen columns to the first register, the others to the second:
// the columns of both, in that order.
inline void load_as_codes(const float* p, Floats (&x)[4]) {
  const auto eights = [](const float* a, const float* b) -> Floats {
    return {_mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(a)), _mm256_loadu_ps(b), 1)};
  };
  x[0] = eights(p, p + 16), x[1] = eights(p + 32, p + 48);
  x[2] = eights(p + 8, p + 24), x[3] = eights(p + 40, p + 56);
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

constexpr float kE4m3Up = 1.0f;
struct NanMark {
  void look(Words) {}
  bool any() const { return false; }  // a NaN is one already
};
inline void halves_of_codes(Words codes, Words (&out)[2]) {
  const __m512i low = _mm512_permutex2var_epi8(_mm512_load_si512(kE4m3Tables.low), codes.v,
                                               _mm512_load_si512(kE4m3Tables.low + 64));
  const __m512i magnitude = _mm512_permutex2var_epi8(_mm512_load_si512(kE4m3Tables.high), codes.v,
                                                     _mm512_load_si512(kE4m3Tables.high + 64));
  const __m512i sign = _mm512_set1_epi8(static_cast<char>(0x80));
  const __m512i high =
      _mm512_ternarylogic_epi32(magnitude, codes.v, sign, 0xf8);  // magnitude | (codes & sign)
  out[0].v = _mm512_unpacklo_epi8(low, high);
  out[1].v = _mm512_unpackhi_epi8(low, high);
}

// Rows whose bytes are read a cache line at a time, each once, and every register is cut from two
// lines: a load that straddles two of them costs two. All rows begin at the same phase of a line.
// Every line that is read holds a byte of its row, so none lies on a page past a map's end.
template <int kRows>
class CutRows {
 public:
  static bool serve(int64_t row_bytes) { return row_bytes % 64 == 0; }

  RING_INLINE CutRows(const uint8_t* first, int64_t row_bytes) {
    const int phase = static_cast<int>(reinterpret_cast<uintptr_t>(first) & 63);
    alignas(64) uint8_t cut[64];
    for (int i = 0; i < 64; ++i) cut[i] = static_cast<uint8_t>(i + phase);
    cut_ = _mm512_load_si512(cut);
    RING_UNROLL for (int r = 0; r < kRows; ++r) {
      lines_[r] = first - phase + r * row_bytes;
      held_[r] = _mm512_load_si512(lines_[r]);
    }
  }
  // Of `count` registers in each row, how many may be read so: of a row that begins with a line the
  // last register is the last line.
  RING_INLINE int reach(const uint8_t* first, int count) const {
    return reinterpret_cast<uintptr_t>(first) % 64 == 0 ? count - 1 : count;
  }
  // Register i of a row; every row's are read in turn.
  RING_INLINE Words read(int row, int64_t i) {
    const __m512i line = _mm512_load_si512(lines_[row] + 64 * (i + 1));
    const Words words = {_mm512_permutex2var_epi8(held_[row], cut_, line)};
    held_[row] = line;
    return words;
  }

 private:
  __m512i cut_, held_[kRows];
  const uint8_t* lines_[kRows];
};

#else

constexpr float kE4m3Up = kHalfway;
// Looks for NaN codes, 64 at a time: doubled, they alone reach 0xfe, so a running maximum tells.
struct NanMark {
  __m512i most = _mm512_setzero_si512();
  void look(Words codes) { most = _mm512_max_epu8(most, _mm512_add_epi8(codes.v, codes.v)); }
  bool any() const {
    return _mm512_cmpeq_epi8_mask(most, _mm512_set1_epi8(static_cast<char>(0xfe))) != 0;
  }
};
inline void halves_of_codes(Words codes, Words (&out)[2]) {
  const __m512i mask = _mm512_set1_epi16(static_cast<short>(0x87f0)), none = _mm512_setzero_si512();
  out[0].v = _mm512_and_si512(_mm512_srai_epi16(_mm512_unpacklo_epi8(none, codes.v), 4), mask);
  out[1].v = _mm512_and_si512(_mm512_srai_epi16(_mm512_unpackhi_epi8(none, codes.v), 4), mask);
}

#endif

#elif defined(__AVX2__)

struct Words {
  __m256i v;
};
inline Words load_words(const uint8_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))};
}
inline Floats as_floats(Words a) { return {_mm256_castsi256_ps(a.v)}; }
inline Floats even_halves(Words a) { return {_mm256_castsi256_ps(_mm256_slli_epi32(a.v, 16))}; }
inline Floats odd_halves(Words a) {
  const __m256i odd = _mm256_set1_epi32(static_cast<int>(0xffff0000));
  return {_mm256_castsi256_ps(_mm256_and_si256(a.v, odd))};
}
inline void part_columns(Floats a, Floats b, Floats& even, Floats& odd) {
  const auto in_order = [](__m256 c) {
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(c), 0xd8));
  };
  even.v = in_order(_mm256_shuffle_ps(a.v, b.v, 0x88));
  odd.v = in_order(_mm256_shuffle_ps(a.v, b.v, 0xdd));
}
// Even columns of the codes go to the first register, odd ones to the second.
inline void load_as_codes(const float* p, Floats (&x)[4]) {
  part_columns(load(p), load(p + 8), x[0], x[2]);
  part_columns(load(p + 16), load(p + 24), x[1], x[3]);
}
constexpr float kE4m3Up = kHalfway;
struct NanMark {
  __m256i most = _mm256_setzero_si256();
  void look(Words codes) { most = _mm256_max_epu8(most, _mm256_add_epi8(codes.v, codes.v)); }
  bool any() const {
    const __m256i nan = _mm256_set1_epi8(static_cast<char>(0xfe));
    return _mm256_movemask_epi8(_mm256_cmpeq_epi8(most, nan)) != 0;
  }
};
// What bounds here is the number of instructions: of every pair of codes, the one that is
// multiplied by 16 lands in its half with the other gone, and its sign is left in the bits above
// it.
inline void halves_of_codes(Words codes, Words (&out)[2]) {
  const __m256i even = _mm256_set1_epi16(0x0010), odd = _mm256_set1_epi16(0x1000);
  const __m256i mask = _mm256_set1_epi16(static_cast<short>(0x87f0));
  out[0].v = _mm256_and_si256(_mm256_maddubs_epi16(even, codes.v), mask);
  out[1].v = _mm256_and_si256(_mm256_maddubs_epi16(odd, codes.v), mask);
}

#else

typedef int16_t Short8 __attribute__((vector_size(16)));
typedef uint8_t Byte16 __attribute__((vector_size(16)));
struct Words {
  Word4 v;
};
inline Words load_words(const uint8_t* p) {
  Words r;
  memcpy(&r.v, p, sizeof r.v);
  return r;
}
inline Floats as_floats(Words a) { return {reinterpret_cast<Float4>(a.v)}; }
inline Floats even_halves(Words a) { return {reinterpret_cast<Float4>(a.v << 16)}; }
inline Floats odd_halves(Words a) { return {reinterpret_cast<Float4>(a.v & 0xffff0000u)}; }
inline void part_columns(Floats a, Floats b, Floats& even, Floats& odd) {
  even.v = Float4{a.v[0], a.v[2], b.v[0], b.v[2]};
  odd.v = Float4{a.v[1], a.v[3], b.v[1], b.v[3]};
}
inline void load_as_codes(const float* p, Floats (&x)[4]) {
  for (int c = 0; c < 4; ++c) x[c] = load(p + 4 * c);
}
constexpr float kE4m3Up = kHalfway;
struct NanMark {
  Byte16 found = {};
  void look(Words codes) {
    // A byte of 0x7F without its sign becomes 0x80 when 1 is added, and nothing else does.
    found |= (reinterpret_cast<Byte16>(codes.v) & 0x7f) + 1;
  }
  bool any() const {
    uint64_t halves[2];
    memcpy(halves, &found, sizeof halves);
    return ((halves[0] | halves[1]) & 0x8080808080808080ull) != 0;
  }
};
inline void halves_of_codes(Words codes, Words (&out)[2]) {
  const Byte16 c = reinterpret_cast<Byte16>(codes.v), none = {};
  const Byte16 low =
      __builtin_shufflevector(none, c, 0, 16, 0, 17, 0, 18, 0, 19, 0, 20, 0, 21, 0, 22, 0, 23);
  const Byte16 high =
      __builtin_shufflevector(none, c, 0, 24, 0, 25, 0, 26, 0, 27, 0, 28, 0, 29, 0, 30, 0, 31);
  const Short8 mask = {-30736, -30736, -30736, -30736, -30736, -30736, -30736, -30736};  // 0x87f0
  out[0].v = reinterpret_cast<Word4>((reinterpret_cast<Short8>(low) >> 4) & mask);
  out[1].v = reinterpret_cast<Word4>((reinterpret_cast<Short8>(high) >> 4) & mask);
}

#endif

#if !defined(__AVX512VBMI__)
// Without permutes of bytes rows are read where they lie.
template <int kRows>
class CutRows {
 public:
  static constexpr bool serve(int64_t) { return false; }
  CutRows(const uint8_t*, int64_t) {}
  int reach(const uint8_t*, int) const { return 0; }
  Words read(int, int64_t) { return Words{}; }
};
#endif

}  // namespace RING_ISA_NAMESPACE
}  // namespace ring
