// How one element of a layer's sum is made, wherever that is done.
#pragma once
#include "kernels.h"

namespace ring::cuda {

// Adds the routed outputs of a token in rising expert index.
__device__ inline float add_in_order(const PairOutputs& pairs, int token, int top_k, int columns,
                                     int column, float sum) {
  for (int i = 0; i < top_k; ++i) {
    const int pair = token * top_k + pairs.order[token * top_k + i];
    const int row = pairs.row_of_pair == nullptr ? pair : pairs.row_of_pair[pair];
    if (row < 0) continue;
    sum =
        fmaf(pairs.weights[pair], pairs.outputs[static_cast<int64_t>(row) * columns + column], sum);
  }
  return sum;
}

// residual += (routed + the outputs, in rising index) + shared, at one column of a token.
__device__ inline void settle_one(const PairOutputs& pairs, const float* routed,
                                  const float* shared, int token, int top_k, int columns,
                                  int column, float* residual) {
  const int64_t at = static_cast<int64_t>(token) * columns + column;
  float sum = routed == nullptr ? 0.0f : routed[at];
  if (pairs.outputs != nullptr) sum = add_in_order(pairs, token, top_k, columns, column, sum);
  if (shared != nullptr) sum += shared[at];
  residual[at] += sum;
}

}  // namespace ring::cuda
