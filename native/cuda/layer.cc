// First half of a layer: norm, projections, attention and its residual, in dense layers the MLP,
// and the router. What the router chose comes to the host, where experts are placed.
#include <algorithm>
#include <cstring>

#include "state.h"

namespace ring::cuda {
namespace {

Status attend_to_positions(Gpu& gpu, StepState& step, const LayerKv& kv) {
  const Shape& s = gpu.shape;
  const int64_t each = attention_part_floats(s, 1, step.longest);
  const auto together = static_cast<int32_t>(std::clamp<int64_t>(
      static_cast<int64_t>(gpu.attention_parts.count()) / each, 1, step.tokens));
  for (int32_t token = 0; token < step.tokens; token += together) {
    RING_GPU(attend(gpu.queue(), s, step.where, kv, token, std::min(together, step.tokens - token),
                    step.longest, gpu.qkv.data(), gpu.attention_parts.data(),
                    gpu.attention_tickets.data(), gpu.attended.wide()));
  }
  return {};
}

}  // namespace

void sort_pairs(StepState& step, int experts, int pairs) {
  std::vector<int32_t>& first = step.first_pair;
  std::fill(first.begin(), first.end(), 0);
  for (int pair = 0; pair < pairs; ++pair) ++first[step.chosen[pair] + 1];
  for (int expert = 0; expert < experts; ++expert) first[expert + 1] += first[expert];
  for (int pair = 0; pair < pairs; ++pair) step.pairs[first[step.chosen[pair]]++] = pair;
  for (int expert = experts; expert > 0; --expert) first[expert] = first[expert - 1];
  first[0] = 0;
}

Status attend(Gpu& gpu, StepState& step, int32_t layer, Stream& stream, int32_t* bad) {
  const Shape& s = gpu.shape;
  const Layer& w = gpu.weights.layers[layer];
  float* residual = stream.residual.data();
  const Activations normed = stream.normed.rows();
  RING_GPU(normalise(gpu.queue(), residual, w.input_norm, step.tokens, s.hidden, s.epsilon, normed,
                     bad, layer));
  RING_TRY(gpu.multiply(w.qkv, normed, step.tokens, {gpu.qkv.data()}));
  const LayerKv kv = gpu.kv_of(layer);
  RING_GPU(finish_projections(gpu.queue(), s, {w.qkv_bias, w.query_norm, w.key_norm}, step.where,
                              kv, step.tokens, gpu.qkv.data()));
  RING_TRY(attend_to_positions(gpu, step, kv));
  const Activations attended = gpu.attended.rows();
  if (gpu.takes_narrow(w.attention_out))
    RING_GPU(narrow(gpu.queue(), attended, step.tokens, s.heads * s.head_dim));
  RING_TRY(
      gpu.multiply(w.attention_out, attended, step.tokens, {residual, w.attention_out_bias, true}));
  RING_GPU(normalise(gpu.queue(), residual, w.post_norm, step.tokens, s.hidden, s.epsilon, normed,
                     bad, layer));
  if (s.is_moe(layer)) return {};
  return gpu.multiply_mlp(layer, normed, step.tokens, {residual, nullptr, true});
}

Status choose_experts(Gpu& gpu, StepState& step, int32_t layer, const Choices& choices,
                      const Hits& hits) {
  const Layer& w = gpu.weights.layers[layer];
  float* logits = gpu.router_logits.data();
  Run run;
  run.weight = w.router;
  run.rows = step.tokens;
  RING_GPU(multiply_plainly(gpu.queue(), run, step.stream.normed.rows(), {logits}));
  RING_GPU(choose(gpu.queue(), gpu.shape, logits, w.router_bias, step.tokens, choices, hits));
  return {};
}

Status route(Gpu& gpu, StepState& step, int32_t layer, uint16_t* experts, float* weights,
             float* scores) {
  const Shape& s = gpu.shape;
  const size_t pairs = static_cast<size_t>(step.tokens) * s.top_k;
  const size_t score_count = static_cast<size_t>(step.tokens) * s.experts;
  float* logits = gpu.router_logits.data();
  RING_TRY(choose_experts(
      gpu, step, layer, {step.experts.data(), step.weights.data(), step.order.data(), logits}, {}));
  if (step.keeps_pairs())
    RING_GPU(cudaMemsetAsync(step.pair_known.data(), 0, pairs, gpu.compute));
  else
    RING_GPU(cudaMemsetAsync(step.routed.data(), 0,
                             static_cast<size_t>(step.tokens) * s.hidden * sizeof(float),
                             gpu.compute));
  uint8_t* result = gpu.results.data();
  const auto fetch = [&](const void* from, size_t bytes) {
    uint8_t* to = result;
    result += bytes;
    return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, gpu.compute);
  };
  RING_GPU(fetch(step.weights.data(), pairs * sizeof(float)));
  if (scores != nullptr) RING_GPU(fetch(logits, score_count * sizeof(float)));
  RING_GPU(fetch(step.experts.data(), pairs * sizeof(uint16_t)));
  RING_TRY(gpu.wait());
  const uint8_t* fetched = gpu.results.data();
  const auto take = [&fetched](void* to, size_t bytes) {
    memcpy(to, fetched, bytes);
    fetched += bytes;
  };
  take(weights, pairs * sizeof(float));
  if (scores != nullptr) take(scores, score_count * sizeof(float));
  take(experts, pairs * sizeof(uint16_t));
  memcpy(step.chosen.data(), experts, pairs * sizeof(uint16_t));
  sort_pairs(step, s.experts, static_cast<int>(pairs));
  return {};
}

}  // namespace ring::cuda
