// The product of stored weights and activations, for one instruction set; a part of kernels.cc in a
// file of its own, included by nothing else.
//
// What makes a result independent of how it is computed: columns are taken 64 at a time (a group),
// a group widens to chunks of kLanes, and an output keeps four vectors of sums, chunk c of a group
// going to sum c mod 4. A block's scale multiplies the activations, once for every block of rows,
// so that the products themselves are a weight as stored times a number. With few tokens weights
// are widened on the way; with many a set of rows is widened once and meets tiles of tokens, one of
// the four sums at a time. The products and their order are the same, and so are the bits.
#pragma once
#include "kernels.h"
#include "simd.h"

#define RING_UNROLL _Pragma("GCC unroll 32")
// Whoever takes sums by reference must be inlined, or they live in memory.
#define RING_INLINE __attribute__((always_inline)) inline

namespace ring {
namespace RING_ISA_NAMESPACE {
namespace {

constexpr int kGroup = 64;
constexpr int kChunks = kGroup / kLanes;
constexpr int kSums = 4;
constexpr int kChunksPerSum = kChunks / kSums;

RING_INLINE float quiet_nan() { return __builtin_nanf(""); }
RING_INLINE int smaller(int a, int b) { return a < b ? a : b; }
RING_INLINE int round_up(int value, int step) { return (value + step - 1) / step * step; }

struct Chunks {
  Floats of[kChunks];
};

// --- stored weights -----------------------------------------------------------------------------
// Each kind widens a group of columns, exactly but for a power of two: kUp squared times what comes
// out is the weight, so activations and sums are each taken times kUp. It says in which order its
// lanes hold the columns, and marks codes that are NaN and did not come out as such.

struct Unmarked {
  void look(const uint8_t*) {}
  bool any() const { return false; }
};
struct E4m3 {
  using Mark = NanMark;
  static constexpr float kUp = kE4m3Up;
  static constexpr int kBytes = 1;
  static RING_INLINE void widen(const uint8_t* p, Chunks& out) { widen_e4m3(p, out.of); }
  static RING_INLINE void order(Chunks& x) { order_as_e4m3(x.of); }
};
struct Bf16 {
  using Mark = Unmarked;
  static constexpr float kUp = 1.0f;
  static constexpr int kBytes = 2;
  static RING_INLINE void widen(const uint8_t* p, Chunks& out) {
    RING_UNROLL for (int c = 0; c < kChunks; ++c) out.of[c] = load_bf16(p + 2 * c * kLanes);
  }
  static RING_INLINE void order(Chunks&) {}
};
struct F32 {
  using Mark = Unmarked;
  static constexpr float kUp = 1.0f;
  static constexpr int kBytes = 4;
  static RING_INLINE void widen(const uint8_t* p, Chunks& out) {
    RING_UNROLL for (int c = 0; c < kChunks; ++c) out.of[c] =
        load(reinterpret_cast<const float*>(p) + c * kLanes);
  }
  static RING_INLINE void order(Chunks&) {}
};

// A group that a row's end cuts short: nothing past it is read, a map may end there.
template <typename Source>
__attribute__((noinline)) void widen_short(const uint8_t* p, int count, Chunks& out,
                                           typename Source::Mark& mark) {
  alignas(64) uint8_t bytes[kGroup * Source::kBytes] = {0};
  memcpy(bytes, p, static_cast<size_t>(count) * Source::kBytes);
  mark.look(bytes);
  Source::widen(bytes, out);
}

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

RING_INLINE Floats load_short(const float* p, int count) {
  float lanes[kLanes] = {0};
  if (count > 0) memcpy(lanes, p, static_cast<size_t>(smaller(count, kLanes)) * 4);
  return load(lanes);
}

// The scales of kLanes columns; blocks of whole chunks have one for all of them.
RING_INLINE Floats factors_at(const float* scales, int block_columns, int column, int end) {
  if (block_columns % kLanes == 0) return splat(scales[column / block_columns]);
  float lanes[kLanes] = {0};
  for (int i = 0; i < smaller(kLanes, end - column); ++i)
    lanes[i] = scales[(column + i) / block_columns];
  return load(lanes);
}

// Columns [begin, end) of one token as the products want them: times their block's scale (scales
// null: unscaled), in the order of Source, zeros to the end of the last group, and the chunks of
// each sum together: chunk after chunk at out + sum * sum_stride.
template <typename Source>
void prepare(const float* x, const float* scales, int block_columns, int begin, int end,
             int64_t sum_stride, float* out) {
  const int groups = (end - begin + kGroup - 1) / kGroup;
  for (int g = 0; g < groups; ++g) {
    Chunks chunks;
    RING_UNROLL for (int c = 0; c < kChunks; ++c) {
      const int column = begin + g * kGroup + c * kLanes;
      chunks.of[c] =
          column + kLanes <= end ? load(x + column) : load_short(x + column, end - column);
      if (scales != nullptr && column < end) {
        const Floats factor = factors_at(scales, block_columns, column, end);
        chunks.of[c] = mul(chunks.of[c], mul(factor, splat(Source::kUp)));
      } else if (Source::kUp != 1.0f) {
        chunks.of[c] = mul(chunks.of[c], splat(Source::kUp));
      }
    }
    Source::order(chunks);
    RING_UNROLL for (int c = 0; c < kChunks; ++c) {
      store(out + (c % kSums) * sum_stride + (g * kChunksPerSum + c / kSums) * kLanes,
            chunks.of[c]);
    }
  }
}

// --- few tokens ---------------------------------------------------------------------------------

template <int kTokens>
struct Sums {
  Floats of[kTokens][kSums];
};

RING_INLINE Floats total(const Floats (&sums)[kSums]) {
  return add(add(sums[0], sums[1]), add(sums[2], sums[3]));
}

// What a sum is taken times at last: the power of two that widening left out, and the row's own
// scale.
template <typename Source>
RING_INLINE float last_factor(const Matrix& w, int row) {
  return w.scales != nullptr && w.block_columns == 0 ? Source::kUp * scales_of(w, row)[0]
                                                     : Source::kUp;
}

template <int kTokens>
RING_INLINE void add_group(const Chunks& w, const float* x, int64_t sum_stride,
                           int64_t token_stride, Sums<kTokens>& sums) {
  RING_UNROLL for (int c = 0; c < kChunks; ++c) {
    const float* column = x + (c % kSums) * sum_stride + c / kSums * kLanes;
    RING_UNROLL for (int t = 0; t < kTokens; ++t) {
      sums.of[t][c % kSums] = fma(w.of[c], load(column + t * token_stride), sums.of[t][c % kSums]);
    }
  }
}

// Groups [first, last) of a row, each widened by widen(p, chunks); fetches what lies `ahead` bytes
// on.
template <typename Source, int kTokens, typename Widen>
RING_INLINE void add_groups(const uint8_t* row, int64_t ahead, int first, int last, const float* x,
                            int64_t sum_stride, Sums<kTokens>& sums, const Widen& widen) {
  for (int g = first; g < last; ++g) {
    const uint8_t* p = row + static_cast<int64_t>(g) * kGroup * Source::kBytes;
    RING_UNROLL for (int line = 0; line < Source::kBytes; ++line)
        __builtin_prefetch(p + ahead + 64 * line);
    Chunks w;
    widen(p, w);
    add_group<kTokens>(w, x + g * kChunksPerSum * kLanes, sum_stride, kSums * sum_stride, sums);
  }
}

// A panel of columns of one row, `x` prepared.
template <typename Source, int kTokens>
RING_INLINE void add_panel(const uint8_t* row, int64_t ahead, int columns, const float* x,
                           Sums<kTokens>& sums, typename Source::Mark& mark) {
  const int whole = columns / kGroup, groups = (columns + kGroup - 1) / kGroup;
  const int64_t sum_stride = static_cast<int64_t>(groups) * kChunksPerSum * kLanes;
  const auto widen_direct = [&](const uint8_t* p, Chunks& w) {
    mark.look(p);
    Source::widen(p, w);
  };
  // A group is cut from two lines; of a row that begins with a line the last group is the last
  // line.
  const bool is_aligned = (reinterpret_cast<uintptr_t>(row) & 63) == 0;
  const int by_lines = kHasCodeLines && Source::kBytes == 1 ? (is_aligned ? whole - 1 : whole) : 0;
  if (by_lines > 0) {
    CodeLines lines(row);
    add_groups<Source, kTokens>(row, ahead, 0, by_lines, x, sum_stride, sums,
                                [&](const uint8_t*, Chunks& w) { lines.widen(w.of); });
  }
  add_groups<Source, kTokens>(row, ahead, by_lines > 0 ? by_lines : 0, whole, x, sum_stride, sums,
                              widen_direct);
  if (whole == groups) return;
  Chunks w;
  widen_short<Source>(row + static_cast<int64_t>(whole) * kGroup * Source::kBytes,
                      columns - whole * kGroup, w, mark);
  add_group<kTokens>(w, x + whole * kChunksPerSum * kLanes, sum_stride, kSums * sum_stride, sums);
}

// Rows [row_begin, row_end) of one block of rows, so that they share the prepared activations.
template <typename Source, int kTokens>
void few_tokens_block(const Matrix& w, int row_begin, int row_end, const float* x, float* out,
                      int64_t out_stride, float* scratch) {
  const float* scales = w.block_columns == 0 ? nullptr : scales_of(w, row_begin);
  float* const prepared = scratch;
  float* const held = scratch + kFewPanel;  // [rows][kTokens][kSums][kLanes]
  // Prepared activations of a panel stay in the first cache.
  constexpr int kPanel = kFewPanel / kTokens / kGroup * kGroup;
  typename Source::Mark marks[kBlockRows];
  // What is read soon: further on, or the same panel of the next row. Past the end of a map a fetch
  // does nothing.
  const int64_t ahead =
      w.columns > kPanel ? static_cast<int64_t>(w.columns) * Source::kBytes : kPrefetchBytes;
  for (int begin = 0; begin < w.columns; begin += kPanel) {
    const int end = smaller(begin + kPanel, w.columns);
    const int64_t token_stride = round_up(end - begin, kGroup);
    for (int t = 0; t < kTokens; ++t) {
      prepare<Source>(x + static_cast<int64_t>(t) * w.columns, scales, w.block_columns, begin, end,
                      token_stride / kSums, prepared + t * token_stride);
    }
    for (int row = row_begin; row < row_end; ++row) {
      Sums<kTokens> sums;
      float* const kept = held + static_cast<int64_t>(row - row_begin) * kTokens * kSums * kLanes;
      RING_UNROLL for (int t = 0; t < kTokens; ++t) {
        RING_UNROLL for (int s = 0; s < kSums; ++s) {
          sums.of[t][s] = begin == 0 ? zero() : load(kept + (t * kSums + s) * kLanes);
        }
      }
      typename Source::Mark mark = marks[row - row_begin];
      add_panel<Source, kTokens>(
          row_of<Source>(w, row) + static_cast<int64_t>(begin) * Source::kBytes, ahead, end - begin,
          prepared, sums, mark);
      marks[row - row_begin] = mark;
      RING_UNROLL for (int t = 0; t < kTokens; ++t) {
        if (end < w.columns) {
          RING_UNROLL for (int s = 0; s < kSums; ++s)
              store(kept + (t * kSums + s) * kLanes, sums.of[t][s]);
        } else {
          const float value = sum(total(sums.of[t])) * last_factor<Source>(w, row);
          out[t * out_stride + row] = mark.any() ? quiet_nan() : value;
        }
      }
    }
  }
}

// --- many tokens --------------------------------------------------------------------------------

// Columns [begin, end) of a row, widened, in the layout of prepare.
template <typename Source>
void widen_row(const uint8_t* row, int begin, int end, int64_t sum_stride, float* out) {
  const int groups = (end - begin + kGroup - 1) / kGroup;
  typename Source::Mark mark;
  for (int g = 0; g < groups; ++g) {
    const int column = begin + g * kGroup;
    const uint8_t* const p = row + static_cast<int64_t>(column) * Source::kBytes;
    Chunks w;
    if (column + kGroup <= end) {
      mark.look(p);
      Source::widen(p, w);
    } else {
      widen_short<Source>(p, end - column, w, mark);
    }
    RING_UNROLL for (int c = 0; c < kChunks; ++c) {
      store(out + (c % kSums) * sum_stride + (g * kChunksPerSum + c / kSums) * kLanes, w.of[c]);
    }
  }
  if (mark.any()) out[0] = quiet_nan();  // reaches every output of the row
}

// One of the four sums of a tile of outputs over a panel. held: [kTileTokens][kTileRows][kLanes],
// the sum so far. ahead: the next tokens' activations, fetched meanwhile.
template <int kRows, int kTokens>
void multiply_tile(const float* w, const float* x, int columns, bool is_first, const float* ahead,
                   float* held) {
  Floats sums[kTokens][kRows];
  RING_UNROLL for (int t = 0; t < kTokens; ++t) {
    RING_UNROLL for (int r = 0; r < kRows; ++r) {
      sums[t][r] = is_first ? zero() : load(held + (t * kTileRows + r) * kLanes);
    }
  }
  for (int k = 0; k < columns; k += kLanes) {
    RING_UNROLL for (int t = 0; t < kTokens; ++t) __builtin_prefetch(ahead + t * columns + k);
    Floats left[kRows];
    RING_UNROLL for (int r = 0; r < kRows; ++r) left[r] =
        held_in_register(load(w + r * columns + k));
    RING_UNROLL for (int t = 0; t < kTokens; ++t) {
      const Floats right = held_in_register(load(x + t * columns + k));
      RING_UNROLL for (int r = 0; r < kRows; ++r) sums[t][r] = fma(left[r], right, sums[t][r]);
    }
  }
  RING_UNROLL for (int t = 0; t < kTokens; ++t) {
    RING_UNROLL for (int r = 0; r < kRows; ++r)
        store(held + (t * kTileRows + r) * kLanes, sums[t][r]);
  }
}

using Tile = void (*)(const float*, const float*, int, bool, const float*, float*);

template <int kRows>
Tile tile_of_tokens(int tokens) {
  if constexpr (kTileTokens >= 6) {
    if (tokens == 6) return multiply_tile<kRows, 6>;
    if (tokens == 5) return multiply_tile<kRows, 5>;
  }
  if constexpr (kTileTokens >= 4) {
    if (tokens == 4) return multiply_tile<kRows, 4>;
  }
  return tokens == 3   ? multiply_tile<kRows, 3>
         : tokens == 2 ? multiply_tile<kRows, 2>
                       : multiply_tile<kRows, 1>;
}

Tile tile_of(int rows, int tokens) {
  if constexpr (kTileRows >= 4) {
    if (rows == 4) return tile_of_tokens<4>(tokens);
  }
  return rows == 3   ? tile_of_tokens<3>(tokens)
         : rows == 2 ? tile_of_tokens<2>(tokens)
                     : tile_of_tokens<1>(tokens);
}

constexpr int kTileFloats = kTileTokens * kTileRows * kLanes;

// The outputs of one token and a group of rows, from their sums in the tiles.
template <typename Source>
void finish_rows(const Matrix& w, int row, int count, const float* tiles, float* out) {
  for (int r = 0; r < count; r += 4) {
    Floats totals[4];
    for (int i = 0; i < 4; ++i) {
      const int at = smaller(r + i, count - 1);
      const float* const tile = tiles + static_cast<int64_t>(at / kTileRows) * kSums * kTileFloats +
                                at % kTileRows * kLanes;
      Floats sums[kSums];
      RING_UNROLL for (int s = 0; s < kSums; ++s) sums[s] = load(tile + s * kTileFloats);
      totals[i] = total(sums);
    }
    float values[4];
    store_sums(totals, values);
    for (int i = 0; i < smaller(4, count - r); ++i)
      out[r + i] = values[i] * last_factor<Source>(w, row + r + i);
  }
}

// Rows of one block of rows against a slab of tokens.
template <typename Source>
void many_tokens_block(const Matrix& w, int row_begin, int row_end, const float* x, int tokens,
                       float* out, int64_t out_stride, float* scratch) {
  const float* scales = w.block_columns == 0 ? nullptr : scales_of(w, row_begin);
  float* const panel = scratch;                            // [kManyRows][kManyPanel]
  float* const prepared = panel + kManyRows * kManyPanel;  // [kSlabTokens][kManyPanel]
  float* const held =
      prepared + kSlabTokens * kManyPanel;  // [row group][token tile][row tile][kSums][tile]
  constexpr int kRowTiles = (kManyRows + kTileRows - 1) / kTileRows;
  const int rows = row_end - row_begin, token_tiles = (tokens + kTileTokens - 1) / kTileTokens;
  for (int begin = 0; begin < w.columns; begin += kManyPanel) {
    const int end = smaller(begin + kManyPanel, w.columns);
    const bool is_only = begin == 0 && end == w.columns;
    // Of a sum's columns, rows (tokens) lie side by side: spread over all sets of the cache.
    const int columns = round_up(end - begin, kGroup) / kSums;
    const int64_t token_sums = static_cast<int64_t>(tokens) * columns,
                  row_sums = static_cast<int64_t>(kManyRows) * columns;
    for (int t = 0; t < tokens; ++t) {
      prepare<Source>(x + static_cast<int64_t>(t) * w.columns, scales, w.block_columns, begin, end,
                      token_sums, prepared + static_cast<int64_t>(t) * columns);
    }
    for (int first = 0; first < rows; first += kManyRows) {
      const int count = smaller(kManyRows, rows - first);
      float* const group = held + (is_only ? 0
                                           : static_cast<int64_t>(first / kManyRows) * token_tiles *
                                                 kRowTiles * kSums * kTileFloats);
      for (int r = 0; r < count; ++r) {
        widen_row<Source>(row_of<Source>(w, row_begin + first + r), begin, end, row_sums,
                          panel + static_cast<int64_t>(r) * columns);
      }
      for (int s = 0; s < kSums; ++s) {
        for (int tile = 0; tile < token_tiles; ++tile) {
          const int t = tile * kTileTokens;
          for (int r = 0; r < count; r += kTileRows) {
            const float* const tokens_of_tile =
                prepared + s * token_sums + static_cast<int64_t>(t) * columns;
            tile_of(smaller(kTileRows, count - r), smaller(kTileTokens, tokens - t))(
                panel + s * row_sums + static_cast<int64_t>(r) * columns, tokens_of_tile, columns,
                begin == 0, tokens_of_tile + static_cast<int64_t>(kTileTokens) * columns,
                group + ((tile * kRowTiles + r / kTileRows) * kSums + s) * kTileFloats);
          }
        }
      }
      if (end < w.columns) continue;
      for (int t = 0; t < tokens; ++t) {
        finish_rows<Source>(
            w, row_begin + first, count,
            group + static_cast<int64_t>(t / kTileTokens * kRowTiles) * kSums * kTileFloats +
                t % kTileTokens * kTileRows * kLanes,
            out + t * out_stride + row_begin + first);
      }
    }
  }
}

template <typename Source>
void multiply(const Matrix& w, int row_begin, int row_end, const float* x, int tokens, float* out,
              int64_t out_stride, float* scratch) {
  for (int row = row_begin; row < row_end;) {
    // Rows that share their scales share the prepared activations.
    const bool is_shared = w.scales == nullptr || w.block_columns == 0;
    const int block_end = is_shared ? row_end : (row / w.block_rows + 1) * w.block_rows;
    const int end = smaller(smaller(row_end, block_end), row + kBlockRows);
    switch (tokens) {
      case 1:
        few_tokens_block<Source, 1>(w, row, end, x, out, out_stride, scratch);
        break;
      case 2:
        few_tokens_block<Source, 2>(w, row, end, x, out, out_stride, scratch);
        break;
      case 3:
        few_tokens_block<Source, 3>(w, row, end, x, out, out_stride, scratch);
        break;
      case 4:
        few_tokens_block<Source, 4>(w, row, end, x, out, out_stride, scratch);
        break;
      default:
        for (int t = 0; t < tokens; t += kSlabTokens) {
          many_tokens_block<Source>(w, row, end, x + static_cast<int64_t>(t) * w.columns,
                                    smaller(kSlabTokens, tokens - t), out + t * out_stride,
                                    out_stride, scratch);
        }
    }
    row = end;
  }
}

}  // namespace
}  // namespace RING_ISA_NAMESPACE
}  // namespace ring
