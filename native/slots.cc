// See slots.h.
#include "slots.h"

#include <algorithm>
#include <chrono>
#include <thread>

namespace ring {
namespace {

constexpr int32_t kSlotMask = (1 << limit::slot_bits) - 1;
// Of an expert, the look-ahead bytes that may be under way: what a demand read may have to wait
// for.
constexpr uint64_t kAheadPercent = 8;
// While memory is still being touched nobody wakes us when a slot becomes free.
constexpr int kTouchWaitMs = 2;
// Nobody tells either when a copy is done: it is asked for as often as this while it is waited for.
constexpr auto kCopyWait = std::chrono::microseconds(50);

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
  return open_common(count, model, extents, reader, count);
}

Status Slots::open_over(const Backend* backend, void* compute, int32_t count, int32_t rooms,
                        const Model& model, const std::vector<ExpertExtents>& extents,
                        io::Reader* reader) {
  RING_TRY(backend->open_slots(compute, count));
  RING_TRY(open_common(count, model, extents, reader, rooms));
  staging_ = std::make_unique<Staging>(backend, compute, &memory_, count);
  return {};
}

Status Slots::open_common(int32_t count, const Model& model,
                          const std::vector<ExpertExtents>& extents, io::Reader* reader,
                          int32_t rooms) {
  model_ = &model;
  extents_ = &extents;
  reader_ = reader;
  slots_.resize(count);
  slot_of_.assign(extents.size(), -1);
  const uint64_t bytes = slot_bytes(extents);
  reader->limit_ahead(bytes * kAheadPercent / 100);
  return memory_.open(rooms, bytes, reader);
}

void Slots::stop() { memory_.stop(); }

bool Slots::is_there(int32_t expert) const {
  const int32_t slot = slot_of_[expert];
  return slot >= 0 && slots_[slot].state == State::ready;
}

ReadyExpert Slots::find(int32_t expert, int32_t index) const {
  if (!is_there(expert)) return {index, nullptr};
  const int32_t slot = slot_of_[expert];
  return {index, &slots_[slot].weights, staging_ == nullptr ? -1 : slot};
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
                      to >> limit::slot_bits == static_cast<int32_t>(tier()) &&
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
      cancel(slot);
    } else if (urgency == Urgency::demand && slots_[slot].is_ahead) {
      raise(slot);
    }
  }
  if (staging_ != nullptr) read_staged();
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
  if (staging_ == nullptr) {
    read(slot, memory_.at(slot));
  } else {
    staging_->want(slot, is_ahead);
  }
}

// Into RAM at `target`, where the weights lie from then on.
void Slots::read(int32_t slot, uint8_t* target) {
  Slot& s = slots_[slot];
  io::Read read;
  read.tag = s.expert;
  read.priority = s.is_ahead ? io::Priority::ahead : io::Priority::demand;
  for (int i = 0; i < expert_tensor::count; ++i) {
    const Extent& extent = (*extents_)[s.expert].of[i];
    read.parts.push_back({extent.file, extent.offset, extent.bytes, target, extent.checksums});
    matrices_of(s.weights, i)->data = target + extent.offset % io::kBlockBytes;
    target += io::room_for(extent.bytes);
  }
  reader_->submit(std::move(read));
}

void Slots::read_staged() {
  for (int32_t slot = staging_->next(); slot >= 0; slot = staging_->next())
    read(slot, staging_->room_of(slot));
}

void Slots::raise(int32_t slot) {
  slots_[slot].is_ahead = false;
  ++demanded_;
  if (staging_ != nullptr) staging_->raise(slot);
  reader_->promote(slots_[slot].expert);
}

// What is being copied already arrives all the same.
void Slots::cancel(int32_t slot) {
  if (staging_ != nullptr && staging_->drop(slot)) {
    drop(slot, EventKind::cancelled, Code::ok);
  } else {
    reader_->cancel(slots_[slot].expert);
  }
}

Status Slots::land(const io::Arrival& arrival) {
  const auto expert = static_cast<int32_t>(arrival.tag);
  const int32_t slot = slot_of_[expert];
  if (arrival.landing == io::Landing::arrived) {
    if (staging_ != nullptr) {
      uint64_t bytes = 0;
      for (const Extent& extent : (*extents_)[expert].of) bytes += extent.bytes;
      return staging_->copy(slot, expert, slots_[slot].weights, bytes);
    }
    arrive(slot);
    return {};
  }
  if (staging_ != nullptr) staging_->give_back(slot);
  if (arrival.landing == io::Landing::failed) {
    last_failure_ = arrival.why;
    last_failed_expert_ = expert;
    drop(slot, EventKind::failed, arrival.why.code);
  } else {
    drop(slot, EventKind::cancelled, Code::ok);
  }
  return {};
}

void Slots::arrive(int32_t slot) {
  Slot& s = slots_[slot];
  if (!s.is_ahead) --demanded_;
  s.state = State::ready;
  events_.push_back({EventKind::arrived, s.expert, slot, Code::ok});
}

// The load comes to nothing.
void Slots::drop(int32_t slot, EventKind kind, Code code) {
  Slot& s = slots_[slot];
  if (!s.is_ahead) --demanded_;
  events_.push_back({kind, s.expert, slot, code});
  slot_of_[s.expert] = -1;
  s.state = State::free;
  s.expert = -1;
}

const Status& Slots::settle() {
  io::Arrival arrivals[16];
  for (int count = 16; count == 16 && !trouble_.failed();) {
    count = reader_->poll(arrivals, 16);
    for (int i = 0; i < count && !trouble_.failed(); ++i) {
      Status landed = land(arrivals[i]);
      if (landed.failed()) trouble_ = landed;
    }
  }
  if (staging_ != nullptr && !trouble_.failed()) {
    Status settled = settle_staged();
    if (settled.failed()) trouble_ = settled;
  }
  const int32_t usable = staging_ == nullptr ? memory_.touched() : count();
  for (; touched_ < usable; ++touched_) {
    slots_[touched_].state = State::free;
    events_.push_back({EventKind::touched, -1, touched_, Code::ok});
  }
  return trouble_;
}

// What has been copied is there, and its room is another's to be read into.
Status Slots::settle_staged() {
  filled_.clear();
  RING_TRY(staging_->settle(&filled_));
  for (const int32_t slot : filled_) {
    // Nothing of it lies in RAM any more.
    slots_[slot].weights = model_->experts[slots_[slot].expert];
    arrive(slot);
  }
  read_staged();
  return {};
}

void Slots::wait(int wait_ms) {
  const bool is_touching = staging_ == nullptr ? touched_ < count() : staging_->is_touching();
  if (is_touching) wait_ms = std::min(wait_ms, kTouchWaitMs);
  if (staging_ == nullptr || !staging_->is_copying()) {
    reader_->wait(wait_ms);
    return;
  }
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(wait_ms);
  while (!reader_->wait(0) && !staging_->has_news() && std::chrono::steady_clock::now() < end)
    std::this_thread::sleep_for(kCopyWait);
}

bool Slots::awaits_copies_only() const {
  return staging_ != nullptr && staging_->is_copying() && !staging_->is_demand_unread();
}

int32_t Slots::take_events(int32_t* events, int32_t capacity) {
  const int32_t count = std::min<int32_t>(capacity, static_cast<int32_t>(events_.size()));
  for (int32_t i = 0; i < count; ++i) {
    int32_t* e = events + i * event_field::count;
    e[event_field::kind] = static_cast<int32_t>(events_[i].kind);
    e[event_field::expert] = events_[i].expert;
    e[event_field::to] = static_cast<int32_t>(tier()) << limit::slot_bits | events_[i].slot;
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
