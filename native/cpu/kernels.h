// The arithmetic of the CPU backend as a table of functions, compiled once per instruction set from
// the same source (kernels.cc) and chosen at run time. All of them are pure: who calls them on which
// thread never shows in a result, and an output's bits do not depend on how many tokens are computed
// beside it (every output keeps its own accumulators over the columns, in one fixed order).
#pragma once
#include "../model.h"

namespace ring {

struct Kernels {
  const char* isa;

  // out[token * out_stride + row] = weight[row] . x[token] for rows [row_begin, row_end) and every
  // token; x is [tokens][columns]. scratch: matmul_scratch(columns) floats of the calling thread.
  void (*matmul)(const Matrix& weight, int row_begin, int row_end, const float* x, int tokens,
                 float* out, int64_t out_stride, float* scratch);
  // One weight row widened and scaled.
  void (*read_row)(const Matrix& weight, int row, float* out);
  // out = weight * x / sqrt(mean(x^2) + epsilon). Returns the mean square, to find values that are
  // not finite.
  float (*rms_norm)(const float* x, const float* weight, float* out, int count, float epsilon);
  float (*dot)(const float* a, const float* b, int count);
  float (*dot_bf16)(const float* a, const uint16_t* b, int count);
  // y += a * x
  void (*add_scaled)(float a, const float* x, float* y, int count);
  void (*add_scaled_bf16)(float a, const uint16_t* x, float* y, int count);
};

// Weight rows that matmul widens at once when there are many tokens.
constexpr int kRowsAtOnce = 4;

// Always inlined: kernels.cc is compiled for several processors, and the linker keeps one copy.
__attribute__((always_inline)) inline int64_t matmul_scratch(int64_t columns) { return kRowsAtOnce * ((columns + 15) / 16 * 16); }

// The best table this processor runs, or the one that RING_ISA names (portable, avx2, avx512);
// null when that one is unknown or not supported here.
const Kernels* choose_kernels(const char* wanted);

}  // namespace ring
