// Sums and maxima over the threads of a block, always by the same tree.
#pragma once
#include "gpu.h"

namespace ring::cuda {

constexpr int kRowThreads = 256;  // of a block that takes one row

__device__ inline float larger(float a, float b) { return a > b ? a : b; }  // b where either is NaN

__device__ inline float warp_sum(float value) {
  for (int apart = kLanes / 2; apart > 0; apart /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, apart);
  }
  return value;
}

__device__ inline float warp_max(float value) {
  for (int apart = kLanes / 2; apart > 0; apart /= 2) {
    value = larger(__shfl_xor_sync(kAllLanes, value, apart), value);
  }
  return value;
}

// Of a whole block of kRowThreads; every thread gets it. `shared`: kRowThreads / kLanes floats that
// nobody else uses until the next barrier.
template <bool kIsMax>
__device__ inline float reduce_block(float value, float* shared) {
  const int warp = threadIdx.x / kLanes;
  value = kIsMax ? warp_max(value) : warp_sum(value);
  if (threadIdx.x % kLanes == 0) shared[warp] = value;
  __syncthreads();
  float all = shared[0];
  for (int w = 1; w < kRowThreads / kLanes; ++w)
    all = kIsMax ? larger(shared[w], all) : all + shared[w];
  return all;
}

}  // namespace ring::cuda
