// What a GPU can do at most, in loops that do nothing else: read, multiply, begin a kernel. And
// random weights, made where they are read. Only tests and measurements run these.
#include "fragments.h"
#include "measure.h"

namespace ring::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kLoads = kReadBytes / (kThreads * 16);  // of 16 bytes, in flight in a thread

template <typename Element>
__global__ void __launch_bounds__(kThreads)
    fill_elements(Element* out, int64_t count, const Element* values, uint64_t seed) {
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * 4;
  for (int64_t i = first; i < first + 4 && i < count; ++i) out[i] = values[random_index(seed, i)];
}

__global__ void __launch_bounds__(kThreads) read_bytes(const uint8_t* data, uint32_t* sink) {
  const uint8_t* from = data + static_cast<int64_t>(blockIdx.x) * kReadBytes + threadIdx.x * 16;
  uint4 seen[kLoads];
#pragma unroll
  for (int i = 0; i < kLoads; ++i) seen[i] = load_once(from + i * kThreads * 16);
  uint32_t all = 0;
#pragma unroll
  for (int i = 0; i < kLoads; ++i) all ^= seen[i].x ^ seen[i].y ^ seen[i].z ^ seen[i].w;
  // Random bytes give this number as rarely as any other; but the compiler cannot leave them
  // unread.
  if (all == 0x600df00du) *sink = all;
}

__global__ void run_nothing(int) {}

constexpr int kChains = 8;  // products that do not wait for each other

__global__ void __launch_bounds__(kThreads) multiply_fragments_only(int rounds, float* sink) {
  float sums[kChains][4] = {};
  uint32_t a[4], b[2];
  // Ones and small numbers: sums stay finite, and a GPU slows down for numbers as for zeros not.
  for (int i = 0; i < 4; ++i) a[i] = 0x34003c00u + (threadIdx.x * 37 + i * 11) % 512;
  for (int i = 0; i < 2; ++i) b[i] = 0x30003800u + (threadIdx.x * 53 + i * 29) % 512;
  for (int round = 0; round < rounds; ++round) {
#pragma unroll
    for (int chain = 0; chain < kChains; ++chain) multiply_fragments(sums[chain], a, b);
  }
  float all = 0;
#pragma unroll
  for (int chain = 0; chain < kChains; ++chain) all += sums[chain][0] + sums[chain][3];
  if (all == -1.0f) *sink = all;
}

}  // namespace

cudaError_t fill_randomly(cudaStream_t stream, uint8_t* out, int64_t count, int element_bytes,
                          const uint8_t* values, uint64_t seed) {
  const dim3 blocks(static_cast<unsigned>((count / 4 + kThreads - 1) / kThreads));
  if (element_bytes == 1) {
    RING_LAUNCH(fill_elements<uint8_t>, blocks, dim3(kThreads), 0, stream, out, count, values,
                seed);
  } else {
    RING_LAUNCH(fill_elements<uint16_t>, blocks, dim3(kThreads), 0, stream,
                reinterpret_cast<uint16_t*>(out), count, reinterpret_cast<const uint16_t*>(values),
                seed);
  }
  return cudaGetLastError();
}

cudaError_t read_only(cudaStream_t stream, const uint8_t* data, int64_t bytes, uint32_t* sink) {
  RING_LAUNCH(read_bytes, dim3(static_cast<unsigned>(bytes / kReadBytes)), dim3(kThreads), 0,
              stream, data, sink);
  return cudaGetLastError();
}

cudaError_t do_nothing(cudaStream_t stream) {
  RING_LAUNCH(run_nothing, dim3(1), dim3(kLanes), 0, stream, 0);
  return cudaGetLastError();
}

cudaError_t multiply_only(cudaStream_t stream, int rounds, float* sink, double* operations) {
  static const int processors = [] {
    cudaDeviceProp device;
    return cudaGetDeviceProperties(&device, 0) == cudaSuccess ? device.multiProcessorCount : 1;
  }();
  const int blocks = processors * 4;
  RING_LAUNCH(multiply_fragments_only, dim3(static_cast<unsigned>(blocks)), dim3(kThreads), 0,
              stream, rounds, sink);
  constexpr double kOfProduct = 2.0 * 16 * 8 * 16;
  *operations = kOfProduct * kChains * rounds * blocks * (kThreads / kLanes);
  return cudaGetLastError();
}

}  // namespace ring::cuda
