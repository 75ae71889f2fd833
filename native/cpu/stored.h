// The ways in which weights are stored, as the products see them. Columns are taken kGroup at a
// time; a group is read as registers of what is stored, and widened part by part when a part is
// multiplied. Activations are packed beforehand in the order in which the parts have their columns.
#pragma once
#include "widen.h"

namespace ring {
namespace RING_ISA_NAMESPACE {
namespace {

constexpr int kGroup = 4 * kLanes;
constexpr int kWordBytes = 4 * kLanes;
// Most tokens of a tile of F32 products: their sums stay in registers.
#if defined(__AVX512F__)
constexpr int kFloatTokens = 6;
#else
constexpr int kFloatTokens = 4;
#endif

RING_INLINE int smaller(int a, int b) { return a < b ? a : b; }

struct Unmarked {
  bool any() const { return false; }
};

struct Halves {
  Words of[2];
};

RING_INLINE Floats part_of(const Halves& halves, int part) {
  const Words pair = halves.of[part / 2];
  return part % 2 == 0 ? even_halves(pair) : odd_halves(pair);
}

// The same of halves that are kept in memory. The compiler is kept from reading them once for all
// parts: they would take registers that sums need.
RING_INLINE Floats part_of_kept_halves(const float* kept, int part) {
  const float* p = kept + part / 2 * kLanes;
  asm("" : "+r"(p));
  const Words pair = load_words(reinterpret_cast<const uint8_t*>(p));
  return part % 2 == 0 ? even_halves(pair) : odd_halves(pair);
}

RING_INLINE void pack_as_halves(const Floats (&x)[4], Floats factor, float* out) {
  RING_UNROLL for (int pair = 0; pair < 2; ++pair) {
    Floats even, odd;
    part_columns(mul(x[2 * pair], factor), mul(x[2 * pair + 1], factor), even, odd);
    store(out + 2 * pair * kLanes, even);
    store(out + (2 * pair + 1) * kLanes, odd);
  }
}

RING_INLINE void load_group(const float* p, Floats (&x)[4]) {
  RING_UNROLL for (int c = 0; c < 4; ++c) x[c] = load(p + c * kLanes);
}

// Each kind: registers of a group, parts of a group (a vector of products each), and what is taken
// times activations and sums where the parts hold the weights by a power of two too small.

// Marks codes that are NaN and do not come out as such.
struct E4m3 {
  using Group = Halves;
  using Mark = NanMark;
  static constexpr int kBytes = 1, kWords = 1, kParts = 4, kTileTokens = kFloatTokens;
  static constexpr float kUpBefore = kE4m3Up, kUpAfter = kE4m3Up;

  static RING_INLINE Group group_of(const Words (&words)[kWords], Mark& mark) {
    Halves halves;
    mark.look(words[0]);
    halves_of_codes(words[0], halves.of);
    return halves;
  }
  static RING_INLINE Floats part(const Group& group, int c) { return part_of(group, c); }
  static RING_INLINE Floats part_of_kept(const float* kept, int c) {
    return part_of_kept_halves(kept, c);
  }
  static RING_INLINE Floats add_product(Floats w, Floats x, Floats sum) { return fma(w, x, sum); }
  // kGroup activations, each times the factor.
  static RING_INLINE void pack(const float* p, Floats factor, float* out) {
    Floats x[4];
    load_as_codes(p, x);
    pack_as_halves(x, factor, out);
  }
};

struct Bf16 {
  using Group = Halves;
  using Mark = Unmarked;
  static constexpr int kBytes = 2, kWords = 2, kParts = 4, kTileTokens = kFloatTokens;
  static constexpr float kUpBefore = 1.0f, kUpAfter = 1.0f;

