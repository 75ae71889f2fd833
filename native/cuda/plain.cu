// Products in F32, the plain way: a warp for each row of weights, its lanes taking every 32nd
// column, whatever the format and the shape. The checker of tensor.cu, and what multiplies where
// that cannot.
#include "kernels.h"
#include "stored.h"
#include "swiglu.h"

namespace ring::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kTokens = 8;  // that a warp takes at once

// Lanes' sums, so that each lane adds up those of one token, always in the same order.
struct LaneSums {
  float of[kTokens][kLanes + 1];

  __device__ float total(int token) const {
    float sum = 0;
    for (int lane = 0; lane < kLanes; ++lane) sum += of[token][lane];
    return sum;
  }
};

template <Dtype kDtype>
__device__ void multiply_stored(const Matrix& w, int row, const float* const (&x)[kTokens],
                                int count, float (&sums)[kTokens]) {
  const StoredRow<kDtype> stored = stored_row<kDtype>(w, row);
  const float* scales = scales_of(w, row);
  for (int k = static_cast<int>(threadIdx.x) % kLanes; k < w.columns; k += kLanes) {
    const float weight = stored.at(k) * scale_at(w, scales, k);
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      if (t < count) sums[t] = fmaf(weight, x[t][k], sums[t]);
    }
  }
}

__device__ void multiply_row(const Matrix& w, int row, const float* const (&x)[kTokens], int count,
                             LaneSums& out) {
  float sums[kTokens] = {};
  if (w.dtype == Dtype::f8_e4m3)
    multiply_stored<Dtype::f8_e4m3>(w, row, x, count, sums);
  else if (w.dtype == Dtype::bf16)
    multiply_stored<Dtype::bf16>(w, row, x, count, sums);
  else
    multiply_stored<Dtype::f32>(w, row, x, count, sums);
#pragma unroll
  for (int t = 0; t < kTokens; ++t) out.of[t][threadIdx.x % kLanes] = sums[t];
}

__device__ inline int64_t placed(const int32_t* places, int row) {
  return places == nullptr ? row : places[row];
}

__device__ void multiply_tile(const Run& run, int first, int end, const Activations& x,
                              const Order& order, const Outputs& outputs) {
  __shared__ LaneSums sums[kWarps], up_sums[kWarps];
  const int warp = static_cast<int>(threadIdx.x) / kLanes;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int row = static_cast<int>(blockIdx.x) * kWarps + warp;
  if (row >= run.weight.rows) return;  // the whole warp
  for (int token = first; token < end; token += kTokens) {
    const int count = end - token < kTokens ? end - token : kTokens;
    const float* of[kTokens];
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      const int last = token + (t < count ? t : 0);
      of[t] = x.wide + placed(order.source, last) * run.weight.columns;
    }
    multiply_row(run.weight, row, of, count, sums[warp]);
    if (run.up.rows > 0) multiply_row(run.up, row, of, count, up_sums[warp]);
    __syncwarp();
    if (lane < count) {
      float value = sums[warp].total(lane);
      if (run.up.rows > 0) value = swiglu(value, up_sums[warp].total(lane));
      if (outputs.bias != nullptr) value += outputs.bias[row];
      float* out = outputs.out + placed(order.target, token + lane) * run.weight.rows + row;
      *out = outputs.adds ? *out + value : value;
    }
    __syncwarp();
  }
}

__global__ void __launch_bounds__(kWarps* kLanes, 2)
    multiply_run(const int32_t* stopped, const Run run, const Activations x,
                 const Outputs outputs) {
  if (is_stopped(stopped)) return;
  const int first = static_cast<int>(blockIdx.y) * kTileRows;
  const int end = first + kTileRows < run.rows ? first + kTileRows : run.rows;
  multiply_tile(run, first, end, x, Order{}, outputs);
}

__global__ void __launch_bounds__(kWarps* kLanes, 2)
    multiply_tiles(const int32_t* stopped, const Run* runs, const Tile* tiles, const Activations x,
                   const Order order, const Outputs outputs) {
  if (is_stopped(stopped)) return;
  const Tile tile = tiles[blockIdx.y];
  multiply_tile(runs[tile.run], tile.row, tile.row + tile.rows, x, order, outputs);
}

dim3 blocks(const Run& run, int tiles) {
  return dim3((run.weight.rows + kWarps - 1) / kWarps, tiles);
}

}  // namespace

cudaError_t multiply_plainly(const Queue& queue, const Run& run, const Activations& x,
                             const Outputs& out) {
  RING_LAUNCH(multiply_run, blocks(run, (run.rows + kTileRows - 1) / kTileRows),
              dim3(kWarps * kLanes), 0, queue.stream, queue.stopped, run, x, out);
  return cudaGetLastError();
}

cudaError_t multiply_runs_plainly(const Queue& queue, const Run& like, const Run* runs,
                                  const Tile* tiles, int tile_count, const Activations& x,
                                  const Order& order, const Outputs& out) {
  RING_LAUNCH(multiply_tiles, blocks(like, tile_count), dim3(kWarps * kLanes), 0, queue.stream,
              queue.stopped, runs, tiles, x, order, out);
  return cudaGetLastError();
}

}  // namespace ring::cuda
