// See slots.h.
#include "slots.h"

#include <algorithm>
#include <chrono>
#include <thread>

namespace ring {
namespace {

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
  return open_common(count, model, extents, reader, count, {});
}

Status Slots::open_over(const Backend* backend, void* compute, int32_t count, int32_t rooms,
                        int32_t below, const Model& model,
                        const std::vector<ExpertExtents>& extents, io::Reader* reader) {
  RING_TRY(backend->open_slots(compute, count));
  SlotMemory::Pin pin;
  if (backend->lend != nullptr)
    pin = [backend, compute](const uint8_t* data, uint64_t bytes) {
      return backend->lend(compute, data, bytes);
    };
  RING_TRY(open_common(count, model, extents, reader, rooms, pin));
  staging_ = std::make_unique<Staging>(&memory_, count);
  uploads_ = std::make_unique<Uploads>(backend, compute, count);
  if (below == 0) return {};
  below_ = std::make_unique<Slots>();
  return below_->open_common(below, model, extents, reader, below, pin);
}

Status Slots::open_common(int32_t count, const Model& model,
                          const std::vector<ExpertExtents>& extents, io::Reader* reader,
                          int32_t rooms, SlotMemory::Pin pin) {
  model_ = &model;
  extents_ = &extents;
  reader_ = reader;
  slots_.resize(count);
  slot_of_.assign(extents.size(), -1);
  const uint64_t bytes = slot_bytes(extents);
  reader->limit_ahead(bytes * kAheadPercent / 100);
  return memory_.open(rooms, bytes, reader, std::move(pin));
}

void Slots::stop() {
  memory_.stop();
  if (below_ != nullptr) below_->stop();
}

bool Slots::is_there(int32_t expert) const {
  const int32_t slot = slot_of_[expert];
  return slot >= 0 && slots_[slot].state == State::ready;
}

ReadyExpert Slots::find(int32_t expert, int32_t index) const {
  if (!is_there(expert)) return {index, nullptr};
  const int32_t slot = slot_of_[expert];
  return {index, &slots_[slot].weights, uploads_ == nullptr ? -1 : slot};
}

bool Slots::is_ready(int32_t slot, int32_t expert) const {
  return slots_[slot].state == State::ready && slots_[slot].expert == expert;
}

bool Slots::is_loading(int32_t slot, int32_t expert) const {
  return slots_[slot].state == State::loading && slots_[slot].expert == expert;
}

bool Slots::holds_all() const {
  return count() >= static_cast<int32_t>(slot_of_.size()) &&
         std::find(slot_of_.begin(), slot_of_.end(), -1) == slot_of_.end();
}

bool Slots::is_any_ahead(int32_t first, int32_t count) const {
  for (int32_t expert = first; expert < first + count; ++expert) {
    const int32_t slot = slot_of_[expert];
    if (slot >= 0 && slots_[slot].state == State::loading && slots_[slot].is_ahead) return true;
  }
  return below_ != nullptr && below_->is_any_ahead(first, count);
}

// Whether the drive is bringing the expert into this tier.
bool Slots::reads(int32_t expert) const {
  const int32_t slot = slot_of_[expert];
  return slot >= 0 && slots_[slot].state == State::loading && slots_[slot].source < 0;
}

Status Slots::stage(const int32_t* orders, size_t count) {
  RING_TRY(check(orders, count));
  for (size_t i = 0; i < count; ++i) {
    Order order;
    parse(orders + i * order_field::count, &order)->obey(order);
  }
  if (uploads_ == nullptr) return {};
  read_staged();
  if (const Status begun = uploads_->begin(); begun.failed() && !trouble_.failed())
    trouble_ = begun;  // `settle` says so
  return {};
}

void Slots::obey(const Order& order) {
  if (!is_loading(order.slot, order.expert)) {
    load(order);
  } else if (order.urgency == Urgency::cancel) {
    cancel(order.slot);
  } else if (order.urgency == Urgency::demand && slots_[order.slot].is_ahead) {
    raise(order.slot);
  }
}

void Slots::load(const Order& order) {
  Slot& s = slots_[order.slot];
  if (s.expert >= 0) {
    slot_of_[s.expert] = -1;
    if (uploads_ != nullptr) uploads_->give_up(order.slot);
  }
  s.state = State::loading;
  s.is_ahead = order.urgency == Urgency::ahead;
  if (!s.is_ahead) ++demanded_;
  s.expert = order.expert;
  s.source = order.source;
  s.weights = model_->experts[order.expert];
  slot_of_[order.expert] = order.slot;
  if (s.source >= 0) {
    Slot& source = below_->slots_[s.source];
    ++source.copies;
    if (source.state == State::ready) upload(order.slot, source.weights);
  } else if (staging_ != nullptr) {
    staging_->want(order.slot, s.is_ahead);
  } else {
    read(order.slot, memory_.at(order.slot));
  }
}

void Slots::upload(int32_t slot, const Mlp& from) {
  const Slot& s = slots_[slot];
  uint64_t bytes = 0;
  for (const Extent& extent : (*extents_)[s.expert].of) bytes += extent.bytes;
  uploads_->want(slot, s.expert, from, bytes, s.is_ahead);
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
  Slot& s = slots_[slot];
  s.is_ahead = false;
  ++demanded_;
  if (uploads_ != nullptr) uploads_->raise(slot);
  if (s.source >= 0) return;
  if (staging_ != nullptr) staging_->raise(slot);
  reader_->promote(s.expert);
}

// What is being copied already arrives all the same.
void Slots::cancel(int32_t slot) {
  const Slot& s = slots_[slot];
  const bool is_coming = s.source >= 0 && below_->slots_[s.source].state == State::loading;
  if (is_coming || (uploads_ != nullptr && uploads_->drop(slot)) ||
      (staging_ != nullptr && staging_->drop(slot))) {
    drop(slot, EventKind::cancelled, Code::ok);
  } else if (s.source < 0) {
    reader_->cancel(s.expert);
  }
}

void Slots::land(const io::Arrival& arrival) {
  const auto expert = static_cast<int32_t>(arrival.tag);
  const int32_t slot = slot_of_[expert];
  if (below_ != nullptr && below_->reads(expert)) {
    land_below(arrival);
  } else if (arrival.landing != io::Landing::arrived) {
    end(slot, arrival);
  } else if (staging_ != nullptr) {
    staging_->note_read(slot);
    upload(slot, slots_[slot].weights);
  } else {
    arrive(slot);
  }
}

// What waits for a read in the tier below follows it.
void Slots::land_below(const io::Arrival& arrival) {
  const auto expert = static_cast<int32_t>(arrival.tag);
  below_->land(arrival);
  const int32_t slot = slot_of_[expert];
  if (slot < 0 || slots_[slot].state != State::loading) return;
  if (arrival.landing == io::Landing::arrived) {
    upload(slot, below_->slots_[slots_[slot].source].weights);
    return;
  }
  end(slot, arrival);
}

// The slot's expert does not come; why, is told of what has failed only.
void Slots::end(int32_t slot, const io::Arrival& arrival) {
  if (arrival.landing != io::Landing::failed) {
    drop(slot, EventKind::cancelled, Code::ok);
    return;
  }
  last_failure_ = arrival.why;
  last_failed_expert_ = slots_[slot].expert;
  drop(slot, EventKind::failed, arrival.why.code);
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
  let_go(slot);
  events_.push_back({kind, s.expert, slot, code});
  slot_of_[s.expert] = -1;
  s.state = State::free;
  s.expert = -1;
}

// What it was filled from, or would have been, may be used for something else.
void Slots::let_go(int32_t slot) {
  Slot& s = slots_[slot];
  if (s.source >= 0)
    --below_->slots_[s.source].copies;
  else if (staging_ != nullptr && staging_->has_room(slot))
    staging_->give_back(slot);
  s.source = -1;
}

const Status& Slots::settle() {
  io::Arrival arrivals[16];
  for (int count = 16; count == 16 && !trouble_.failed();) {
    count = reader_->poll(arrivals, 16);
    for (int i = 0; i < count; ++i) land(arrivals[i]);
  }
  if (uploads_ != nullptr && !trouble_.failed()) {
    Status settled = settle_uploads();
    if (settled.failed()) trouble_ = settled;
  }
  tell_touched();
  if (below_ != nullptr) below_->tell_touched();
  return trouble_;
}

void Slots::tell_touched() {
  const int32_t usable = staging_ == nullptr ? memory_.touched() : count();
  for (; touched_ < usable; ++touched_) {
    slots_[touched_].state = State::free;
    events_.push_back({EventKind::touched, -1, touched_, Code::ok});
  }
}

// What has been copied is there, and its room is another's to be read into.
Status Slots::settle_uploads() {
  filled_.clear();
  RING_TRY(uploads_->settle(&filled_));
  for (const int32_t slot : filled_) {
    // Nothing of it lies in a room any more.
    slots_[slot].weights = model_->experts[slots_[slot].expert];
    let_go(slot);
    arrive(slot);
  }
  read_staged();
  return uploads_->begin();
}

bool Slots::is_touching() const {
  const bool is_own = staging_ == nullptr ? touched_ < count() : staging_->is_touching();
  return is_own || (below_ != nullptr && below_->is_touching());
}

void Slots::wait(int wait_ms) {
  if (is_touching()) wait_ms = std::min(wait_ms, kTouchWaitMs);
  if (uploads_ == nullptr || !uploads_->is_busy()) {
    reader_->wait(wait_ms);
    return;
  }
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(wait_ms);
  while (!reader_->wait(0) && !uploads_->has_news() && std::chrono::steady_clock::now() < end)
    std::this_thread::sleep_for(kCopyWait);
}

bool Slots::awaits_reads() const {
  if (uploads_ == nullptr) return demanded_ > 0;
  return staging_->is_demand_unread() || (below_ != nullptr && below_->awaits_reads());
}

bool Slots::awaits_copies_only() const {
  return uploads_ != nullptr && uploads_->is_busy() && !awaits_reads();
}

// What came into the tier below comes first: it may have gone on from there.
int32_t Slots::take_events(int32_t* events, int32_t capacity) {
  const int32_t before = below_ == nullptr ? 0 : below_->take_events(events, capacity);
  events += before * event_field::count;
  const int32_t count = std::min(capacity - before, static_cast<int32_t>(events_.size()));
  for (int32_t i = 0; i < count; ++i) {
    int32_t* e = events + i * event_field::count;
    e[event_field::kind] = static_cast<int32_t>(events_[i].kind);
    e[event_field::expert] = events_[i].expert;
    e[event_field::to] = static_cast<int32_t>(tier()) << limit::slot_bits | events_[i].slot;
    e[event_field::code] = static_cast<int32_t>(events_[i].code);
  }
  events_.erase(events_.begin(), events_.begin() + count);
  return before + count;
}

const Status& Slots::failure_of(int32_t expert) const {
  static const Status unknown = failure(Code::cannot_read, "an expert could not be read");
  return expert == last_failed_expert_ ? last_failure_ : unknown;
}

}  // namespace ring
