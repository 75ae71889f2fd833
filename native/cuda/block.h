// Sums and maxima over the threads of a block, always by the same tree; and which block of several
// is the last.
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

// Whether the block is the last of so many that come here with this ticket, and so sees what they
// have written. For whole blocks; the ticket is 0 before and after.
__device__ inline bool comes_last(int32_t* ticket, int count) {
  __shared__ int before;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) before = atomicAdd(ticket, 1);
  __syncthreads();
  if (before + 1 < count) return false;
  __threadfence();
  if (threadIdx.x == 0) *ticket = 0;
  return true;
}

}  // namespace ring::cuda
