// Where many tiles of tokens share a panel of weights: it is widened once and kept, and every tile
// reads what is kept. No table takes a register then, so that a tile has more rows, and what is
// read lies as it is read. A part of kernels.cc in a file of its own.
//
// Rows lie in fours (what is left of a block singly), a four group after group, in a group row
// after row.
#pragma once
#include "tiles.h"

namespace ring {
namespace RING_ISA_NAMESPACE {
namespace {

#if defined(__AVX512F__)
constexpr int kKeptRows = 4;
#else
constexpr int kKeptRows = 2;
#endif

template <typename Source>
constexpr int kKeptFloats = sizeof(typename Source::Group) / sizeof(float);  // of a group of a row

static_assert(kKeptColumns / kGroup * kFloatTokens * kPartsFloats<E4m3> <= kRowFloats);

// Whether it pays to keep a panel for so many tokens.
template <typename Source>
RING_INLINE bool keeps_panels(int tokens) {
  return Source::kBytes < 4 && tokens >= kKeptTokens;
}

// The block's panel as it is kept.
template <typename Source>
void keep_panel(const Block& b, float* kept) {
  constexpr int kFloats = kKeptFloats<Source>;
  const int columns = b.end - b.begin;
  const int whole = columns / kGroup, rest = columns % kGroup;
  const int groups = whole + (rest > 0);
  for (int row = b.row_begin; row < b.row_end; ++row) {
    const int at = row - b.row_begin;
    const bool is_single = row >= b.row_end - (b.row_end - b.row_begin) % kKeptRows;
    const int side = is_single ? 1 : kKeptRows;
    float* const out =
        kept + (static_cast<int64_t>(at / side * side) * groups + at % side) * kFloats;
    const uint8_t* const w =
        row_of<Source>(b.w, row) + static_cast<int64_t>(b.begin) * Source::kBytes;
    typename Source::Mark mark;
    typename Source::Group group;
    for (int g = 0; g < whole; ++g) {
      group = read_group<Source>(w + static_cast<int64_t>(g) * kGroup * Source::kBytes, mark);
      memcpy(out + static_cast<int64_t>(g) * side * kFloats, &group, sizeof group);
    }
    if (rest > 0) {
      read_short<Source>(w + static_cast<int64_t>(whole) * kGroup * Source::kBytes, rest, group,
                         mark);
      memcpy(out + static_cast<int64_t>(whole) * side * kFloats, &group, sizeof group);
    }
    if (mark.any()) b.has_nans[at] |= has_nan_codes(w, columns);
  }
}

// Rows [row, row + kRows) and tokens [token, token + kTokens) over the block's panel as it is kept.
// `fetch`: weights of as many rows that are wanted after this panel; they are fetched meanwhile.
template <typename Source, int kRows, int kTokens>
RING_INLINE void multiply_kept_tile(const Block& b, int row, int token, const float* kept,
                                    const float* x, const uint8_t* fetch) {
  const int groups = (b.end - b.begin + kGroup - 1) / kGroup;
  const int64_t held_stride = static_cast<int64_t>(b.tokens) * kLanes;
  float* const held = b.held + (row - b.row_begin) * held_stride + token * kLanes;
  Sums<kRows, kTokens> sums;
  RING_UNROLL for (int r = 0; r < kRows; ++r) {
    RING_UNROLL for (int t = 0; t < kTokens; ++t) sums.of[r][t] =
        b.begin == 0 ? zero() : load(held + r * held_stride + t * kLanes);
  }
  const int64_t row_bytes = static_cast<int64_t>(b.w.columns) * Source::kBytes;
  const float* w = kept + static_cast<int64_t>(row - b.row_begin) * groups * kKeptFloats<Source>;
  for (int g = 0; g < groups; ++g) {
    if (fetch != nullptr) {
      RING_UNROLL for (int r = 0; r < kRows; ++r) {
        RING_UNROLL for (int line = 0; line < kGroup * Source::kBytes; line += 64)
            __builtin_prefetch(fetch + r * row_bytes + line, 0, 2);
      }
      fetch += kGroup * Source::kBytes;
    }
    RING_UNROLL for (int c = 0; c < Source::kParts; ++c) {
      Floats part[kRows];
      RING_UNROLL for (int r = 0; r < kRows; ++r) {
        part[r] = Source::part_of_kept(w + r * kKeptFloats<Source>, c);
      }
      RING_UNROLL for (int t = 0; t < kTokens; ++t) {
        const Floats right = held_in_register(load(x + t * kPartsFloats<Source> + c * kLanes));
        RING_UNROLL for (int r = 0; r < kRows; ++r) sums.of[r][t] =
            Source::add_product(part[r], right, sums.of[r][t]);
        // The next loads stay behind: brought forward, they would take registers that sums need.
        asm volatile("" ::: "memory");
      }
    }
    w += kRows * kKeptFloats<Source>;
    x += kTokens * kPartsFloats<Source>;
  }
  if (b.end == b.w.columns) return finish_tile<Source>(b, row, token, sums);
  RING_UNROLL for (int r = 0; r < kRows; ++r) {
    RING_UNROLL for (int t = 0; t < kTokens; ++t)
        store(held + r * held_stride + t * kLanes, sums.of[r][t]);
  }
}

template <typename Source, int kTokens>
void multiply_kept_tokens(const Block& b, int token, const float* kept, const float* x) {
  // What comes after this panel is fetched by the first tile: the next columns, or the next rows.
  const uint8_t* const next = b.end < b.w.columns ? row_of<Source>(b.w, b.row_begin) +
                                                        static_cast<int64_t>(b.end) * Source::kBytes
                                                  : row_of<Source>(b.w, b.row_end);
  const int64_t row_bytes = static_cast<int64_t>(b.w.columns) * Source::kBytes;
  int row = b.row_begin;
  for (; row + kKeptRows <= b.row_end; row += kKeptRows) {
    const uint8_t* const fetch = token == 0 ? next + (row - b.row_begin) * row_bytes : nullptr;
    multiply_kept_tile<Source, kKeptRows, kTokens>(b, row, token, kept, x, fetch);
  }
  for (; row < b.row_end; ++row)
    multiply_kept_tile<Source, 1, kTokens>(b, row, token, kept, x, nullptr);
}

template <typename Source, int kTokens>
RING_INLINE void multiply_kept_count(int count, const Block& b, int token, const float* kept,
                                     const float* x) {
  if constexpr (kTokens > 0) {
    if (count == kTokens) return multiply_kept_tokens<Source, kTokens>(b, token, kept, x);
    multiply_kept_count<Source, kTokens - 1>(count, b, token, kept, x);
  }
}

}  // namespace
}  // namespace RING_ISA_NAMESPACE
}  // namespace ring
