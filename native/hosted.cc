// Experts that the processor computes where they lie in RAM, while others are copied to the backend
// that computes the rest. It decides nothing: a place in the tier below the slots is what asks for
// it. What comes out joins the other outputs before any is added up.
#include <algorithm>

#include "device.h"
#include "timed.h"

namespace ring {

// Whether the place is in the tier below that of the slots.
bool Device::is_on_host(int32_t place) const {
  return place >= 0 && slots_ != nullptr && slots_->below() != nullptr &&
         place >> limit::slot_bits == static_cast<int32_t>(slots_->below()->tier());
}

// What the layer's experts are computed on comes to where the processor computes some of them.
Status Device::fetch_input(int32_t index, Step& step) {
  RING_TRY(host_.open(model_, limits_));
  const Timed timed(&counters_[counter::host_s]);
  host_input_.resize(static_cast<size_t>(step.tokens) * model_.shape.hidden);
  return backend_->read_input(compute_, index, host_input_.data());
}

// Experts where they lie in RAM, by the processor, while others are copied. Their outputs join the
// others' before any is added up.
Status Device::mix_on_host(int32_t index, Step& step) {
  const Shape& s = model_.shape;
  const auto first = static_cast<int32_t>(first_expert(step));
  const size_t hidden = static_cast<size_t>(s.hidden);
  const auto pairs = static_cast<int32_t>(step.tokens * s.top_k);
  const uint16_t* chosen =
      &step.experts[static_cast<size_t>(step.layer - s.first_moe_layer) * pairs];
  const Timed timed(&counters_[counter::host_s]);
  step.ready.clear();
  for (const int32_t expert : step.hosted)
    step.ready.push_back(slots_->below()->find(first + expert, expert));
  RING_TRY(host_.compute(host_input_.data(), step.tokens, chosen, step.ready.data(),
                         static_cast<int32_t>(step.ready.size())));
  host_pairs_.clear();
  host_outputs_.clear();
  for (int32_t pair = 0; pair < pairs; ++pair) {
    if (std::find(step.hosted.begin(), step.hosted.end(), chosen[pair]) == step.hosted.end())
      continue;
    host_pairs_.push_back(pair);
    const float* output = host_.output(pair);
    host_outputs_.insert(host_outputs_.end(), output, output + hidden);
  }
  RING_TRY(backend_->take_outputs(compute_, index, host_pairs_.data(),
                                  static_cast<int32_t>(host_pairs_.size()), host_outputs_.data()));
  count(counter::host_experts, static_cast<double>(step.hosted.size()));
  step.hosted.clear();
  forget_mixed(step);
  return {};
}

}  // namespace ring
