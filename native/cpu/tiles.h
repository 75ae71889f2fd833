// A tile of a product: a few rows times a few tokens, whose sums stay in registers while columns
// are added to them; with packing, which brings activations into the order in which tiles want
// them. A part of kernels.cc in a file of its own; how a product is cut into tiles is not known
// here (multiply.h).
//
// What makes it fast in memory: rows are multiplied side by side but fetched one after the other,
// in the order in which they lie. Memory that is read in several places at once comes at half the
// speed.
#pragma once
#include "kernels.h"
#include "stored.h"

namespace ring {
namespace RING_ISA_NAMESPACE {
namespace {

RING_INLINE float quiet_nan() { return __builtin_nanf(""); }

template <typename Source>
RING_INLINE const uint8_t* row_of(const Matrix& w, int row) {
  return w.data + static_cast<int64_t>(row) * w.columns * Source::kBytes;
}

RING_INLINE const float* scales_of(const Matrix& w, int row) {
  return w.scales == nullptr
             ? nullptr
             : w.scales + static_cast<int64_t>(row / w.block_rows) * w.scale_columns;
}

// --- activations --------------------------------------------------------------------------------
// Packed: group after group, in a group token after token, in a token part after part; so that a
// tile's loop walks on one pointer.

template <typename Source>
constexpr int kPartsFloats = Source::kParts* kLanes;  // of a group of one token

// A group that an end cuts short, or whose columns have several scales.
template <typename Source>
void pack_short(const float* x, const float* scales, int block_columns, int column, int count,
                float* out) {
  alignas(64) float group[kGroup] = {0};
  for (int i = 0; i < count; ++i) {
    const float scale = scales == nullptr ? 1.0f : scales[(column + i) / block_columns];
    group[i] = x[column + i] * (Source::kUpBefore * scale);
  }
  Source::pack(group, splat(1.0f), out);
}

// Columns [begin, end) of one token as the products want them: times their block's scale (scales
// null: unscaled), zeros to the end of the last group. A group's are at out + group * stride.
template <typename Source>
void prepare(const float* x, const float* scales, int block_columns, int begin, int end,
             int64_t stride, float* out) {
  const bool has_whole_blocks = scales == nullptr || block_columns % kGroup == 0;
  for (int column = begin; column < end;) {
    if (has_whole_blocks && column + kGroup <= end) {
      const int block = scales == nullptr ? 0 : column / block_columns;
      const int block_end = scales == nullptr ? end : smaller(end, (block + 1) * block_columns);
      const Floats factor = splat(Source::kUpBefore * (scales == nullptr ? 1.0f : scales[block]));
      for (; column + kGroup <= block_end; column += kGroup, out += stride)
        Source::pack(x + column, factor, out);
    } else {
      pack_short<Source>(x, scales, block_columns, column, smaller(end - column, kGroup), out);
      column += kGroup, out += stride;
    }
  }
}

// --- tiles --------------------------------------------------------------------------------------

// Rows of a tile of so many tokens: their sums, their weights and the activations in use share the
// registers. With few registers and up to kTurnTokens tokens one row is widened at a time.
#if defined(__AVX512F__)
constexpr int kTurnTokens = 0;
constexpr int rows_of_tile(int tokens) { return tokens <= 2 ? 4 : tokens == 3 ? 3 : 2; }
#else
constexpr int kTurnTokens = 2;
constexpr int rows_of_tile(int tokens) { return tokens <= 2 ? 4 : 2; }
#endif

template <int kRows, int kTokens>
struct Sums {
  Floats of[kRows][kTokens];
};

// A group of columns of one row and every token.
template <typename Source, int kRows, int kTokens>
RING_INLINE void add_row(const typename Source::Group& w, const float* x, int row,
                         Sums<kRows, kTokens>& sums) {
  RING_UNROLL for (int c = 0; c < Source::kParts; ++c) {
    const Floats part = Source::part(w, c);
    RING_UNROLL for (int t = 0; t < kTokens; ++t) {
      sums.of[row][t] = Source::add_product(part, load(x + t * kPartsFloats<Source> + c * kLanes),
                                            sums.of[row][t]);
    }
  }
}

// A group of columns of every row and token.
template <typename Source, int kRows, int kTokens>
RING_INLINE void add_rows_of_tile(const typename Source::Group (&w)[kRows], const float* x,
                                  Sums<kRows, kTokens>& sums) {
  RING_UNROLL for (int c = 0; c < Source::kParts; ++c) {
    Floats part[kRows];
    RING_UNROLL for (int r = 0; r < kRows; ++r) part[r] = Source::part(w[r], c);
    RING_UNROLL for (int t = 0; t < kTokens; ++t) {
      const Floats right = held_in_register(load(x + t * kPartsFloats<Source> + c * kLanes));
      RING_UNROLL for (int r = 0; r < kRows; ++r) sums.of[r][t] =
          Source::add_product(part[r], right, sums.of[r][t]);
    }
  }
}

// Groups [first, last) of a panel, each got by read(row, group). `fetch`: where the weights lie
// that are wanted next, as many rows of the same panel; they are fetched meanwhile.
template <typename Source, int kRows, int kTokens, typename Read>
RING_INLINE void add_groups(const uint8_t* fetch, int64_t row_bytes, int first, int last,
                            const float* x, Sums<kRows, kTokens>& sums, const Read& read) {
  constexpr int kLines = kGroup * Source::kBytes * kRows / 64;  // for each group of these rows
  int g = first;
  for (int section = 0; section < kRows; ++section, fetch += row_bytes) {
    const int end = first + (section + 1) * (last - first) / kRows;
    for (const uint8_t* line = fetch; g < end; ++g, line += 64 * kLines) {
      RING_UNROLL for (int i = 0; i < kLines; ++i) __builtin_prefetch(line + 64 * i);
      const float* const group_x = x + static_cast<int64_t>(g) * kTokens * kPartsFloats<Source>;
      if constexpr (kRows == 1 || kTokens <= kTurnTokens) {
        RING_UNROLL for (int r = 0; r < kRows; ++r) add_row<Source>(read(r, g), group_x, r, sums);
      } else {
        typename Source::Group groups[kRows];
        RING_UNROLL for (int r = 0; r < kRows; ++r) groups[r] = read(r, g);
        add_rows_of_tile<Source>(groups, group_x, sums);
      }
    }
  }
}

// A panel of columns: w is its first column in the first row, x packed.
template <typename Source, int kRows, int kTokens>
RING_INLINE void add_panel(const uint8_t* w, int64_t row_bytes, int columns, int64_t ahead,
                           const float* x, Sums<kRows, kTokens>& sums,
                           typename Source::Mark& mark) {
  const int whole = columns / kGroup, rest = columns % kGroup;
  const uint8_t* const fetch = w + ahead;
  int done = 0;
  if (whole > 1 && CutRows<kRows>::serve(row_bytes)) {
    CutRows<kRows> cut(w, row_bytes);
    done = cut.reach(w, whole * Source::kWords) / Source::kWords;
    add_groups<Source>(fetch, row_bytes, 0, done, x, sums, [&](int r, int g) {
      Words words[Source::kWords];
      RING_UNROLL for (int i = 0; i < Source::kWords; ++i) words[i] =
          cut.read(r, static_cast<int64_t>(g) * Source::kWords + i);
      return Source::group_of(words, mark);
    });
  }
  if (done < whole) {
    add_groups<Source>(fetch, row_bytes, done, whole, x, sums, [&](int r, int g) {
      return read_group<Source>(
          w + r * row_bytes + static_cast<int64_t>(g) * kGroup * Source::kBytes, mark);
    });
  }
  if (rest == 0) return;
  for (int r = 0; r < kRows; ++r) {
    typename Source::Group group;
    read_short<Source>(w + r * row_bytes + static_cast<int64_t>(whole) * kGroup * Source::kBytes,
                       rest, group, mark);
    add_row<Source>(group, x + static_cast<int64_t>(whole) * kTokens * kPartsFloats<Source>, r,
                    sums);
  }
}

// --- blocks -------------------------------------------------------------------------------------

// Rows that share their scales, a slab of tokens, and how far their outputs are.
struct Block {
  const Matrix& w;
  int row_begin, row_end;
  int tokens;
  float* out;  // of the slab's first token
  int64_t out_stride;
  int begin, end;     // columns of the present panel
  float* held;        // [rows][tokens][kLanes]: sums between panels
  uint8_t* has_nans;  // [rows]: whether a NaN code was seen
};

// What a sum is taken times at last: the power of two that widening left out, and the row's own
// scale.
template <typename Source>
RING_INLINE float last_factor(const Matrix& w, int row) {
  return w.scales != nullptr && w.block_columns == 0 ? Source::kUpAfter * scales_of(w, row)[0]
                                                     : Source::kUpAfter;
}

template <typename Source, int kRows, int kTokens>
RING_INLINE void finish_tile(const Block& b, int row, int token, const Sums<kRows, kTokens>& sums) {
  constexpr int kOutputs = kRows * kTokens;
  float values[(kOutputs + 3) / 4 * 4];  // token after token
  const auto lanes_of = [&](int i) { return sums.of[i % kRows][i < kOutputs ? i / kRows : 0]; };
  if constexpr (kOutputs == 1) {
    values[0] = sum(lanes_of(0));
  } else {
    RING_UNROLL for (int i = 0; i < kOutputs; i += 4)
        store_sums({lanes_of(i), lanes_of(i + 1), lanes_of(i + 2), lanes_of(i + 3)}, values + i);
  }
  RING_UNROLL for (int r = 0; r < kRows; ++r) {
    const bool is_nan = b.has_nans[row - b.row_begin + r];
    const float factor = last_factor<Source>(b.w, row + r);
    float* const out = b.out + token * b.out_stride + row + r;
    RING_UNROLL for (int t = 0; t < kTokens; ++t) out[t * b.out_stride] =
        is_nan ? quiet_nan() : values[t * kRows + r] * factor;
  }
}

// Whether a row is what marked its tile.
__attribute__((noinline)) bool has_nan_codes(const uint8_t* codes, int count) {
  bool found = false;
  for (int i = 0; i < count; ++i) found |= (codes[i] & 0x7f) == 0x7f;
  return found;
}

// Rows [row, row + kRows) and tokens [token, token + kTokens) over the block's panel.
template <typename Source, int kRows, int kTokens>
RING_INLINE void multiply_tile(const Block& b, int row, int token, int64_t ahead, const float* x) {
  const int64_t held_stride = static_cast<int64_t>(b.tokens) * kLanes;
  float* const held = b.held + (row - b.row_begin) * held_stride + token * kLanes;
  Sums<kRows, kTokens> sums;
  RING_UNROLL for (int r = 0; r < kRows; ++r) {
    RING_UNROLL for (int t = 0; t < kTokens; ++t) sums.of[r][t] =
        b.begin == 0 ? zero() : load(held + r * held_stride + t * kLanes);
  }
  typename Source::Mark mark;
  const int64_t row_bytes = static_cast<int64_t>(b.w.columns) * Source::kBytes;
  const uint8_t* const w =
      row_of<Source>(b.w, row) + static_cast<int64_t>(b.begin) * Source::kBytes;
  add_panel<Source>(w, row_bytes, b.end - b.begin, ahead, x, sums, mark);
  if (mark.any()) {
    for (int r = 0; r < kRows; ++r)
      b.has_nans[row - b.row_begin + r] |= has_nan_codes(w + r * row_bytes, b.end - b.begin);
  }
  if (b.end == b.w.columns) return finish_tile<Source>(b, row, token, sums);
  RING_UNROLL for (int r = 0; r < kRows; ++r) {
    RING_UNROLL for (int t = 0; t < kTokens; ++t)
        store(held + r * held_stride + t * kLanes, sums.of[r][t]);
  }
}

// All rows of the block and kTokens tokens, over the block's panel.
template <typename Source, int kTokens>
void multiply_tokens(const Block& b, int token, const float* x) {
  constexpr int kRows = rows_of_tile(kTokens);
  // As many whole tiles on as memory takes to answer.
  const int64_t tile_bytes = static_cast<int64_t>(kRows) * b.w.columns * Source::kBytes;
  const int64_t ahead = (kFetchBytes + tile_bytes - 1) / tile_bytes * tile_bytes;
  int row = b.row_begin;
  for (; row + kRows <= b.row_end; row += kRows)
    multiply_tile<Source, kRows, kTokens>(b, row, token, ahead, x);
  for (; row < b.row_end; ++row) multiply_tile<Source, 1, kTokens>(b, row, token, ahead, x);
}

// The one of multiply_tokens for so many tokens.
template <typename Source, int kTokens>
RING_INLINE void multiply_count(int count, const Block& b, int token, const float* x) {
  if constexpr (kTokens > 0) {
    if (count == kTokens) return multiply_tokens<Source, kTokens>(b, token, x);
    multiply_count<Source, kTokens - 1>(count, b, token, x);
  }
}

}  // namespace
}  // namespace RING_ISA_NAMESPACE
}  // namespace ring
