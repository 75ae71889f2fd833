// The arithmetic of the CPU backend as a table of functions, compiled once per instruction set from
// the same source (kernels.cc) and chosen at run time. All of them are pure: who calls them on
// which thread never shows in a result, and an output's bits do not depend on how many tokens are
// computed beside it (every output keeps its own accumulators over the columns, in one fixed
// order).
#pragma once
#include "../model.h"

namespace ring {

using Matmul = void (*)(const Matrix& weight, int row_begin, int row_end, const float* x,
                        int tokens, float* out, int64_t out_stride, float* scratch);

struct Kernels {
  const char* isa;

  // out[token * out_stride + row] = weight[row] . x[token] for rows [row_begin, row_end) and every
  // token; x is [tokens][columns]. scratch: kMatmulScratch floats of the calling thread.
  Matmul matmul;
  // The same by BF16 products: activations are rounded to BF16. Weights that are stored as F32 are
  // multiplied as by matmul. Null where the instruction set has no such products.
  Matmul matmul_bf16;
  // One weight row widened and scaled.
  void (*read_row)(const Matrix& weight, int row, float* out);
  // out = weight * x / sqrt(mean(x^2) + epsilon). Returns the mean square, to find values that are
  // not finite.
  float (*rms_norm)(const float* x, const float* weight, float* out, int count, float epsilon);
  // out[r] = a . b[r] for `rows` vectors b of `count` elements, one after the other.
  void (*dots)(const float* a, const float* b, int count, int rows, float* out);
  void (*dots_bf16)(const float* a, const uint16_t* b, int count, int rows, float* out);
  // y += factors[r] * x[r], row after row.
  void (*add_rows)(const float* factors, const float* x, int rows, float* y, int count);
  void (*add_rows_bf16)(const float* factors, const uint16_t* x, int rows, float* y, int count);
  // x = softmax(x * scale).
  void (*softmax)(float* x, int count, float scale);
  // gate = silu(gate) * up, where silu(g) = g / (1 + exp(-g)); what an element becomes does not
  // depend on where it stands.
  void (*swiglu)(float* gate, const float* up, int64_t count);
};

// How matmul cuts a product: blocks of rows that share their scales, slabs of tokens, tiles of a
// few tokens, and panels of columns, so that a tile's activations stay in the first cache
// (kPanelFloats of it, kRowFloats with one token).
constexpr int kBlockRows = 128;
constexpr int kSlabTokens = 128;
constexpr int kPanelFloats = 6144;
constexpr int kRowFloats = 8192;
// From so many tokens on panels of so many columns are widened once and kept.
constexpr int kKeptTokens = 24;
constexpr int kKeptColumns = 1024;
// How far ahead weights are fetched, at least.
constexpr int kFetchBytes = 8192;

// Floats of scratch that one thread needs, aligned to a cache line: prepared activations, and the
// sums of a block of rows and a slab of tokens, a register of at most 16 floats an output.
constexpr int64_t kMatmulScratch = kRowFloats + int64_t{kSlabTokens} * kBlockRows * 16 +
                                   int64_t{kBlockRows} * kKeptColumns / 2;

// The best table this processor runs, or the one that RING_ISA names (portable, avx2, avx512,
// avx512vbmi, avx512bf16); null when that one is unknown or not supported here.
const Kernels* choose_kernels(const char* wanted);

}  // namespace ring
