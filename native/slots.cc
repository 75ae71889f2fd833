// See slots.h.
#include "slots.h"

#include <algorithm>

namespace ring {
namespace {

constexpr uint64_t kSlabBytes = uint64_t{1} << 30;
constexpr int32_t kSlotMask = (1 << limit::slot_bits) - 1;
// Of an expert, the look-ahead bytes that may be under way: what a demand read may have to wait
// for.
constexpr uint64_t kAheadPercent = 8;
// While memory is still being touched nobody wakes us when a slot becomes free.
constexpr int kTouchWaitMs = 2;

Matrix* matrices_of(Mlp& mlp, int index) {
  return index == expert_tensor::gate ? &mlp.gate
         : index == expert_tensor::up ? &mlp.up
                                      : &mlp.down;
}

}  // namespace

uint64_t slot_bytes(const std::vector<ExpertExtents>& extents) {
  uint64_t most = 0;
  for (const ExpertExtents& expert : extents) {
    uint64_t bytes = 0;
    for (const Extent& extent : expert.of) bytes += io::room_for(extent.bytes);
    most = std::max(most, bytes);
  }
  return most;
}

Slots::~Slots() { stop(); }

Status Slots::open(int32_t count, const Model& model, const std::vector<ExpertExtents>& extents,
                   io::Reader* reader) {
  model_ = &model;
  extents_ = &extents;
  reader_ = reader;
  slot_bytes_ = slot_bytes(extents);
  slots_per_slab_ = static_cast<int32_t>(std::max<uint64_t>(1, kSlabBytes / slot_bytes_));
  slots_.resize(count);
  reader->limit_ahead(slot_bytes_ * kAheadPercent / 100);
  slot_of_.assign(extents.size(), -1);
  for (int32_t first = 0; first < count; first += slots_per_slab_) {
    const int32_t here = std::min(slots_per_slab_, count - first);
    slabs_.emplace_back();
    RING_TRY(slabs_.back().reserve(slot_bytes_ * static_cast<uint64_t>(here)));
    for (int32_t i = 0; i < here; ++i)
      slots_[first + i].data = slabs_.back().data() + slot_bytes_ * static_cast<uint64_t>(i);
  }
  toucher_.start(&slabs_, slot_bytes_, slots_per_slab_, count, [reader](const Slab& slab) {
    reader->lend({slab.data(), slab.bytes()});
  });
  return {};
}

void Slots::stop() { toucher_.stop(); }

int32_t Slots::locked() const {
  return static_cast<int32_t>(
      std::min<int64_t>(count(), toucher_.locked_slabs() * slots_per_slab_));
}

const Mlp* Slots::find(int32_t expert) const {
  const int32_t slot = slot_of_[expert];
  return slot >= 0 && slots_[slot].state == State::ready ? &slots_[slot].weights : nullptr;
}

bool Slots::is_ready(int32_t slot, int32_t expert) const {
  return slots_[slot].state == State::ready && slots_[slot].expert == expert;
}

bool Slots::is_loading(int32_t slot, int32_t expert) const {
  return slots_[slot].state == State::loading && slots_[slot].expert == expert;
}

bool Slots::is_any_ahead(int32_t first, int32_t count) const {
  for (int32_t expert = first; expert < first + count; ++expert) {
    const int32_t slot = slot_of_[expert];
    if (slot >= 0 && slots_[slot].state == State::loading && slots_[slot].is_ahead) return true;
  }
  return false;
}

Status Slots::check(const int32_t* orders, size_t count) {
  // Later orders of a batch see what earlier ones do; undone below, whatever the outcome.
  planned_slot_.clear();
  planned_expert_.clear();
  Status status;
  for (size_t i = 0; i < count && !status.failed(); ++i) {
    const int32_t* o = orders + i * order_field::count;
    const int32_t expert = o[order_field::expert], to = o[order_field::to];
    const int32_t slot = to & kSlotMask;
    const bool good = expert >= 0 && expert < static_cast<int32_t>(slot_of_.size()) &&
                      o[order_field::from] == -1 && to >= 0 &&
                      to >> limit::slot_bits == static_cast<int32_t>(Tier::ram) &&
                      slot < this->count() && o[order_field::urgency] >= 0 &&
                      o[order_field::urgency] <= static_cast<int32_t>(Urgency::cancel);
    if (!good) {
      status =
          failure(Code::bad_order, "order %zu names no expert, slot or urgency of this device", i);
      break;
    }
    if (is_loading(slot, expert)) continue;  // raised, or cancelled
    const bool is_taken =
        std::find(planned_slot_.begin(), planned_slot_.end(), slot) != planned_slot_.end() ||
        std::find(planned_expert_.begin(), planned_expert_.end(), expert) != planned_expert_.end();
    if (o[order_field::urgency] == static_cast<int32_t>(Urgency::cancel)) {
      status =
          failure(Code::bad_order, "order %zu cancels expert %d, which is not loading", i, expert);
    } else if (slots_[slot].state == State::cold) {
      status = failure(Code::bad_order, "order %zu: slot %d has not been touched yet", i, slot);
    } else if (slots_[slot].state == State::loading || is_taken) {
      status = failure(Code::bad_order, "order %zu: slot %d is loading another expert", i, slot);
    } else if (slot_of_[expert] >= 0 && std::find(planned_slot_.begin(), planned_slot_.end(),
                                                  slot_of_[expert]) == planned_slot_.end()) {
      status = failure(Code::bad_order, "order %zu: expert %d lies in slot %d already", i, expert,
                       slot_of_[expert]);
    }
    planned_slot_.push_back(slot);
    planned_expert_.push_back(expert);
  }
  return status;
}

Status Slots::stage(const int32_t* orders, size_t count) {
  RING_TRY(check(orders, count));
  for (size_t i = 0; i < count; ++i) {
    const int32_t* o = orders + i * order_field::count;
    const int32_t expert = o[order_field::expert], slot = o[order_field::to] & kSlotMask;
    const auto urgency = static_cast<Urgency>(o[order_field::urgency]);
    if (!is_loading(slot, expert)) {
      load(slot, expert, urgency == Urgency::ahead);
    } else if (urgency == Urgency::cancel) {
      reader_->cancel(expert);
    } else if (urgency == Urgency::demand && slots_[slot].is_ahead) {
      slots_[slot].is_ahead = false;
      ++demanded_;
      reader_->promote(expert);
    }
  }
  return {};
}

void Slots::load(int32_t slot, int32_t expert, bool is_ahead) {
  Slot& s = slots_[slot];
  if (s.expert >= 0) slot_of_[s.expert] = -1;
  s.state = State::loading;
  s.is_ahead = is_ahead;
  if (!is_ahead) ++demanded_;
  s.expert = expert;
  s.weights = model_->experts[expert];
  slot_of_[expert] = slot;
  io::Read read;
  read.tag = expert;
  read.priority = is_ahead ? io::Priority::ahead : io::Priority::demand;
  uint8_t* target = s.data;
  for (int i = 0; i < expert_tensor::count; ++i) {
    const Extent& extent = (*extents_)[expert].of[i];
    read.parts.push_back({extent.file, extent.offset, extent.bytes, target, extent.checksums});
    matrices_of(s.weights, i)->data = target + extent.offset % io::kBlockBytes;
    target += io::room_for(extent.bytes);
  }
  reader_->submit(std::move(read));
}

void Slots::land(const io::Arrival& arrival) {
  const auto expert = static_cast<int32_t>(arrival.tag);
  const int32_t slot = slot_of_[expert];
  Slot& s = slots_[slot];
  if (!s.is_ahead) --demanded_;
  if (arrival.landing == io::Landing::arrived) {
    s.state = State::ready;
    events_.push_back({EventKind::arrived, expert, slot, Code::ok});
    return;
  }
  s.state = State::free;
  s.expert = -1;
  slot_of_[expert] = -1;
  if (arrival.landing == io::Landing::failed) {
    last_failure_ = arrival.why;
    last_failed_expert_ = expert;
    events_.push_back({EventKind::failed, expert, slot, arrival.why.code});
  } else {
    events_.push_back({EventKind::cancelled, expert, slot, Code::ok});
  }
}

void Slots::settle() {
  io::Arrival arrivals[16];
  for (;;) {
    const int count = reader_->poll(arrivals, 16);
    for (int i = 0; i < count; ++i) land(arrivals[i]);
    if (count < 16) break;
  }
  const int64_t touched = std::min<int64_t>(count(), toucher_.pieces());
  for (; touched_ < touched; ++touched_) {
    slots_[touched_].state = State::free;
    events_.push_back({EventKind::touched, -1, touched_, Code::ok});
  }
}

void Slots::wait(int wait_ms) {
  reader_->wait(touched_ < count() ? std::min(wait_ms, kTouchWaitMs) : wait_ms);
}

int32_t Slots::take_events(int32_t* events, int32_t capacity) {
  const int32_t count = std::min<int32_t>(capacity, static_cast<int32_t>(events_.size()));
  for (int32_t i = 0; i < count; ++i) {
    int32_t* e = events + i * event_field::count;
    e[event_field::kind] = static_cast<int32_t>(events_[i].kind);
    e[event_field::expert] = events_[i].expert;
    e[event_field::to] = static_cast<int32_t>(Tier::ram) << limit::slot_bits | events_[i].slot;
    e[event_field::code] = static_cast<int32_t>(events_[i].code);
  }
  events_.erase(events_.begin(), events_.begin() + count);
  return count;
}

const Status& Slots::failure_of(int32_t expert) const {
  static const Status unknown = failure(Code::cannot_read, "an expert could not be read");
  return expert == last_failed_expert_ ? last_failure_ : unknown;
}

}  // namespace ring