  static RING_INLINE Group group_of(const Words (&words)[kWords], Mark&) {
    return {{words[0], words[1]}};
  }
  static RING_INLINE Floats part(const Group& group, int c) { return part_of(group, c); }
  static RING_INLINE Floats part_of_kept(const float* kept, int c) {
    return part_of_kept_halves(kept, c);
  }
  static RING_INLINE Floats add_product(Floats w, Floats x, Floats sum) { return fma(w, x, sum); }
  static RING_INLINE void pack(const float* p, Floats factor, float* out) {
    Floats x[4];
    load_group(p, x);
    pack_as_halves(x, factor, out);
  }
};

struct F32 {
  struct Group {
    Floats of[4];
  };
  using Mark = Unmarked;
  static constexpr int kBytes = 4, kWords = 4, kParts = 4, kTileTokens = kFloatTokens;
  static constexpr float kUpBefore = 1.0f, kUpAfter = 1.0f;

  static RING_INLINE Group group_of(const Words (&words)[kWords], Mark&) {
    Group group;
    RING_UNROLL for (int i = 0; i < kWords; ++i) group.of[i] = as_floats(words[i]);
    return group;
  }
  static RING_INLINE Floats part(const Group& group, int c) { return group.of[c]; }
  static RING_INLINE Floats add_product(Floats w, Floats x, Floats sum) { return fma(w, x, sum); }
  static RING_INLINE void pack(const float* p, Floats factor, float* out) {
    Floats x[4];
    load_group(p, x);
    RING_UNROLL for (int c = 0; c < 4; ++c) store(out + c * kLanes, mul(x[c], factor));
  }
};

#if defined(__AVX512BF16__)

// BF16 products (--math bf16): activations are rounded to BF16, and two columns a lane multiplied
// and added at once. The instruction takes subnormal numbers for zero, so activations are lifted
// well above them; what the lift costs at the upper end, no activation reaches.
template <typename Stored>
struct ByBf16 {
  using Group = Halves;
  using Mark = typename Stored::Mark;
  static constexpr int kBytes = Stored::kBytes, kWords = Stored::kWords, kParts = 2,
                       kTileTokens = 8;
  static constexpr float kUpBefore = 0x1p40f, kUpAfter = 0x1p-40f;

  static RING_INLINE Group group_of(const Words (&words)[kWords], Mark& mark) {
    return Stored::group_of(words, mark);
  }
  static RING_INLINE Floats part(const Group& group, int c) { return as_floats(group.of[c]); }
  static RING_INLINE Floats part_of_kept(const float* kept, int c) {
    return load(kept + c * kLanes);
  }
  static RING_INLINE Floats add_product(Floats w, Floats x, Floats sum) {
    return {
        _mm512_dpbf16_ps(sum.v, reinterpret_cast<__m512bh>(w.v), reinterpret_cast<__m512bh>(x.v))};
  }
  static RING_INLINE void pack(const float* p, Floats factor, float* out) {
    Floats x[4];
    if constexpr (Stored::kBytes == 1)
      load_as_codes(p, x);
    else
      load_group(p, x);
    RING_UNROLL for (int c = 0; c < kParts; ++c) {
      const __m512bh rounded =
          _mm512_cvtne2ps_pbh(mul(x[2 * c + 1], factor).v, mul(x[2 * c], factor).v);
      store(out + c * kLanes, {reinterpret_cast<__m512>(rounded)});
    }
  }
};

#endif

template <typename Source>
RING_INLINE typename Source::Group read_group(const uint8_t* p, typename Source::Mark& mark) {
  Words words[Source::kWords];
  RING_UNROLL for (int i = 0; i < Source::kWords; ++i) words[i] = load_words(p + i * kWordBytes);
  return Source::group_of(words, mark);
}

// A group that a row's end cuts short: nothing past it is read, a map may end there.
template <typename Source>
__attribute__((noinline)) void read_short(const uint8_t* p, int count,
                                          typename Source::Group& group,
                                          typename Source::Mark& mark) {
  alignas(64) uint8_t bytes[kGroup * Source::kBytes] = {0};
  memcpy(bytes, p, static_cast<size_t>(count) * Source::kBytes);
  group = read_group<Source>(bytes, mark);
}

}  // namespace
}  // namespace RING_ISA_NAMESPACE
}  // namespace ring
