// Layers that the backend runs by itself, because all their experts lie in its slots: when it comes
// back, what they routed to is told as if each had routed under our eyes, in order, so whoever
// decides about experts learns no less. It decides nothing: where an expert is missing the step
// goes on as any other.
#include <algorithm>

#include "device.h"
#include "timed.h"

namespace ring {

// Where every layer is to be seen, or asked about later ones, or a part takes no part any more, the
// step goes layer by layer.
bool Device::may_run_hits(const Step& step) const {
  if (backend_->run_hits == nullptr || slots_ == nullptr || slots_->count() == 0 || lockstep_ ||
      keeps_scores_ || step.tokens > limit::ahead_tokens)
    return false;
  if (may_ask_ahead(step) && !slots_->holds_all()) return false;
  return std::none_of(step.faults.begin(), step.faults.end(),
                      [](const Status& fault) { return fault.failed(); });
}

Status Device::run_hits(int32_t index, Step& step) {
  const Shape& s = model_.shape;
  RING_TRY(slots_->settle());
  const size_t scores_each = static_cast<size_t>(step.tokens) * s.experts;
  const bool wants_scores = scores_ != nullptr && s.moe_layers() > 0;
  if (wants_scores) own_scores_.resize(static_cast<size_t>(s.moe_layers()) * scores_each);
  HitRun run = {step.layer, step.experts.data(), step.weights.data(),
                wants_scores ? own_scores_.data() : nullptr};
  {
    const Timed timed(&counters_[counter_of(step, counter::mix_s)]);  // most of it
    RING_TRY(backend_->run_hits(compute_, index, step.layer, &run));
  }
  step.awaited_copy = 0;
  for (; step.layer < s.layers; ++step.layer) {
    if (s.is_moe(step.layer)) {
      const auto moe_layer = static_cast<size_t>(step.layer - s.first_moe_layer);
      note_routing(step, wants_scores ? run.scores + moe_layer * scores_each : nullptr);
    }
    if (step.layer == run.stopped) break;
    step.wanted.clear();
  }
  step.routed = step.layer < s.layers;
  return check_memory();
}

}  // namespace ring
