// What a library of this backend hands to its tests beside the table: one kernel at a time, memory
// and streams to run it with, weights that are made on the GPU, and the loops that set ceilings. No
// engine uses it. Whoever opens it is built from the same sources: there is no version but its
// size. Time is taken by the caller's clock around many launches and one wait, so no function here
// tells any: that costs a few microseconds in milliseconds, and the emulation needs nothing for it.
#pragma once
#include "kernels.h"

namespace ring::cuda {

// ceilings.cu. Different numbers that weights are made of, a power of two.
constexpr int kRandomValues = 4096;
// Element i becomes values[random_index(seed, i)]; both lie in memory of the GPU. element_bytes: 1
// or 2; count: a multiple of four.
cudaError_t fill_randomly(cudaStream_t stream, uint8_t* out, int64_t count, int element_bytes,
                          const uint8_t* values, uint64_t seed);
// SplitMix64 (Steele, Lea, Flood 2014): one number for four elements, 16 bits of it for each.
__host__ __device__ inline int random_index(uint64_t seed, int64_t element) {
  uint64_t mixed = seed + (static_cast<uint64_t>(element) / 4 + 1) * 0x9E3779B97F4A7C15u;
  mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9u;
  mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EBu;
  mixed ^= mixed >> 31;
  return static_cast<int>(mixed >> element % 4 * 16 & (kRandomValues - 1));
}
// Reads every byte once; `bytes`: a multiple of kReadBytes. Nobody knows what `sink` holds then.
constexpr int64_t kReadBytes = 32 << 10;
cudaError_t read_only(cudaStream_t stream, const uint8_t* data, int64_t bytes, uint32_t* sink);
// A kernel without work.
cudaError_t do_nothing(cudaStream_t stream);
// Products of F16 fragments on all tensor cores, from registers; `operations`: two for each
// multiply-add.
cudaError_t multiply_only(cudaStream_t stream, int rounds, float* sink, double* operations);

struct Measure {
  uint64_t bytes;  // of this record

  cudaError_t (*allocate)(void** memory, size_t bytes);
  cudaError_t (*release)(void* memory);
  cudaError_t (*allocate_pinned)(void** memory, size_t bytes);
  cudaError_t (*release_pinned)(void* memory);
  cudaError_t (*copy)(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                      cudaStream_t stream);
  cudaError_t (*set)(void* to, int value, size_t bytes, cudaStream_t stream);
  cudaError_t (*open_stream)(cudaStream_t* stream, unsigned flags);
  cudaError_t (*wait)(cudaStream_t stream);
  cudaError_t (*take_error)();
  const char* (*describe)(cudaError_t error);
  cudaError_t (*ask_memory)(size_t* free_bytes, size_t* all_bytes);

  // What is given to the stream from `record` on is not run but kept, until `keep`; `replay` runs
  // it, as often as wanted. The emulation runs it at once and replays nothing.
  cudaError_t (*record)(cudaStream_t stream);
  cudaError_t (*keep)(cudaStream_t stream, void** recording);
  cudaError_t (*replay)(void* recording, cudaStream_t stream);
  cudaError_t (*forget)(void* recording);

  decltype(&cuda::fill_randomly) fill_randomly;
  decltype(&cuda::read_only) read_only;
  decltype(&cuda::do_nothing) do_nothing;
  decltype(&cuda::multiply_only) multiply_only;

  decltype(&cuda::suits_tensor_cores) suits_tensor_cores;
  decltype(&cuda::multiplies_narrow) multiplies_narrow;
  decltype(&cuda::multiply_plainly) multiply_plainly;
  decltype(&cuda::multiply_runs_plainly) multiply_runs_plainly;
  decltype(&cuda::multiply_on_tensor_cores) multiply_on_tensor_cores;
  decltype(&cuda::multiply_runs_on_tensor_cores) multiply_runs_on_tensor_cores;
  decltype(&cuda::embed) embed;
  decltype(&cuda::normalise) normalise;
  decltype(&cuda::narrow) narrow;
  decltype(&cuda::finish_projections) finish_projections;
  decltype(&cuda::attention_part_floats) attention_part_floats;
  decltype(&cuda::attend) attend;
  decltype(&cuda::choose) choose;
  decltype(&cuda::settle) settle;
};

// Exported by this name, extern "C".
constexpr const char* kMeasureSymbol = "ring_measure";
using MeasureTable = const Measure* (*)();

}  // namespace ring::cuda
