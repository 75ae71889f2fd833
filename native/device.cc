// See device.h. The order of things in a step: begin copies the batch and embeds it; advance
// attends and routes a layer, mixes it when every expert is in place, else stops; mix (experts.cc)
// computes what has been given a place; sample ends the step.
#include "device.h"

#include <algorithm>
#include <cmath>

#include "cpu/processor.h"
#include "library.h"
#include "tables.h"
#include "timed.h"

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
      l.kv_block_tokens < 1 || l.threads < 0 || l.threads > 1024 || l.mlps_in_ram < 0 ||
      (l.kv_dtype != Dtype::bf16 && l.kv_dtype != Dtype::f32)) {
    return failure(Code::bad_argument, "the limits of the layout are not usable");
  }
  if (layout.control == nullptr || layout.control_words <= control::cancel) {
    return failure(Code::bad_argument, "the shared control array is too short");
  }
  if (layout.counters == nullptr)
    return failure(Code::bad_argument, "the shared counters are missing");
  for (const int32_t slots : {layout.slots, layout.rooms, layout.slots_below}) {
    if (slots < 0 || slots > kSlotMask)
      return failure(Code::bad_argument, "%d slots or rooms cannot be named", slots);
  }
  for (const int32_t distance : layout.ahead) {
    if (distance < 1 || distance >= s.layers)
      return failure(Code::bad_argument, "%d layers ahead is not a distance in this model",
                     distance);
  }
  return {};
}

// Scales lie between weights; reading a little of those is cheaper than another read.
constexpr uint64_t kScaleGapBytes = 64 << 10;

Status open_drive(const std::vector<Layout::File>& files, const Layout::Io& io,
                  std::vector<io::Source>* sources, std::unique_ptr<io::Drive>* drive) {
  for (const Layout::File& file : files) {
    sources->push_back({{file.path}, file.bytes});
    std::vector<std::string>& paths = sources->back().paths;
    paths.insert(paths.end(), file.mirrors.begin(), file.mirrors.end());
  }
  RING_TRY(io.rung == Rung::paced ? io::open_paced_drive(*sources, io.pace, drive)
                                  : io::open_drive(*sources, {io.rung, io.depth}, drive));
  if (!io.faults.empty()) *drive = io::make_faulty_drive(std::move(*drive), io.faults);
  return {};
}

Status open_reader(const Layout& layout, std::unique_ptr<io::Reader>* reader) {
  std::vector<io::Source> sources;
  std::unique_ptr<io::Drive> drive;
  RING_TRY(open_drive(layout.files, layout.io, &sources, &drive));
  *reader = std::make_unique<io::Reader>();
  io::ReaderOptions options;
  options.chunk_bytes = layout.io.chunk_bytes;
  return (*reader)->open(std::move(drive), sources, options);
}

}  // namespace

Device::~Device() { close(); }

void Device::close() {
  // The toucher uses the backend and the reader, and the reader writes into the slots.
  if (slots_ != nullptr) slots_->stop();
  if (compute_ != nullptr) backend_->close(compute_);
  compute_ = nullptr;
  processor_.reset();
  reader_.reset();
  slots_.reset();
  host_.close();
  dense_.reset();
  extents_.clear();
  uses_.clear();
  counters_ = nullptr;
  scores_ = nullptr;
  description_.clear();
  maps_.clear();
  found_ns_.clear();
  model_ = Model{};
  control_ = nullptr;
  for (Step& step : steps_) step = Step{};
  state_ = State::closed;
}

const char* Device::describe() const { return description_.c_str(); }

