// Sums over what a layer's experts gave: one thread an element, pairs in a fixed order.
#include "sum.h"

namespace ring::cuda {
namespace {

constexpr int kThreads = 256;

__device__ inline int own_column() { return static_cast<int>(blockIdx.x * kThreads + threadIdx.x); }

__global__ void add_outputs_of(const int32_t* stopped, const PairOutputs pairs, int top_k,
                               int columns, float* routed) {
  if (is_stopped(stopped)) return;
  const int column = own_column(), token = static_cast<int>(blockIdx.y);
  if (column >= columns) return;
  float& sum = routed[static_cast<int64_t>(token) * columns + column];
  sum = add_in_order(pairs, token, top_k, columns, column, sum);
}

__global__ void settle_tokens(const int32_t* stopped, const PairOutputs pairs, const float* routed,
                              const float* shared, int top_k, int columns, float* residual) {
  if (is_stopped(stopped)) return;
  const int column = own_column(), token = static_cast<int>(blockIdx.y);
  if (column >= columns) return;
  settle_one(pairs, routed, shared, token, top_k, columns, column, residual);
}

__global__ void gather_known(const int32_t* stopped, const PairOutputs pairs, const float* residual,
                             const float* shared, int top_k, int columns, float* out) {
  if (is_stopped(stopped)) return;
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

__global__ void clear_listed(const int32_t* stopped, const int32_t* list, int columns, float* out) {
  if (is_stopped(stopped)) return;
  const int column = own_column();
  if (column < columns) out[static_cast<int64_t>(list[blockIdx.y]) * columns + column] = 0;
}

__global__ void mark_listed(const int32_t* stopped, const int32_t* list, int rows, uint8_t* known) {
  if (is_stopped(stopped)) return;
  const int row = own_column();
  if (row < rows) known[list[row]] = 1;
}

dim3 blocks(int columns, int rows) { return dim3((columns + kThreads - 1) / kThreads, rows); }

}  // namespace

cudaError_t add_outputs(const Queue& queue, const PairOutputs& pairs, int tokens, int top_k,
                        int columns, float* routed) {
  RING_LAUNCH(add_outputs_of, blocks(columns, tokens), dim3(kThreads), 0, queue.stream,
              queue.stopped, pairs, top_k, columns, routed);
  return cudaGetLastError();
}

cudaError_t settle(const Queue& queue, const PairOutputs& pairs, const float* routed,
                   const float* shared, int tokens, int top_k, int columns, float* residual) {
  RING_LAUNCH(settle_tokens, blocks(columns, tokens), dim3(kThreads), 0, queue.stream,
              queue.stopped, pairs, routed, shared, top_k, columns, residual);
  return cudaGetLastError();
}

cudaError_t gather_stream(const Queue& queue, const PairOutputs& pairs, const float* residual,
                          const float* shared, int tokens, int top_k, int columns, float* out) {
  RING_LAUNCH(gather_known, blocks(columns, tokens), dim3(kThreads), 0, queue.stream, queue.stopped,
              pairs, residual, shared, top_k, columns, out);
  return cudaGetLastError();
}

cudaError_t clear_rows(const Queue& queue, const int32_t* list, int rows, int columns, float* out) {
  RING_LAUNCH(clear_listed, blocks(columns, rows), dim3(kThreads), 0, queue.stream, queue.stopped,
              list, columns, out);
  return cudaGetLastError();
}

cudaError_t mark_known(const Queue& queue, const int32_t* list, int rows, uint8_t* known) {
  RING_LAUNCH(mark_listed, blocks(rows, 1), dim3(kThreads), 0, queue.stream, queue.stopped, list,
              rows, known);
  return cudaGetLastError();
}

}  // namespace ring::cuda
