// The product of stored weights and activations, for one instruction set; a part of kernels.cc in a
// file of its own, included by nothing else.
//
// What makes a result independent of how it is computed: an output has one vector of sums, to which
// its columns are added group after group (stored.h), part after part. A block's scale multiplies
// the activations, once for every block of rows, so that the products themselves are a weight as
// stored times a number. A tile of outputs, a few rows times a few tokens, is computed at a time:
// several rows, so that as many additions are under way as the processor has room for; several
// tokens, so that a weight is widened once for all of them (tiles.h), or once for all tiles
// (kept.h).
#pragma once
#include "kept.h"

namespace ring {
namespace RING_ISA_NAMESPACE {
namespace {

template <typename Source>
void multiply_block(const Matrix& w, int row_begin, int row_end, const float* x, int tokens,
                    float* out, int64_t out_stride, float* scratch) {
  const float* scales = w.block_columns == 0 ? nullptr : scales_of(w, row_begin);
  uint8_t has_nans[kBlockRows] = {0};
  const bool keeps = keeps_panels<Source>(tokens);
  const int tile_tokens = keeps ? kFloatTokens : Source::kTileTokens;
  const int tiles = (tokens + tile_tokens - 1) / tile_tokens;
  const int most = (tokens + tiles - 1) / tiles;  // tokens of a tile; some have one less
  // Of one token whole rows, so that they are read as they lie.
  const int panel_floats = tokens == 1 ? kRowFloats : kPanelFloats;
  const int panel = keeps ? kKeptColumns : panel_floats / (most * kPartsFloats<Source>)*kGroup;
  float* const kept = scratch + kRowFloats + int64_t{kSlabTokens} * kBlockRows * kLanes;
  Block b = {w, row_begin, row_end, tokens, out, out_stride, 0, 0, scratch + kRowFloats, has_nans};
  for (b.begin = 0; b.begin < w.columns; b.begin = b.end) {
    b.end = smaller(b.begin + panel, w.columns);
    if (keeps) keep_panel<Source>(b, kept);
    for (int tile = 0; tile < tiles; ++tile) {
      const int token = tile * tokens / tiles, count = (tile + 1) * tokens / tiles - token;
      for (int t = 0; t < count; ++t) {
        prepare<Source>(x + static_cast<int64_t>(token + t) * w.columns, scales, w.block_columns,
                        b.begin, b.end, static_cast<int64_t>(count) * kPartsFloats<Source>,
                        scratch + t * kPartsFloats<Source>);
      }
      if (keeps) {
        if constexpr (Source::kBytes < 4)
          multiply_kept_count<Source, kFloatTokens>(count, b, token, kept, scratch);
      } else {
        multiply_count<Source, Source::kTileTokens>(count, b, token, scratch);
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
    for (int t = 0; t < tokens; t += kSlabTokens) {
      multiply_block<Source>(w, row, end, x + static_cast<int64_t>(t) * w.columns,
                             smaller(kSlabTokens, tokens - t), out + t * out_stride, out_stride,
                             scratch);
    }
    row = end;
  }
}

}  // namespace
}  // namespace RING_ISA_NAMESPACE
}  // namespace ring