Status Device::open(const Layout& layout) {
  if (state_ == State::closed) return failure(Code::closed, "the device is closed");
  if (state_ != State::unopened) return failure(Code::already_open, "the device is open already");
  RING_TRY(check_layout(layout));
  const auto attempt = [&]() -> Status {
    counters_ = layout.counters;
    std::fill_n(counters_, counter::count, 0.0);
    RING_TRY(open_backend(layout.library));
    RING_TRY(layout.slots > 0 ? read_resident(layout) : open_mapped(layout));
    limits_ = layout.limits;
    lockstep_ = layout.lockstep;
    keeps_scores_ = layout.keeps_scores;
    keeps_attended_ = layout.keeps_attended;
    ahead_ = layout.ahead;
    scores_ = layout.scores;
    control_ = layout.control;
    control_words_ = layout.control_words;
    RING_TRY(lend_processor());
    RING_TRY(backend_->open(&model_, &limits_, &compute_));
    RING_TRY(open_slots(layout));
    description_ = backend_->describe(compute_);
    if (reader_ != nullptr) description_ += "; " + reader_->describe();
    return {};
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

Status Device::open_backend(const std::string& path) {
  backend_ = cpu_backend();
  if (path.empty()) return {};
  BackendProbe probe;
  return open_library(path, &backend_, &probe);
}

// For what a backend with memory of its own leaves in RAM.
Status Device::lend_processor() {
  limits_.processor = nullptr;
  if (!limits_.head_in_ram && limits_.mlps_in_ram == 0) return {};
  RING_TRY(cpu::lend_processor(model_, limits_, &processor_));
  limits_.processor = processor_.get();
  return {};
}

Status Device::open_mapped(const Layout& layout) {
  for (const Layout::File& file : layout.files) {
    maps_.emplace_back();
    RING_TRY(maps_.back().open(file.path, file.bytes));
  }
  const FindBytes in_map = [this](BytesOf, const Extent& extent) {
    return maps_[static_cast<size_t>(extent.file)].data() + extent.offset;
  };
  RING_TRY(build_model(layout, in_map, model_));
  const bool tells = std::all_of(maps_.begin(), maps_.end(),
                                 [](const FileMap& map) { return map.tells_residency(); });
  found_ns_.assign(tells ? model_.experts.size() : 0, 0);
  return check_maps();
}

Status Device::read_resident(const Layout& layout) {
  RING_TRY(open_reader(layout, &reader_));
  slots_ = std::make_unique<Slots>();
  dense_ = std::make_unique<Resident>(io::kBlockBytes);
  Resident scales{kScaleGapBytes};
  Model listed;
  std::vector<Extent> of_experts;
  RING_TRY(build_model(
      layout,
      [&](BytesOf kind, const Extent& extent) -> const uint8_t* {
        if (kind == BytesOf::expert) {
          of_experts.push_back(extent);
        } else {
          (kind == BytesOf::scale ? scales : *dense_).want(extent);
        }
        return nullptr;
      },
      listed));
  RING_TRY(dense_->read(*reader_, layout.control[control::progress], 0, 800));
  RING_TRY(scales.read(*reader_, layout.control[control::progress], 800, 990));
  RING_TRY(build_model(
      layout,
      [&](BytesOf kind, const Extent& extent) -> const uint8_t* {
        if (kind == BytesOf::expert) return nullptr;
        return (kind == BytesOf::scale ? scales : *dense_).find(extent);
      },
      model_));
  extents_.resize(of_experts.size() / expert_tensor::count);
  for (size_t i = 0; i < of_experts.size(); ++i)
    extents_[i / expert_tensor::count].of[i % expert_tensor::count] = of_experts[i];
  return {};
}

Status Device::open_slots(const Layout& layout) {
  const bool has_own_memory = backend_->open_slots != nullptr;
  if (has_own_memory && !model_.experts.empty() && (layout.slots == 0 || layout.rooms == 0))
    return failure(Code::bad_argument, "%s computes in memory of its own: it needs slots and rooms",
                   backend_->name);
  if (extents_.empty()) return {};
  if (!has_own_memory) return slots_->open(layout.slots, model_, extents_, reader_.get());
  return slots_->open_over(backend_, compute_, layout.slots, layout.rooms, layout.slots_below,
                           model_, extents_, reader_.get());
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
  const Status begun = backend_->begin(compute_, index, &input);
  if (begun.failed() && begun.code != Code::lost) return begun;
  step.layer = 0;
  step.routed = step.shared = step.told_ahead = step.asks_ahead = false;
  step.foreseen = Foreseen::nothing;
  step.placed.clear();
  step.hosted.clear();
  step.awaited_copy = 0;
  step.reason = Reason::done;
  step.why = {};
  step.phase = Phase::running;
  step.serial = next_serial_++;
  *id = step.serial;
  if (begun.failed()) end(step, begun);  // advance says so
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
    if (step->reason == Reason::lost) (void)lose(step->why);
    return {};
  }
  while (step->layer < model_.shape.layers) {
    if (is_cancelled(*step)) {
      *reason = end(*step, Reason::cancelled, {});
      return {};
    }
    Reason stop_reason = Reason::done;
    const Status status = run_layer(index, *step, &stop_reason);
    if (status.failed()) end(*step, status);
    if (step->phase == Phase::ended) {
      *reason = step->reason;
      if (step->reason == Reason::lost) (void)lose(step->why);
      return {};
    }
    if (stop_reason != Reason::done) {
      stop[stop_field::layer] = step->layer;
      stop[stop_field::wanted] = static_cast<int32_t>(step->wanted.size());
      stop[stop_field::awaited] = static_cast<int32_t>(step->placed.size());
      std::copy(step->wanted.begin(), step->wanted.end(), stop + stop_field::experts);
      *reason = stop_reason;
      return {};
    }
  }
  const Status status = check_sizes();
  *reason = status.failed() ? end(*step, Reason::lost, status) : end(*step, Reason::done, {});
  return {};
}

// One layer up to its end, or up to a stop; before it those that the backend can run by itself.
// Called again after a stop it goes on where it was.
Status Device::run_layer(int32_t index, Step& step, Reason* stop) {
  if (!step.routed && may_run_hits(step)) {
    RING_TRY(run_hits(index, step));
    if (step.layer == model_.shape.layers) return {};
  } else if (!step.routed) {
    {
      const Timed timed(&counters_[counter::attend_s]);
      RING_TRY(backend_->attend(compute_, index, step.layer));
    }
    if (model_.shape.is_moe(step.layer)) RING_TRY(route_layer(index, step));
    step.routed = true;
  }
  if (model_.shape.is_moe(step.layer)) {
    if (!step.placed.empty() && !step.asks_ahead) {
      mix_placed(index, step);
      if (step.phase == Phase::ended) return check_memory();
    }
    if (step.placed.empty() && !step.asks_ahead) {
      bool all_found = step.wanted.empty();
      if (!all_found && !lockstep_) RING_TRY(find_all(step, &all_found));
      if (all_found) RING_TRY(ask_ahead(index, step));
      if (!all_found) *stop = Reason::missing;
    }
    if (step.asks_ahead) *stop = Reason::ahead;
    step.asks_ahead = false;
    if (*stop != Reason::done) return check_memory();
    if (!step.wanted.empty()) RING_TRY(mix_found(index, step));
    RING_TRY(share_layer(index, step));
    const Timed timed(&counters_[counter::settle_s]);
    RING_TRY(backend_->settle(compute_, index, step.layer));
  }
  RING_TRY(check_memory());
  ++step.layer;
  step.routed = step.shared = step.told_ahead = step.asks_ahead = false;
  step.foreseen = Foreseen::nothing;
  return {};
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
  if (outcome.faults != nullptr) {
    if (outcome.faults_length < step->parts.size())
      return failure(Code::bad_argument, "the faults array must hold %zu values",
                     step->parts.size());
    for (size_t part = 0; part < step->parts.size(); ++part)
      outcome.faults[part] = static_cast<int32_t>(step->faults[part].code);
  }
  if (outcome.scores != nullptr) {
    if (outcome.scores_length < step->scores.size())
      return failure(Code::bad_argument, "the scores array must hold %zu values",
                     step->scores.size());
    std::copy(step->scores.begin(), step->scores.end(), outcome.scores);
  }
  if (outcome.masks != nullptr) {
    if (outcome.masks_length < step->masks.size())
      return failure(Code::bad_argument, "the masks must hold %zu words", step->masks.size());
    std::copy_n(outcome.masks, step->masks.size(), step->masks.begin());
  }
  if (step->reason == Reason::done) {
    const Timed timed(&counters_[counter_of(*step, counter::sample_s)]);
    const Status status = backend_->sample(compute_, static_cast<int32_t>(step - steps_),
                                           step->sampling.data(), &outcome.head);
    if (status.code == Code::bad_argument) return status;  // the step can be sampled again
    if (status.failed()) end(*step, status);
    if (status.code == Code::lost) (void)lose(status);
  }
  *reason = step->reason;
  *why = step->why;
  for (const Status& fault : step->faults) {
    if (fault.failed() && !why->failed()) *why = fault;
  }
  count(counter::steps, 1);
  count(counter::step_tokens, step->tokens);
  publish_reader();
  publish_memory();
  step->phase = Phase::free;
  return {};
}

Reason Device::end(Step& step, Reason reason, const Status& why) {
  step.phase = Phase::ended;
  step.reason = reason;
  step.why = why;
  return reason;
}

Reason Device::end(Step& step, const Status& failure) {
  return end(step, failure.code == Code::lost ? Reason::lost : Reason::failed, failure);
}

bool Device::is_cancelled(const Step& step) const {
  for (const Part& part : step.parts) {
    if (control_[control::cancel + part.sequence].load(std::memory_order_relaxed) == 0)
      return false;
  }
  return true;
}

Status Device::lose(const FileMap& map, int64_t offset) {
  return lose(failure(Code::lost,
                      "%s: cannot be read at byte %lld: the file was cut short or its drive failed",
                      map.path().c_str(), static_cast<long long>(offset)));
}

Status Device::lose(const Status& why) {
  if (state_ == State::open) {
    lost_text_ = why.text;
    state_ = State::lost;
  }
  return why;
}

// What has been computed with up to now was what it should have been.
Status Device::check_memory() {
  RING_TRY(check_maps());
  return slots_ == nullptr ? Status{} : slots_->trouble();
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

Status measure_drive(const std::vector<Layout::File>& files, const Layout::Io& io,
                     const io::CeilingProbe& probe, double* bytes_per_second, std::string* reader) {
  std::vector<io::Source> sources;
  std::unique_ptr<io::Drive> drive;
  RING_TRY(open_drive(files, io, &sources, &drive));
  RING_TRY(io::measure_ceiling(*drive, sources, probe, bytes_per_second));
  *reader = drive->describe();
  return {};
}

}  // namespace ring
