// See measure.h: the record that a library exports.
#include "measure.h"

namespace ring::cuda {
namespace {

#if defined(RING_EMULATED)
// Runs what it should keep, once.
cudaError_t record(cudaStream_t) { return cudaSuccess; }
cudaError_t keep(cudaStream_t, void** recording) {
  *recording = nullptr;
  return cudaSuccess;
}
cudaError_t replay(void*, cudaStream_t) { return cudaSuccess; }
cudaError_t forget(void*) { return cudaSuccess; }
#else
cudaError_t record(cudaStream_t stream) {
  return cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
}
cudaError_t keep(cudaStream_t stream, void** recording) {
  cudaGraph_t graph = nullptr;
  cudaError_t error = cudaStreamEndCapture(stream, &graph);
  if (error != cudaSuccess) return error;
  cudaGraphExec_t made = nullptr;
  error = cudaGraphInstantiate(&made, graph, 0);
  cudaGraphDestroy(graph);
  *recording = made;
  return error;
}
cudaError_t replay(void* recording, cudaStream_t stream) {
  return cudaGraphLaunch(static_cast<cudaGraphExec_t>(recording), stream);
}
cudaError_t forget(void* recording) {
  return cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(recording));
}
#endif

Measure make_record() {
  Measure m{};
  m.bytes = sizeof(Measure);
  m.allocate = [](void** memory, size_t bytes) { return cudaMalloc(memory, bytes); };
  m.release = [](void* memory) { return cudaFree(memory); };
  m.allocate_pinned = [](void** memory, size_t bytes) { return cudaMallocHost(memory, bytes); };
  m.release_pinned = [](void* memory) { return cudaFreeHost(memory); };
  m.copy = [](void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
    return cudaMemcpyAsync(to, from, bytes, kind, stream);
  };
  m.set = [](void* to, int value, size_t bytes, cudaStream_t stream) {
    return cudaMemsetAsync(to, value, bytes, stream);
  };
  m.open_stream = [](cudaStream_t* stream, unsigned flags) {
    return cudaStreamCreateWithFlags(stream, flags);
  };
  m.wait = [](cudaStream_t stream) { return cudaStreamSynchronize(stream); };
  m.take_error = [] { return cudaGetLastError(); };
  m.describe = [](cudaError_t error) { return cudaGetErrorString(error); };
  m.ask_memory = [](size_t* free_bytes, size_t* all_bytes) {
    return cudaMemGetInfo(free_bytes, all_bytes);
  };
  m.record = record;
  m.keep = keep;
  m.replay = replay;
  m.forget = forget;
  m.fill_randomly = fill_randomly;
  m.read_only = read_only;
  m.do_nothing = do_nothing;
  m.multiply_only = multiply_only;
  m.suits_tensor_cores = suits_tensor_cores;
  m.multiplies_narrow = multiplies_narrow;
  m.multiply_plainly = multiply_plainly;
  m.multiply_runs_plainly = multiply_runs_plainly;
  m.multiply_on_tensor_cores = multiply_on_tensor_cores;
  m.multiply_runs_on_tensor_cores = multiply_runs_on_tensor_cores;
  m.embed = embed;
  m.normalise = normalise;
  m.narrow = narrow;
  m.finish_projections = finish_projections;
  m.attention_part_floats = attention_part_floats;
  m.attend = attend;
  m.choose = choose;
  m.settle = settle;
  return m;
}

}  // namespace
}  // namespace ring::cuda

extern "C" __attribute__((visibility("default"))) const ring::cuda::Measure* ring_measure() {
  static const ring::cuda::Measure record = ring::cuda::make_record();
  return &record;
}
