// See device.h. The order of things in a step: begin copies the batch and embeds it; advance
// attends and routes a layer, mixes it when every expert is in place, else stops; mix computes what
// has been given a place; sample ends the step. `missing` is the only stop today: with all experts
// mapped it happens in lockstep mode alone.
#include "device.h"

#include <algorithm>
#include <cmath>

namespace ring {
namespace {

constexpr int32_t kSlotMask = (1 << limit::slot_bits) - 1;

Status check_layout(const Layout& layout) {
  const Shape& s = layout.shape;
  const Limits& l = layout.limits;
  const bool good =
      s.layers > 0 && s.layers <= limit::layers_max && s.hidden > 0 && s.heads > 0 &&
      s.kv_heads > 0 && s.heads % s.kv_heads == 0 && s.head_dim > 0 && s.rotary_dim >= 0 &&
      s.rotary_dim % 2 == 0 && s.rotary_dim <= s.head_dim && s.vocabulary > 0 && s.sampleable > 0 &&
      s.sampleable <= s.vocabulary && s.first_moe_layer >= 0 && s.first_moe_layer <= s.layers &&
      (s.moe_layers() == 0 ||
       (s.experts > 0 && s.experts <= limit::experts_max && s.top_k > 0 && s.top_k <= s.experts &&
        s.groups > 0 && s.experts % s.groups == 0 && s.groups_kept > 0 &&
        s.groups_kept <= s.groups && s.top_k <= s.experts / s.groups * s.groups_kept)) &&
      layout.rope_inverse.size() == static_cast<size_t>(s.rotary_dim / 2);
  if (!good)
    return failure(Code::bad_argument, "the shape of the model is not one that can be computed");
  if (static_cast<int64_t>(s.moe_layers()) * s.experts > kSlotMask) {
    return failure(Code::bad_argument, "the model has more experts than a place can name");
  }
  if (l.step_tokens < 1 || l.parts < 1 || l.context < 1 || l.kv_blocks < 1 ||
      l.kv_block_tokens < 1 || l.threads < 0 || l.threads > 1024 ||
      (l.kv_dtype != Dtype::bf16 && l.kv_dtype != Dtype::f32)) {
    return failure(Code::bad_argument, "the limits of the layout are not usable");
  }
  if (layout.control == nullptr || layout.control_words <= control::cancel) {
    return failure(Code::bad_argument, "the shared control array is too short");
  }
  return {};
}

}  // namespace

Device::~Device() { close(); }

void Device::close() {
  if (compute_ != nullptr) backend_->close(compute_);
  compute_ = nullptr;
  maps_.clear();
  model_ = Model{};
  control_ = nullptr;
  for (Step& step : steps_) step = Step{};
  state_ = State::closed;
}

const char* Device::describe() const {
  return compute_ != nullptr ? backend_->describe(compute_) : "";
}

Status Device::open(const Layout& layout) {
  if (state_ == State::closed) return failure(Code::closed, "the device is closed");
  if (state_ != State::unopened) return failure(Code::already_open, "the device is open already");
  RING_TRY(check_layout(layout));
  const auto attempt = [&]() -> Status {
    for (const Layout::File& file : layout.files) {
      maps_.emplace_back();
      RING_TRY(maps_.back().open(file.path, file.bytes));
    }
    RING_TRY(build_model(layout, maps_, model_));
    RING_TRY(check_maps());
    limits_ = layout.limits;
    lockstep_ = layout.lockstep;
    control_ = layout.control;
    control_words_ = layout.control_words;
    backend_ = cpu_backend();
    if (backend_->version != kBackendVersion)
      return failure(Code::bad_argument, "the backend has another version");
    return backend_->open(&model_, &limits_, &compute_);
  };
  const Status status = attempt();
  if (status.failed()) {
    // Back to where we were: a device that failed to open can be opened again.
    close();
    state_ = State::unopened;
    return status;
  }
  control_[control::progress].store(1000);
  state_ = State::open;
  return {};
}

Status Device::require_open() const {
  switch (state_) {
    case State::unopened:
      return failure(Code::not_open, "the device has not been opened");
    case State::closed:
      return failure(Code::closed, "the device is closed");
    case State::lost:
      return failure(Code::lost, "%s", lost_text_.c_str());
    case State::open:
      return {};
  }
  return {};
}

// Steps that were open when the device was lost can still be ended, by advance and sample.
Status Device::find(int32_t id, Step** step) {
  if (state_ != State::lost) RING_TRY(require_open());
  for (Step& candidate : steps_) {
    if (candidate.phase == Phase::free || candidate.serial != id) continue;
    *step = &candidate;
    return {};
  }
  RING_TRY(require_open());
  return failure(Code::bad_step, "no open step has the number %d", id);
}

Status Device::begin(const BatchView& batch, int32_t* id) {
  RING_TRY(require_open());
  RING_TRY(check_batch(batch));
  int32_t index = 0;
  while (index < limit::steps_open && steps_[index].phase != Phase::free) ++index;
  if (index == limit::steps_open) {
    return failure(Code::busy, "%d steps are open already; end one with sample", limit::steps_open);
  }
  Step& step = steps_[index];
  copy_batch(batch, step);
  const StepInput input = {step.tokens, static_cast<int32_t>(step.parts.size()), step.ids.data(),
                           step.parts.data()};
  RING_TRY(backend_->begin(compute_, index, &input));
  step.layer = 0;
  step.routed = false;
  step.reason = Reason::done;
  step.why = {};
  step.phase = Phase::running;
  step.serial = next_serial_++;
  *id = step.serial;
  return {};
}

Status Device::advance(int32_t id, Reason* reason, int32_t* stop, size_t stop_length) {
  Step* step = nullptr;
  RING_TRY(find(id, &step));
  if (stop_length < stop_field::experts + static_cast<size_t>(model_.shape.experts)) {
    return failure(Code::bad_argument, "the stop array must hold %d values",
                   stop_field::experts + model_.shape.experts);
  }
  const int32_t index = static_cast<int32_t>(step - steps_);
  if (state_ == State::lost && step->phase != Phase::ended)
    end(*step, Reason::lost, require_open());
  if (step->phase == Phase::ended) {
    *reason = step->reason;
    return {};
  }
  while (step->layer < model_.shape.layers) {
    if (is_cancelled(*step)) {
      *reason = end(*step, Reason::cancelled, {});
      return {};
    }
    bool stops = false;
    const Status status = run_layer(index, *step, &stops);
    if (status.failed()) {
      *reason = end(*step, status.code == Code::lost ? Reason::lost : Reason::failed, status);
      return {};
    }
    if (stops) {
      stop[stop_field::layer] = step->layer;
      stop[stop_field::wanted] = static_cast<int32_t>(step->wanted.size());
      std::copy(step->wanted.begin(), step->wanted.end(), stop + stop_field::experts);
      *reason = Reason::missing;
      return {};
    }
  }
  const Status status = check_sizes();
  *reason = status.failed() ? end(*step, Reason::lost, status) : end(*step, Reason::done, {});
  return {};
}

// One layer up to its end, or up to a stop. Called again after a mix it goes on where it was.
Status Device::run_layer(int32_t index, Step& step, bool* stops) {
  if (!step.routed) {
    RING_TRY(backend_->attend(compute_, index, step.layer));
    if (model_.shape.is_moe(step.layer)) RING_TRY(route_layer(index, step));
    step.routed = true;
  }
  if (model_.shape.is_moe(step.layer)) {
    if (!lockstep_) RING_TRY(mix_in_place(index, step));
    if (!step.wanted.empty()) {
      *stops = true;
      return check_maps();
    }
    RING_TRY(backend_->settle(compute_, index, step.layer));
  }
  RING_TRY(check_maps());
  ++step.layer;
  step.routed = false;
  return {};
}

Status Device::route_layer(int32_t index, Step& step) {
  const size_t per_layer = static_cast<size_t>(step.tokens) * model_.shape.top_k;
  const size_t at = static_cast<size_t>(step.layer - model_.shape.first_moe_layer) * per_layer;
  RING_TRY(backend_->route(compute_, index, step.layer, &step.experts[at], &step.weights[at]));
  list_wanted(step);
  return {};
}

void Device::list_wanted(Step& step) {
  const size_t per_layer = static_cast<size_t>(step.tokens) * model_.shape.top_k;
  const uint16_t* experts =
      &step.experts[static_cast<size_t>(step.layer - model_.shape.first_moe_layer) * per_layer];
  step.is_wanted.assign(model_.shape.experts, 0);
  for (size_t pair = 0; pair < per_layer; ++pair) step.is_wanted[experts[pair]] = 1;
  step.wanted.clear();
  for (int32_t expert = 0; expert < model_.shape.experts; ++expert) {
    if (step.is_wanted[expert]) step.wanted.push_back(expert);
  }
}

// All experts are mapped: every wanted one is computed where it lies.
Status Device::mix_in_place(int32_t index, Step& step) {
  const Mlp* of_layer =
      &model_.experts[static_cast<size_t>(step.layer - model_.shape.first_moe_layer) *
                      model_.shape.experts];
  step.ready.clear();
  for (const int32_t expert : step.wanted) step.ready.push_back({expert, of_layer + expert});
  RING_TRY(backend_->mix(compute_, index, step.layer, step.ready.data(),
                         static_cast<int32_t>(step.ready.size())));
  step.wanted.clear();
  return {};
}

Status Device::mix(int32_t id, const int32_t* places, size_t count) {
  Step* step = nullptr;
  RING_TRY(require_open());
  RING_TRY(find(id, &step));
  if (step->phase != Phase::running || step->wanted.empty()) {
    return failure(Code::bad_step, "step %d is not waiting for experts", id);
  }
  if (count != step->wanted.size()) {
    return failure(Code::bad_argument, "the layer wants %zu experts, but %zu places were given",
                   step->wanted.size(), count);
  }
  const int64_t first =
      static_cast<int64_t>(step->layer - model_.shape.first_moe_layer) * model_.shape.experts;
  step->ready.clear();
  bool gap = false;
  for (size_t i = 0; i < count; ++i) {
    if (places[i] == -1) {
      gap = true;
      continue;
    }
    const int32_t tier = places[i] >> limit::slot_bits, slot = places[i] & kSlotMask;
    if (places[i] < 0 || tier != static_cast<int32_t>(Tier::map) ||
        slot != first + step->wanted[i]) {
      return failure(Code::bad_argument, "place %d does not hold expert %d of layer %d", places[i],
                     step->wanted[i], step->layer);
    }
    if (gap && step->tokens > limit::unordered_tokens) {
      return failure(
          Code::bad_argument,
          "a step of more than %d tokens takes its experts in rising index, without gaps",
          limit::unordered_tokens);
    }
    step->ready.push_back({step->wanted[i], &model_.experts[static_cast<size_t>(slot)]});
  }
  const int32_t index = static_cast<int32_t>(step - steps_);
  const Status status = backend_->mix(compute_, index, step->layer, step->ready.data(),
                                      static_cast<int32_t>(step->ready.size()));
  if (status.failed()) {
    end(*step, Reason::failed, status);
    return {};  // advance and sample say so
  }
  for (const ReadyExpert& expert : step->ready) step->is_wanted[expert.index] = 0;
  std::erase_if(step->wanted, [&](int32_t expert) { return !step->is_wanted[expert]; });
  return {};
}

Status Device::stage(const int32_t*, size_t values) {
  RING_TRY(require_open());
  if (values % order_field::count != 0) {
    return failure(Code::bad_argument, "orders come in records of %d values", order_field::count);
  }
  if (values == 0) return {};
  return failure(Code::bad_order,
                 "this device has no slots: its experts are mapped where they lie");
}

Status Device::poll(int32_t* count) const {
  *count = 0;
  return require_open();
}

Status Device::sample(int32_t id, Reason* reason, OutcomeView& outcome, Status* why) {
  Step* step = nullptr;
  RING_TRY(find(id, &step));
  if (step->phase != Phase::ended) {
    return failure(Code::bad_step, "step %d has not reached its end; advance it first", id);
  }
  if (outcome.experts != nullptr) {
    if (outcome.routing_length < step->experts.size()) {
      return failure(Code::bad_argument, "the routing arrays must hold %zu values",
                     step->experts.size());
    }
    std::copy(step->experts.begin(), step->experts.end(), outcome.experts);
    std::copy(step->weights.begin(), step->weights.end(), outcome.weights);
  }
  if (step->reason == Reason::done) {
    const Status status = backend_->sample(compute_, static_cast<int32_t>(step - steps_),
                                           step->sampling.data(), &outcome.head);
    if (status.code == Code::bad_argument) return status;  // the step can be sampled again
    if (status.failed()) end(*step, Reason::failed, status);
  }
  *reason = step->reason;
  *why = step->why;
  step->phase = Phase::free;
  return {};
}

Reason Device::end(Step& step, Reason reason, const Status& why) {
  step.phase = Phase::ended;
  step.reason = reason;
  step.why = why;
  return reason;
}

bool Device::is_cancelled(const Step& step) const {
  for (const Part& part : step.parts) {
    if (control_[control::cancel + part.sequence].load(std::memory_order_relaxed) == 0)
      return false;
  }
  return true;
}

Status Device::lose(const FileMap& map, int64_t offset) {
  const Status status = failure(
      Code::lost, "%s: cannot be read at byte %lld: the file was cut short or its drive failed",
      map.path().c_str(), static_cast<long long>(offset));
  lost_text_ = status.text;
  if (state_ == State::open) state_ = State::lost;
  return status;
}

// A page that could not be read has been computed with as zeros: nothing since open can be trusted.
Status Device::check_maps() {
  for (const FileMap& map : maps_) {
    if (map.unreadable() >= 0) return lose(map, map.unreadable());
  }
  return {};
}

// Once a step: a file cut within a page gives zeros and no signal.
Status Device::check_sizes() {
  for (const FileMap& map : maps_) {
    const int64_t size = map.size_now();
    if (size < static_cast<int64_t>(map.bytes())) return lose(map, size);
  }
  return {};
}

}  // namespace ring
