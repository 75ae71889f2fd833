// What is known of the residual stream before a layer is done, and what later routers make of it.
// No result of a step depends on any of this.
#include <algorithm>

#include "cpu.h"

namespace ring::cpu {
namespace {

// The stream as it will be but for the routed experts of `layer` that are not computed yet; the
// shared expert is known, and it is a part of every later stream.
void gather_stream(Cpu& cpu, const StepState& step, int32_t layer, float* out) {
  const Shape& s = cpu.shape;
  const bool has_shared = cpu.model.layers[layer].mlp.gate.present();
  cpu.pool.run(step.tokens, [&](int token, int) {
    const size_t at = static_cast<size_t>(token) * s.hidden;
    float* stream = out + at;
    std::copy_n(&step.residual[at], s.hidden, stream);
    if (has_shared) {
      for (int i = 0; i < s.hidden; ++i) stream[i] += step.shared[at + i];
    }
    for (int rank = 0; rank < s.top_k; ++rank) {
      const size_t pair = static_cast<size_t>(token) * s.top_k + rank;
      if (step.pair_known[pair] == 0) continue;
      cpu.kernels.add_rows(&step.weights[pair], &step.pair_output[pair * s.hidden], 1, stream,
                           s.hidden);
    }
  });
}

}  // namespace

// The early stream stands in for the real one, and what `mix` still needs of the normed one is
// kept.
Status attend_ahead(Cpu& cpu, StepState& step, int32_t layer) {
  gather_stream(cpu, step, layer, step.early_stream.data());
  std::swap(step.residual, step.early_stream);
  std::swap(step.normed, step.early_normed);
  // What is not finite there says nothing about the step.
  const int32_t bad_layer = step.bad_layer.load();
  const Status status = attend(cpu, step, layer + 1);
  step.bad_layer.store(bad_layer);
  std::swap(step.residual, step.early_stream);
  std::swap(step.normed, step.early_normed);
  return status;
}

Status look_ahead(Cpu& cpu, StepState& step, int32_t layer, int32_t later_layer, bool attended,
                  uint16_t* experts, float* scores) {
  const Shape& s = cpu.shape;
  const LayerWeights& w = cpu.model.layers[later_layer];
  // step.delta is free between attention and the next layer.
  if (!attended) gather_stream(cpu, step, layer, step.delta.data());
  const float* stream = attended ? step.early_stream.data() : step.delta.data();
  cpu.pool.run(step.tokens, [&](int token, int) {
    const size_t at = static_cast<size_t>(token) * s.hidden;
    cpu.kernels.rms_norm(stream + at, w.post_norm.data(), &step.delta[at], s.hidden, s.epsilon);
  });
  cpu.linear_f32(w.router, step.delta.data(), step.tokens, scores);
  choose_early(cpu, w.router_bias, step.tokens, experts, scores);
  return {};
}

}  // namespace ring::cpu
