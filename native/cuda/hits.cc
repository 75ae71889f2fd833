// Layers without the host between them. The router looks up in the GPU's own table where the
// experts lie that a layer's tokens have chosen, and lists what they are computed by; where one is
// missing it stops what is put behind it, and the host goes on from there. The kernels are those of
// layers that the host looks after, so the bits are too. A whole step is one graph where the last
// one came far.
#include <algorithm>
#include <cstring>

#include "state.h"

namespace ring::cuda {
namespace {

bool is_like(const Matrix& a, const Matrix& b) {
  return a.rows == b.rows && a.columns == b.columns && a.dtype == b.dtype;
}

// Whether the shared expert can be computed in one launch with the others, by the same products as
// without them.
bool goes_with_experts(const Gpu& gpu, const Mlp& shared) {
  const Mlp& like = gpu.model.experts.front();
  if (!is_like(shared.gate, like.gate) || !is_like(shared.up, like.up) ||
      !is_like(shared.down, like.down))
    return false;
  for (const Matrix* matrix : {&shared.gate, &shared.up, &shared.down})
    if (gpu.uses_tensor_cores(*matrix) != gpu.are_experts_suitable) return false;
  return true;
}

// The experts as they have been listed, and the sum. An output lies where its pair has it, those of
// the shared expert behind all pairs.
Status put_experts(Gpu& gpu, StepState& step, int32_t layer, const Hits& hits,
                   const Choices& choices) {
  const Shape& s = gpu.shape;
  const Mlp& shared = gpu.weights.layers[layer].mlp;
  const bool is_among = hits.shared.gate.present();
  if (shared.gate.present() && !is_among) RING_TRY(share(gpu, step, layer));
  const int pairs = step.tokens * s.top_k, rows = pairs + (is_among ? step.tokens : 0);
  const int tiles = pairs + (is_among ? 1 : 0);
  float* const outputs = step.pair_output.data();
  const float* shared_outputs = is_among                ? outputs + int64_t{pairs} * s.hidden
                                : shared.gate.present() ? step.shared.data()
                                                        : nullptr;
  const PairOutputs added = {outputs, nullptr, choices.weights, choices.order, nullptr};
  const Mlp& first = gpu.model.experts.front();
  const Run like_gated = {gpu.weights.placed(first.gate, nullptr),
                          gpu.weights.placed(first.up, nullptr)};
  const Run like_down = {gpu.weights.placed(first.down, nullptr), {}};
  const HitLists& lists = hits.lists;
  const Activations normed = step.stream.normed.rows(), activated = gpu.activated.rows();
  const Order in = {lists.token_of_row, nullptr}, out = {nullptr, lists.pair_of_row};
  float* const residual = step.stream.residual.data();
  if (!gpu.are_experts_suitable) {
    RING_GPU(multiply_runs_plainly(gpu.queue(), like_gated, lists.gated, lists.tiles, tiles, normed,
                                   in, {activated.wide}));
    RING_GPU(multiply_runs_plainly(gpu.queue(), like_down, lists.down, lists.tiles, tiles,
                                   activated, out, {outputs}));
    RING_GPU(settle(gpu.queue(), added, nullptr, shared_outputs, step.tokens, s.top_k, s.hidden,
                    residual));
    return {};
  }
  RING_GPU(multiply_runs_on_tensor_cores(gpu.queue(), like_gated, lists.gated, lists.tiles, tiles,
                                         step.tokens, normed, in, {activated.wide}));
  if (gpu.takes_narrow(first.down)) RING_GPU(narrow(gpu.queue(), activated, rows, first.gate.rows));
  RING_GPU(multiply_runs_on_tensor_cores(
      gpu.queue(), like_down, lists.down, lists.tiles, tiles, step.tokens, activated, out,
      {outputs},
      {added, shared_outputs, residual, gpu.trail.ending_tickets(), step.tokens, s.top_k}));
  return {};
}

Status put_layer(Gpu& gpu, StepState& step, int32_t layer) {
  const Shape& s = gpu.shape;
  RING_TRY(attend(gpu, step, layer, step.stream, step.bad.data()));
  if (!s.is_moe(layer)) return {};
  const int32_t moe_layer = layer - s.first_moe_layer;
  const Choices choices = gpu.trail.choices(moe_layer, step.tokens);
  Hits hits = gpu.trail.hits(layer);
  hits.table = gpu.slots.table_of(moe_layer * s.experts);
  const Mlp& shared = gpu.weights.layers[layer].mlp;
  if (shared.gate.present() && goes_with_experts(gpu, shared)) hits.shared = shared;
  RING_TRY(choose_experts(gpu, step, layer, choices, hits));
  return put_experts(gpu, step, layer, hits, choices);
}

int32_t moe_layers_below(const Shape& s, int32_t layer) {
  return std::max(0, layer - s.first_moe_layer);
}

// Layers [first, end), and what they leave behind.
Status put_layers(Gpu& gpu, StepState& step, int32_t first, int32_t end) {
  RING_TRY(gpu.trail.begin(gpu.compute));
  gpu.stopped = gpu.trail.stopped();
  Status status;
  for (int32_t layer = first; layer < end && !status.failed(); ++layer)
    status = put_layer(gpu, step, layer);
  gpu.stopped = nullptr;
  RING_TRY(status);
  return gpu.trail.fetch(moe_layers_below(gpu.shape, first), moe_layers_below(gpu.shape, end),
                         step.tokens, gpu.compute);
}

// The layer that stopped becomes one whose routing the host has asked for.
Status hand_over(Gpu& gpu, StepState& step, int32_t layer, const HitRun& run) {
  const int32_t moe_layer = layer - gpu.shape.first_moe_layer;
  const size_t pairs = static_cast<size_t>(step.tokens) * gpu.shape.top_k;
  const Choices from = gpu.trail.choices(moe_layer, step.tokens);
  const auto copy = [&](void* to, const void* what, size_t bytes) {
    return cudaMemcpyAsync(to, what, bytes, cudaMemcpyDeviceToDevice, gpu.compute);
  };
  RING_GPU(copy(step.experts.data(), from.experts, pairs * sizeof(uint16_t)));
  RING_GPU(copy(step.weights.data(), from.weights, pairs * sizeof(float)));
  RING_GPU(copy(step.order.data(), from.order, pairs));
  RING_GPU(cudaMemsetAsync(step.pair_known.data(), 0, pairs, gpu.compute));
  memcpy(step.chosen.data(), run.experts + static_cast<size_t>(moe_layer) * pairs,
         pairs * sizeof(uint16_t));
  sort_pairs(step, gpu.shape.experts, static_cast<int>(pairs));
  return {};
}

// Layers whose MLP the processor computes: those that route are the host's from there on.
Status run_layers_in_ram(Gpu& gpu, StepState& step, HitRun* run) {
  const Shape& s = gpu.shape;
  for (; run->stopped < gpu.layers_in_ram(); ++run->stopped) {
    RING_TRY(attend(gpu, step, run->stopped, step.stream, step.bad.data()));
    if (!s.is_moe(run->stopped)) continue;
    const auto token = static_cast<size_t>(run->stopped - s.first_moe_layer) * step.tokens;
    return route(gpu, step, run->stopped, run->experts + token * s.top_k,
                 run->weights + token * s.top_k,
                 run->scores == nullptr ? nullptr : run->scores + token * s.experts);
  }
  return {};
}

// Whatever comes behind the layer that stops is waited for all the same, so that without a whole
// step to be expected first one MoE layer is tried, then twice as many, and so on.
Status run_spans(Gpu& gpu, StepState& step, int32_t index, HitRun* run) {
  const Shape& s = gpu.shape;
  const bool is_whole = run->stopped == gpu.layers_in_ram() && gpu.trail.goes_far;
  for (int32_t span = 1; run->stopped < s.layers; span *= 2) {
    const int32_t first = run->stopped;
    const int32_t end =
        is_whole ? s.layers : std::min(s.layers, std::max(first, s.first_moe_layer) + span);
    const auto put = [&] { return put_layers(gpu, step, first, end); };
    RING_TRY(is_whole ? gpu.graphs.run({index, step.tokens, step.longest}, gpu.compute,
                                       gpu.lent.pinning(), put)
                      : put());
    RING_TRY(gpu.wait());
    const int32_t stopped = gpu.trail.fetched_stop();
    run->stopped = stopped < 0 ? end : stopped;
    gpu.trail.tell(moe_layers_below(s, first), moe_layers_below(s, stopped < 0 ? end : stopped + 1),
                   step.tokens, run);
    if (stopped >= 0) return hand_over(gpu, step, stopped, *run);
  }
  return {};
}

}  // namespace

Status run_hits(Gpu& gpu, StepState& step, int32_t index, int32_t layer, HitRun* run) {
  if (step.tokens > gpu.trail.tokens_most() || !gpu.slots.is_open()) {
    return failure(Code::bad_argument, "a step of %d tokens does not run without the host",
                   step.tokens);
  }
  RING_TRY(gpu.slots.publish(gpu.compute));
  run->stopped = layer;
  RING_TRY(run_layers_in_ram(gpu, step, run));
  const int32_t begin = gpu.layers_in_ram();
  if (run->stopped < begin) return {};
  const bool is_whole = run->stopped == begin;
  RING_TRY(run_spans(gpu, step, index, run));
  if (is_whole) gpu.trail.goes_far = 2 * (run->stopped - begin) >= gpu.shape.layers - begin;
  return {};
}

}  // namespace ring::cuda
