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

Staging::Staging(SlotMemory* rooms, int32_t slots) : rooms_(rooms) {
  const auto count = static_cast<size_t>(rooms->count());
  taken_.resize(count);
  free_.reserve(count);
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

void Staging::give_back(int32_t slot) {
  const int32_t room = room_of_[slot];
  if (taken_[room].is_ahead) --ahead_;
  taken_[room].slot = -1;
  room_of_[slot] = -1;
  free_.push_back(room);
}

bool Staging::is_demand_unread() const {
  return !demand_wants_.empty() || std::any_of(taken_.begin(), taken_.end(), [](const Room& room) {
    return room.slot >= 0 && !room.is_ahead && !room.is_read;
  });
}

}  // namespace ring
