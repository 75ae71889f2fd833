// The functions that cases call by their names, as the opened library has them.
#include "door.h"

using ring::gpu::door;

extern "C" const ring::Backend* ring_backend() { return door().backend; }

extern "C" int32_t ring_probe(ring::BackendProbe* probe) {
  *probe = door().probe;
  return 0;
}

// --- the runtime ------------------------------------------------------------------------------

// As on the emulation, what nobody has written reads as NaN.
cudaError_t cudaMalloc(void** memory, size_t bytes) {
  const ring::cuda::Measure& m = *door().measure;
  static const cudaStream_t stream = [&] {
    cudaStream_t made = nullptr;
    return m.open_stream(&made, cudaStreamNonBlocking) == cudaSuccess ? made : nullptr;
  }();
  cudaError_t error = m.allocate(memory, bytes);
  if (error != cudaSuccess) m.take_error();  // else the next launch would report it
  if (error != cudaSuccess || bytes == 0) return error;
  error = m.set(*memory, 0xff, bytes, stream);
  return error == cudaSuccess ? m.wait(stream) : error;
}
cudaError_t cudaFree(void* memory) { return door().measure->release(memory); }
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  return door().measure->copy(to, from, bytes, kind, stream);
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return door().measure->open_stream(stream, flags);
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) { return door().measure->wait(stream); }
const char* cudaGetErrorString(cudaError_t error) { return door().measure->describe(error); }

// --- kernels ----------------------------------------------------------------------------------

namespace ring::cuda {

bool suits_tensor_cores(const Matrix& weight) { return door().measure->suits_tensor_cores(weight); }
bool multiplies_narrow(const Matrix& weight) { return door().measure->multiplies_narrow(weight); }
cudaError_t multiply_plainly(const Queue& queue, const Run& run, const Activations& x,
                             const Outputs& out) {
  return door().measure->multiply_plainly(queue, run, x, out);
}
cudaError_t multiply_runs_plainly(const Queue& queue, const Run& like, const Run* runs,
                                  const Tile* tiles, int tile_count, const Activations& x,
                                  const Order& order, const Outputs& out) {
  return door().measure->multiply_runs_plainly(queue, like, runs, tiles, tile_count, x, order, out);
}
cudaError_t multiply_on_tensor_cores(const Queue& queue, const Run& run, const Activations& x,
                                     const Outputs& out) {
  return door().measure->multiply_on_tensor_cores(queue, run, x, out);
}
cudaError_t multiply_runs_on_tensor_cores(const Queue& queue, const Run& like, const Run* runs,
                                          const Tile* tiles, int tile_count, int rows_most,
                                          const Activations& x, const Order& order,
                                          const Outputs& out, const Ending& ending) {
  return door().measure->multiply_runs_on_tensor_cores(queue, like, runs, tiles, tile_count,
                                                       rows_most, x, order, out, ending);
}
cudaError_t embed(const Queue& queue, const Matrix& embedding, bool are_gathered,
                  const int32_t* ids, int tokens, float* out) {
  return door().measure->embed(queue, embedding, are_gathered, ids, tokens, out);
}
cudaError_t normalise(const Queue& queue, const float* x, const float* weight, int rows,
                      int columns, float epsilon, const Activations& out, int32_t* bad, int layer) {
  return door().measure->normalise(queue, x, weight, rows, columns, epsilon, out, bad, layer);
}
cudaError_t narrow(const Queue& queue, const Activations& x, int rows, int columns) {
  return door().measure->narrow(queue, x, rows, columns);
}
cudaError_t finish_projections(const Queue& queue, const Shape& shape, const HeadWeights& weights,
                               const Positions& where, const LayerKv& kv, int tokens, float* qkv) {
  return door().measure->finish_projections(queue, shape, weights, where, kv, tokens, qkv);
}
int64_t attention_part_floats(const Shape& shape, int tokens, int longest) {
  return door().measure->attention_part_floats(shape, tokens, longest);
}
cudaError_t attend(const Queue& queue, const Shape& shape, const Positions& where,
                   const LayerKv& kv, int first_token, int tokens, int longest, const float* qkv,
                   float* parts, int32_t* tickets, float* out) {
  return door().measure->attend(queue, shape, where, kv, first_token, tokens, longest, qkv, parts,
                                tickets, out);
}
cudaError_t choose(const Queue& queue, const Shape& shape, const float* logits, const float* bias,
                   int tokens, const Choices& choices, const Hits& hits) {
  return door().measure->choose(queue, shape, logits, bias, tokens, choices, hits);
}

}  // namespace ring::cuda
