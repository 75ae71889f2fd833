// What later layers will probably want: their routers run early, on the stream as it is known
// before this layer's routed experts. It decides nothing: it tells whoever does when there is
// something to decide, and keeps the scores of recorded routing.
#include <algorithm>

#include "device.h"
#include "timed.h"

namespace ring {

// Behind what is being read for the layer already. Attended scores replace plain ones.
Status Device::foresee_layer(int32_t index, Step& step, Foreseen wish) {
  if (step.tokens > limit::ahead_tokens) wish = Foreseen::plainly;
  if (step.foreseen >= wish) return {};
  const Shape& s = model_.shape;
  RING_TRY(share_layer(index, step));
  const size_t tokens = static_cast<size_t>(step.tokens);
  step.foreseen_experts.assign(ahead_.size() * tokens * s.top_k, 0);
  step.foreseen_scores.assign(ahead_.size() * tokens * s.experts, 0.0f);
  double seconds = 0;
  {
    const Timed timed(&seconds);
    const bool attended = wish == Foreseen::attended;
    if (attended && step.layer + 1 < s.layers)
      RING_TRY(backend_->attend_ahead(compute_, index, step.layer));
    for (size_t at = 0; at < ahead_.size(); ++at) {
      const int32_t later = step.layer + ahead_[at];
      if (later >= s.layers) continue;
      RING_TRY(backend_->look_ahead(compute_, index, step.layer, later, attended,
                                    &step.foreseen_experts[at * tokens * s.top_k],
                                    &step.foreseen_scores[at * tokens * s.experts]));
    }
  }
  step.foreseen = wish;
  count(counter::ahead_s, seconds);
  if (is_awaiting_reads()) count(counter::overlapped_s, seconds);
  return {};
}

// Whether the step looks ahead from this layer, and nobody has been asked yet what to do about it.
bool Device::may_ask_ahead(const Step& step) const {
  return step.looks_ahead && !step.told_ahead && !ahead_.empty() &&
         step.layer + ahead_.front() < model_.shape.layers;
}

// Where nothing is awaited: asks if there is anything to decide.
Status Device::ask_ahead(int32_t index, Step& step) {
  if (!may_ask_ahead(step)) return {};
  RING_TRY(foresee_layer(index, step, Foreseen::plainly));
  step.told_ahead = true;
  step.asks_ahead = wants_guidance(step);
  return {};
}

// Whether the next layer would choose an expert that lies in no slot to compute with, or a later
// one an expert that is nowhere; or one is on its way for this layer that it did not choose.
bool Device::wants_guidance(const Step& step) const {
  const Shape& s = model_.shape;
  const auto first = static_cast<int32_t>(first_expert(step));
  for (size_t at = 0; at < ahead_.size(); ++at) {
    const int32_t later = step.layer + ahead_[at];
    if (later >= s.layers) continue;
    const int32_t first_later = (later - s.first_moe_layer) * s.experts;
    const size_t pairs = static_cast<size_t>(step.tokens) * s.top_k;
    const uint16_t* chosen = &step.foreseen_experts[at * pairs];
    for (size_t pair = 0; pair < pairs; ++pair)
      if (!(ahead_[at] == 1 ? slots_->holds(first_later + chosen[pair])
                            : slots_->holds_anywhere(first_later + chosen[pair])))
        return true;
  }
  return slots_->is_any_ahead(first, s.experts);
}

Status Device::foresee(int32_t id, bool attends, float* scores, size_t length) {
  Step* step = nullptr;
  RING_TRY(require_open());
  RING_TRY(find(id, &step));
  const bool is_at_stop =
      step->phase == Phase::running && step->routed && model_.shape.is_moe(step->layer);
  if (!is_at_stop || step->tokens > limit::ahead_tokens) {
    return failure(Code::bad_step,
                   "step %d is not at a stop, or of more than %d tokens: it cannot look ahead",
                   step->serial, limit::ahead_tokens);
  }
  const size_t count = ahead_.size() * step->tokens * model_.shape.experts;
  if (length < count)
    return failure(Code::bad_argument, "the array of scores must hold %zu values", count);
  step->told_ahead = true;
  const Status foreseen = foresee_layer(static_cast<int32_t>(step - steps_), *step,
                                        attends ? Foreseen::attended : Foreseen::plainly);
  if (foreseen.code == Code::lost) {
    std::fill_n(scores, count, 0.0f);
    return {};  // advance says so
  }
  if (foreseen.failed()) return foreseen;
  std::copy(step->foreseen_scores.begin(), step->foreseen_scores.end(), scores);
  return {};
}

Status Device::router_biases(float* biases, size_t length) const {
  RING_TRY(require_open());
  const Shape& s = model_.shape;
  const size_t experts = static_cast<size_t>(s.experts);
  if (length < experts * static_cast<size_t>(std::max(0, s.moe_layers())))
    return failure(Code::bad_argument, "the array of biases must hold all layers' experts");
  for (int32_t layer = s.first_moe_layer; layer < s.layers; ++layer) {
    const Vector& bias = model_.layers[layer].router_bias;
    float* row = biases + static_cast<size_t>(layer - s.first_moe_layer) * experts;
    if (bias.empty())
      std::fill_n(row, experts, 0.0f);
    else
      std::copy_n(bias.begin(), experts, row);
  }
  return {};
}

// The mean over the tokens; with one token its own.
void Device::publish_scores(const Step& step, const float* own) {
  const size_t experts = static_cast<size_t>(model_.shape.experts);
  float* row = scores_ + static_cast<size_t>(step.layer - model_.shape.first_moe_layer) * experts;
  std::copy_n(own, experts, row);
  for (int32_t token = 1; token < step.tokens; ++token)
    for (size_t e = 0; e < experts; ++e) row[e] += own[token * experts + e];
  const float share = 1.0f / static_cast<float>(step.tokens);
  for (size_t e = 0; e < experts; ++e) row[e] *= share;
}

// For recorded routing: [token][kind][experts] of this layer, where kinds are its own router, later
// ones, and where wanted later ones behind the next layer's attention.
Status Device::keep_scores(int32_t index, Step& step, const float* own) {
  const size_t experts = static_cast<size_t>(model_.shape.experts);
  const size_t kinds = kept_kinds(), tokens = static_cast<size_t>(step.tokens);
  float* const kept = &step.scores[static_cast<size_t>(step.layer - model_.shape.first_moe_layer) *
                                   tokens * kinds * experts];
  const auto keep = [&](const float* scores, size_t kind) {
    for (size_t token = 0; token < tokens; ++token)
      std::copy_n(scores + token * experts, experts, kept + (token * kinds + kind) * experts);
  };
  keep(own, 0);
  size_t kind = 1;
  for (const Foreseen wish : {Foreseen::plainly, Foreseen::attended}) {
    if (kind == kinds) break;
    RING_TRY(foresee_layer(index, step, wish));
    for (size_t at = 0; at < ahead_.size(); ++at, ++kind)
      keep(&step.foreseen_scores[at * tokens * experts], kind);
  }
  // Whoever looks ahead sees what is known then.
  step.foreseen = Foreseen::nothing;
  return {};
}

}  // namespace ring
