// What is known of the residual stream before a layer is done, and what later routers make of it.
// No result of a step depends on any of this.
#include <cstring>

#include "state.h"

namespace ring::cuda {
namespace {

Status gather(Gpu& gpu, const StepState& step, int32_t layer, float* out) {
  const Shape& s = gpu.shape;
  const bool has_shared = gpu.weights.layers[layer].mlp.gate.present();
  RING_GPU(gather_stream(gpu.queue(), pairs_of(step), step.stream.residual.data(),
                         has_shared ? step.shared.data() : nullptr, step.tokens, s.top_k, s.hidden,
                         out));
  return {};
}

Status check_size(const StepState& step) {
  if (step.tokens <= limit::ahead_tokens) return {};
  return failure(Code::bad_argument, "a step of %d tokens does not look ahead", step.tokens);
}

}  // namespace

Status attend_ahead(Gpu& gpu, StepState& step, int32_t layer) {
  RING_TRY(check_size(step));
  RING_TRY(gather(gpu, step, layer, step.early.residual.data()));
  // What is not finite there says nothing about the step.
  return attend(gpu, step, layer + 1, step.early, nullptr);
}

Status look_ahead(Gpu& gpu, StepState& step, int32_t layer, int32_t later_layer, bool attended,
                  uint16_t* experts, float* scores) {
  RING_TRY(check_size(step));
  const Shape& s = gpu.shape;
  const Layer& w = gpu.weights.layers[later_layer];
  const Activations rows = gpu.early_rows.rows();
  if (!attended) RING_TRY(gather(gpu, step, layer, rows.wide));
  const float* stream = attended ? step.early.residual.data() : rows.wide;
  RING_GPU(normalise(gpu.queue(), stream, w.post_norm, step.tokens, s.hidden, s.epsilon,
                     {rows.wide}, nullptr, later_layer));
  float* logits = gpu.router_logits.data();
  Run run;
  run.weight = w.router;
  run.rows = step.tokens;
  RING_GPU(multiply_plainly(gpu.queue(), run, rows, {logits}));
  RING_GPU(choose(gpu.queue(), s, logits, w.router_bias, step.tokens,
                  {gpu.ahead_experts.data(), gpu.ahead_weights.data(), nullptr, logits}));
  const size_t expert_bytes = static_cast<size_t>(step.tokens) * s.top_k * sizeof(uint16_t);
  const size_t score_bytes = static_cast<size_t>(step.tokens) * s.experts * sizeof(float);
  uint8_t* result = gpu.results.data();
  RING_GPU(cudaMemcpyAsync(result, logits, score_bytes, cudaMemcpyDeviceToHost, gpu.compute));
  RING_GPU(cudaMemcpyAsync(result + score_bytes, gpu.ahead_experts.data(), expert_bytes,
                           cudaMemcpyDeviceToHost, gpu.compute));
  RING_TRY(gpu.wait());
  memcpy(scores, result, score_bytes);
  memcpy(experts, result + score_bytes, expert_bytes);
  return {};
}

}  // namespace ring::cuda
