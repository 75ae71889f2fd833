// The arithmetic of the CPU backend as a table of functions, compiled once per instruction set from
// the same source (kernels.cc) and chosen at run time. All of them are pure: who calls them on
// which thread never shows in a result, and an output's bits do not depend on how many tokens are
// computed beside it (every output keeps its own accumulators over the columns, in one fixed
// order).
#pragma once
#include "../model.h"

namespace ring {

struct Kernels {
  const char* isa;

  // out[token * out_stride + row] = weight[row] . x[token] for rows [row_begin, row_end) and every
  // token; x is [tokens][columns]. scratch: kMatmulScratch floats of the calling thread.
  void (*matmul)(const Matrix& weight, int row_begin, int row_end, const float* x, int tokens,
                 float* out, int64_t out_stride, float* scratch);
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
};

// How matmul cuts a product. Columns come in panels, so that activations stay in the first cache
// (few tokens) and widened rows beside them (many tokens).
constexpr int kFewPanel = 8192;
constexpr int kManyPanel = 1024;
constexpr int kManyRows = 8;
constexpr int kBlockRows = 128;
constexpr int kSlabTokens = 128;
// How far ahead weights are fetched when rows are read whole.
constexpr int kPrefetchBytes = 4096;

// Floats of scratch that one thread needs, aligned to a cache line: widened rows, a slab of
// prepared activations, and the sums of a block of rows (64 floats an output, tiles rounded up).
constexpr int64_t kMatmulScratch = kManyRows * kManyPanel + (kSlabTokens + 8) * kManyPanel +
                                   int64_t{kSlabTokens + 8} * (kBlockRows + 32) * 64;

// The best table this processor runs, or the one that RING_ISA names (portable, avx2, avx512,
// avx512vbmi);
// null when that one is unknown or not supported here.
const Kernels* choose_kernels(const char* wanted);

}  // namespace ring
