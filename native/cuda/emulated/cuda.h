// What the backend uses of CUDA, on the processor: a launch runs its blocks one after the other, a
// block's threads are fibers, and barriers, votes, shuffles and matrix products are where fibers
// meet. Only for tests. Device memory is ordinary memory with its owner noted, so that an address
// sanitizer sees every access, and a pointer of the host handed to a kernel is refused. Streams do
// their work at once; with RING_DELAY_US in the environment only when somebody waits or time has
// passed, so that whoever reuses memory too early is found out. A stream that is recorded takes
// closures instead of doing them, and refuses what CUDA refuses then, and a little more: memory
// that is pinned by any thread meanwhile spoils it, whichever came first.
#pragma once
#include <math.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
// Blocks run one after the other, one launch at a time.
#define __shared__ static

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }

// --- the runtime ------------------------------------------------------------------------------

enum cudaError_t : int {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInsufficientDriver = 35,
  cudaErrorNoDevice = 100,
  cudaErrorNoKernelImageForDevice = 209,
  cudaErrorNotReady = 600,
  cudaErrorHostMemoryAlreadyRegistered = 712,
  cudaErrorHostMemoryNotRegistered = 713,
  cudaErrorStreamCaptureUnsupported = 900,
  cudaErrorStreamCaptureInvalidated = 901,
  cudaErrorStreamCaptureUnmatched = 903,
  cudaErrorStreamCaptureIsolation = 905,
};
enum cudaMemcpyKind {
  cudaMemcpyHostToDevice = 1,
  cudaMemcpyDeviceToHost = 2,
  cudaMemcpyDeviceToDevice = 3,
};
enum { cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2 };
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 };

namespace emulated {
struct Stream;
struct Event;
struct Graph;
}  // namespace emulated
using cudaStream_t = emulated::Stream*;
using cudaEvent_t = emulated::Event*;
using cudaGraph_t = emulated::Graph*;
using cudaGraphExec_t = emulated::Graph*;

struct cudaDeviceProp {
  char name[256];
  size_t totalGlobalMem;
  int major, minor, multiProcessorCount;
};

const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetLastError();
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* all_bytes);
cudaError_t cudaMalloc(void** pointer, size_t bytes);
cudaError_t cudaFree(void* pointer);
cudaError_t cudaMallocHost(void** pointer, size_t bytes);
cudaError_t cudaFreeHost(void* pointer);
constexpr unsigned cudaHostRegisterPortable = 1;
cudaError_t cudaHostRegister(void* pointer, size_t bytes, unsigned flags);
cudaError_t cudaHostUnregister(void* pointer);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch,
                              size_t width, size_t height, cudaMemcpyKind kind,
                              cudaStream_t stream);
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* made, cudaGraph_t graph,
                                 unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph);

// --- kernels ----------------------------------------------------------------------------------

namespace emulated {

// The thread that runs, as it sees itself.
struct Self {
  dim3 thread, block;
};
extern Self* self;
extern dim3 block_size, grid_size;
extern unsigned char* dynamic_shared;

// What has been done so far, for tests.
struct Counts {
  uint64_t kernels, graphs, waits;  // put by the host, not by a graph; waited for a stream
};
Counts counts();

// `check` is called when the kernel is put and when it runs.
void launch(dim3 grid, dim3 block, size_t shared_bytes, Stream* stream,
            std::function<void()> kernel, std::function<void()> check);

// Ends the program unless the pointer is null or lies in device memory.
void require_device(const void* pointer);

// Arguments of a kernel that hold pointers say so themselves, by for_pointers.
template <typename Argument>
void require_usable(const Argument& argument) {
  if constexpr (std::is_pointer_v<Argument>) {
    require_device(argument);
  } else if constexpr (requires { argument.for_pointers([](const void*) {}); }) {
    argument.for_pointers([](const void* pointer) { require_device(pointer); });
  }
}

template <typename... Parameters, typename... Arguments>
void launch_kernel(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
                   Stream* stream, const Arguments&... arguments) {
  static_assert((sizeof(Parameters) + ... + 0) <= 4096, "what older drivers pass to a kernel");
  launch(
      grid, block, shared_bytes, stream, [=] { kernel(arguments...); },
      [=] { (require_usable<std::decay_t<Arguments>>(arguments), ...); });
}

// Where the lanes of a warp meet. What each lane gets is worked out when the last has come.
uint32_t exchange(uint32_t value, int source_lane, int kind);
uint32_t vote(bool holds);
void multiply_fragments(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
void multiply_bf16_fragments(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);

float half_value(uint16_t half);
uint16_t half_nearest(float value);

template <typename Value>
Value exchange_as(Value value, int source_lane, int kind) {
  static_assert(sizeof(Value) == 4);
  uint32_t bits;
  memcpy(&bits, &value, 4);
  bits = exchange(bits, source_lane, kind);
  memcpy(&value, &bits, 4);
  return value;
}

inline int lane() { return static_cast<int>(self->thread.x % 32); }

}  // namespace emulated

#define threadIdx (::emulated::self->thread)
#define blockIdx (::emulated::self->block)
#define blockDim (::emulated::block_size)
#define gridDim (::emulated::grid_size)

void __syncthreads();
void __syncwarp();

template <typename Value>
Value __shfl_xor_sync(unsigned, Value value, int mask) {
  return emulated::exchange_as(value, emulated::lane() ^ mask, mask);
}
template <typename Value>
Value __shfl_sync(unsigned, Value value, int source) {
  return emulated::exchange_as(value, source, -1);
}
inline unsigned __ballot_sync(unsigned, bool holds) { return emulated::vote(holds); }

// Blocks take turns and fibers are never interrupted, so these need no care.
inline int atomicCAS(int* at, int expected, int value) {
  const int found = *at;
  if (found == expected) *at = value;
  return found;
}
inline int atomicAdd(int* at, int value) {
  const int found = *at;
  *at += value;
  return found;
}
inline void __threadfence() {}
inline int atomicOr(int* at, int value) {
  const int found = *at;
  *at |= value;
  return found;
}

inline int __clz(int value) {
  return value == 0 ? 32 : __builtin_clz(static_cast<unsigned>(value));
}

inline float __uint_as_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}
inline uint32_t __float_as_uint(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return bits;
}

#define RING_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  ::emulated::launch_kernel(+kernel, grid, block, shared_bytes, stream, __VA_ARGS__)
#define RING_DYNAMIC_SHARED(Element, name) \
  Element* const name = reinterpret_cast<Element*>(::emulated::dynamic_shared)
