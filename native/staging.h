// Rooms in RAM for experts on their way into a backend's own memory: each is read into one of a
// few, is copied from there, and gives the room back. Demand takes a room before look-ahead, which
// never has more than half of them, so that somebody who waits does not wait for guesses. Of
// reading and copying it knows only that they take time; of the slots, their numbers. All calls
// come from the device's thread.
#pragma once
#include <cstdint>
#include <vector>

#include "slotmemory.h"

namespace ring {

class Staging {
 public:
  // The rooms outlive this.
  Staging(SlotMemory* rooms, int32_t slots);

  // The slot waits for a room.
  void want(int32_t slot, bool is_ahead);
  // What was a guess is waited for.
  void raise(int32_t slot);
  // The slot need not have a room any more; false: it waits for none.
  bool drop(int32_t slot);
  // The next slot that has got a room to be read into, or -1.
  int32_t next();
  bool has_room(int32_t slot) const { return room_of_[slot] >= 0; }
  uint8_t* room_of(int32_t slot) { return rooms_->at(room_of_[slot]); }
  // The slot's room has been read into.
  void note_read(int32_t slot) { taken_[room_of_[slot]].is_read = true; }
  // The slot needs its room no more.
  void give_back(int32_t slot);

  // Whether something that is waited for is yet to be read.
  bool is_demand_unread() const;
  // Whether there are rooms that cannot be used yet.
  bool is_touching() const { return touched_ < rooms_->count(); }

 private:
  struct Room {
    int32_t slot = -1;
    bool is_ahead = false, is_read = false;
  };

  int32_t ahead_most() const;

  SlotMemory* rooms_;
  std::vector<Room> taken_;            // [room]
  std::vector<int32_t> free_;          // rooms
  int32_t touched_ = 0;                // rooms that have been free once
  int32_t ahead_ = 0;                  // rooms that guesses have
  std::vector<int32_t> room_of_;       // [slot], or -1
  std::vector<int32_t> demand_wants_;  // slots that wait for a room, in the order of their wishes
  std::vector<int32_t> ahead_wants_;
};

}  // namespace ring
