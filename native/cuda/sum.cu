// Sums over what a layer's experts gave: one thread an element, pairs in a fixed order.
#include "kernels.h"

namespace ring::cuda {
namespace {

constexpr int kThreads = 256;

// Adds the routed outputs of a token in rising expert index.
__device__ float add_in_order(const PairOutputs& pairs, int token, int top_k, int columns,
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

__device__ inline int own_column() { return static_cast<int>(blockIdx.x * kThreads + threadIdx.x); }

__global__ void add_outputs_of(const PairOutputs pairs, int top_k, int columns, float* routed) {
  const int column = own_column(), token = static_cast<int>(blockIdx.y);
  if (column >= columns) return;
  float& sum = routed[static_cast<int64_t>(token) * columns + column];
  sum = add_in_order(pairs, token, top_k, columns, column, sum);
}

__global__ void settle_tokens(const PairOutputs pairs, const float* routed, const float* shared,
                              int top_k, int columns, float* residual) {
  const int column = own_column(), token = static_cast<int>(blockIdx.y);
  if (column >= columns) return;
  const int64_t at = static_cast<int64_t>(token) * columns + column;
  float sum = routed == nullptr ? 0.0f : routed[at];
  if (pairs.outputs != nullptr) sum = add_in_order(pairs, token, top_k, columns, column, sum);
  if (shared != nullptr) sum += shared[at];
  residual[at] += sum;
}

__global__ void gather_known(const PairOutputs pairs, const float* residual, const float* shared,
                             int top_k, int columns, float* out) {
  const int column = own_column(), token = static_cast<int>(blockIdx.y);
  if (column >= columns) return;
  const int64_t at = static_cast<int64_t>(token) * columns + column;
  float sum = residual[at];
  if (shared != nullptr) sum += shared[at];
  for (int rank = 0; rank < top_k; ++rank) {
    const int pair = token * top_k + rank;
    if (pairs.known[pair] == 0) continue;
    sum = fmaf(pairs.weights[pair], pairs.outputs[static_cast<int64_t>(pair) * columns + column],
               sum);
  }
  out[at] = sum;
}

__global__ void clear_listed(const int32_t* list, int columns, float* out) {
  const int column = own_column();
  if (column < columns) out[static_cast<int64_t>(list[blockIdx.y]) * columns + column] = 0;
}

__global__ void mark_listed(const int32_t* list, int rows, uint8_t* known) {
  const int row = own_column();
  if (row < rows) known[list[row]] = 1;
}

dim3 blocks(int columns, int rows) { return dim3((columns + kThreads - 1) / kThreads, rows); }

}  // namespace

cudaError_t add_outputs(cudaStream_t stream, const PairOutputs& pairs, int tokens, int top_k,
                        int columns, float* routed) {
  RING_LAUNCH(add_outputs_of, blocks(columns, tokens), dim3(kThreads), 0, stream, pairs, top_k,
              columns, routed);
  return cudaGetLastError();
}

cudaError_t settle(cudaStream_t stream, const PairOutputs& pairs, const float* routed,
                   const float* shared, int tokens, int top_k, int columns, float* residual) {
  RING_LAUNCH(settle_tokens, blocks(columns, tokens), dim3(kThreads), 0, stream, pairs, routed,
              shared, top_k, columns, residual);
  return cudaGetLastError();
}

cudaError_t gather_stream(cudaStream_t stream, const PairOutputs& pairs, const float* residual,
                          const float* shared, int tokens, int top_k, int columns, float* out) {
  RING_LAUNCH(gather_known, blocks(columns, tokens), dim3(kThreads), 0, stream, pairs, residual,
              shared, top_k, columns, out);
  return cudaGetLastError();
}

cudaError_t clear_rows(cudaStream_t stream, const int32_t* list, int rows, int columns,
                       float* out) {
  RING_LAUNCH(clear_listed, blocks(columns, rows), dim3(kThreads), 0, stream, list, columns, out);
  return cudaGetLastError();
}

cudaError_t mark_known(cudaStream_t stream, const int32_t* list, int rows, uint8_t* known) {
  RING_LAUNCH(mark_listed, blocks(rows, 1), dim3(kThreads), 0, stream, list, rows, known);
  return cudaGetLastError();
}

}  // namespace ring::cuda
