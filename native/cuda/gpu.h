// The dialect of CUDA in which this backend is written: what a source may use of CUDA is what this
// header brings in, and every launch goes through RING_LAUNCH. With RING_EMULATED the same sources
// are plain C++ over emulated/cuda.h, where blocks run one after the other on the processor; so
// whatever needs no GPU to be tested is tested without one.
#pragma once
#if defined(RING_EMULATED)
#include "emulated/cuda.h"
#else
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define RING_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  kernel<<<grid, block, shared_bytes, stream>>>(__VA_ARGS__)
// Shared memory whose size the launch gives.
#define RING_DYNAMIC_SHARED(Element, name)                             \
  extern __shared__ __align__(16) unsigned char ring_dynamic_shared[]; \
  Element* const name = reinterpret_cast<Element*>(ring_dynamic_shared)
#endif

#include "../status.h"

namespace ring::cuda {

constexpr int kLanes = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

// After an error that is not about memory the device is lost: CUDA refuses every later call.
inline Status status_of(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return {};
  cudaGetLastError();  // else the next launch of this thread would report it
  const Code code = error == cudaErrorMemoryAllocation ? Code::out_of_memory : Code::lost;
  return failure(code, "the GPU failed: %s (%s)", cudaGetErrorString(error), what);
}

// See Queue. The same for every thread of a kernel.
__device__ inline bool is_stopped(const int32_t* stopped) {
  return stopped != nullptr && *stopped >= 0;
}

}  // namespace ring::cuda

#define RING_GPU(call) RING_TRY(::ring::cuda::status_of(call, #call))
