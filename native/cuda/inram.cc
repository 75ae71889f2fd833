// What the processor computes of a step: products with weights that stay in RAM because the GPU has
// no room for them. Rows of activations come to the host and what is made of them goes back, so
// these functions wait; no graph holds them.
#include "state.h"

namespace ring::cuda {
namespace {

Status fetch_rows(Gpu& gpu, const float* x, int rows) {
  const size_t bytes = static_cast<size_t>(rows) * gpu.shape.hidden * sizeof(float);
  RING_GPU(cudaMemcpyAsync(gpu.given.data(), x, bytes, cudaMemcpyDeviceToHost, gpu.compute));
  return gpu.wait();
}

}  // namespace

Status multiply_in_ram(Gpu& gpu, const Matrix& weight, const float* x, int rows, float* out) {
  RING_TRY(fetch_rows(gpu, x, rows));
  const Processor& processor = *gpu.limits.processor;
  processor.multiply(processor.self, &weight, gpu.given.data(), rows, out);
  return {};
}

Status multiply_mlp_in_ram(Gpu& gpu, const Mlp& mlp, const float* x, int rows, bool adds,
                           float* out) {
  RING_TRY(fetch_rows(gpu, x, rows));
  const Processor& processor = *gpu.limits.processor;
  processor.multiply_mlp(processor.self, &mlp, gpu.given.data(), rows, gpu.taken.data());
  const size_t bytes = static_cast<size_t>(rows) * gpu.shape.hidden * sizeof(float);
  float* const to = adds ? gpu.arrived.data() : out;
  RING_GPU(cudaMemcpyAsync(to, gpu.taken.data(), bytes, cudaMemcpyHostToDevice, gpu.compute));
  if (!adds) return {};
  RING_GPU(settle(gpu.queue(), PairOutputs{}, nullptr, to, rows, 0, gpu.shape.hidden, out));
  return {};
}

}  // namespace ring::cuda
