// See staging.h.
#include "staging.h"

#include <algorithm>

namespace ring {
namespace {

int32_t take_first(std::vector<int32_t>& slots) {
  const int32_t first = slots.front();
  slots.erase(slots.begin());
  return first;
}

}  // namespace

Staging::Staging(const Backend* backend, void* compute, SlotMemory* rooms, int32_t slots)
    : backend_(backend), compute_(compute), rooms_(rooms) {
  const auto count = static_cast<size_t>(rooms->count());
  taken_.resize(count);
  free_.reserve(count);
  copying_.reserve(count);
  room_of_.assign(static_cast<size_t>(slots), -1);
}

int32_t Staging::ahead_most() const { return std::max(1, rooms_->count() / 2); }

void Staging::want(int32_t slot, bool is_ahead) {
  (is_ahead ? ahead_wants_ : demand_wants_).push_back(slot);
}

void Staging::raise(int32_t slot) {
  const int32_t room = room_of_[slot];
  if (room < 0) {
    if (std::erase(ahead_wants_, slot) > 0) demand_wants_.push_back(slot);
  } else if (taken_[room].is_ahead) {
    taken_[room].is_ahead = false;
    --ahead_;
  }
}

bool Staging::drop(int32_t slot) {
  return std::erase(demand_wants_, slot) + std::erase(ahead_wants_, slot) > 0;
}

int32_t Staging::next() {
  for (; touched_ < rooms_->touched(); ++touched_) free_.push_back(touched_);
  if (free_.empty()) return -1;
  const bool is_ahead = demand_wants_.empty();
  if (is_ahead && (ahead_wants_.empty() || ahead_ >= ahead_most())) return -1;
  const int32_t slot = take_first(is_ahead ? ahead_wants_ : demand_wants_);
  const int32_t room = free_.back();
  free_.pop_back();
  taken_[room].slot = slot;
  taken_[room].is_ahead = is_ahead;
  taken_[room].is_read = false;
  if (is_ahead) ++ahead_;
  room_of_[slot] = room;
  return slot;
}

Status Staging::copy(int32_t slot, int32_t expert, const Mlp& from, uint64_t bytes) {
  const int32_t room = room_of_[slot];
  taken_[room].is_read = true;
  taken_[room].from = from;
  RING_TRY(backend_->fill(compute_, slot, expert, &taken_[room].from, &taken_[room].ticket));
  copying_.push_back(room);
  bytes_copied_ += bytes;
  return {};
}

void Staging::give_back(int32_t slot) {
  const int32_t room = room_of_[slot];
  if (taken_[room].is_ahead) --ahead_;
  taken_[room].slot = -1;
  room_of_[slot] = -1;
  free_.push_back(room);
}

Status Staging::settle(std::vector<int32_t>* filled) {
  if (copying_.empty()) return {};
  uint64_t ticket = 0;
  RING_TRY(backend_->filled(compute_, &ticket));
  size_t done = 0;
  for (; done < copying_.size() && taken_[copying_[done]].ticket <= ticket; ++done) {
    filled->push_back(taken_[copying_[done]].slot);
    give_back(filled->back());
  }
  copying_.erase(copying_.begin(), copying_.begin() + static_cast<std::ptrdiff_t>(done));
  return {};
}

bool Staging::is_demand_unread() const {
  return !demand_wants_.empty() || std::any_of(taken_.begin(), taken_.end(), [](const Room& room) {
    return room.slot >= 0 && !room.is_ahead && !room.is_read;
  });
}

bool Staging::has_news() const {
  uint64_t ticket = 0;
  return is_copying() && (backend_->filled(compute_, &ticket).failed() ||
                          taken_[copying_.front()].ticket <= ticket);
}

}  // namespace ring
