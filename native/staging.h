// The way of experts into slots that lie in a backend's own memory: each is read into one of a few
// rooms in RAM, is copied from there, and gives the room back when the backend says that the copy
// is done. Demand takes a room before look-ahead, which never has more than half of them, so that
// somebody who waits does not wait for guesses. Of reading it knows only that it takes time; of the
// slots, their numbers. All calls come from the device's thread.
#pragma once
#include <cstdint>
#include <vector>

#include "backend.h"
#include "slotmemory.h"

namespace ring {

class Staging {
 public:
  // The slots of the backend are open; it and the rooms outlive this.
  Staging(const Backend* backend, void* compute, SlotMemory* rooms, int32_t slots);

  // The slot waits for a room.
  void want(int32_t slot, bool is_ahead);
  // What was a guess is waited for.
  void raise(int32_t slot);
  // The slot need not have a room any more; false: it has one already.
  bool drop(int32_t slot);
  // The next slot that has got a room to be read into, or -1.
  int32_t next();
  uint8_t* room_of(int32_t slot) { return rooms_->at(room_of_[slot]); }
  // What was read into the slot's room is an expert, of so many bytes; its copy begins.
  Status copy(int32_t slot, int32_t expert, const Mlp& from, uint64_t bytes);
  // Nothing came into the slot's room.
  void give_back(int32_t slot);
  // Appends the slots that have been filled since.
  Status settle(std::vector<int32_t>* filled);

  bool is_copying() const { return !copying_.empty(); }
  // Whether something that is waited for is yet to be read.
  bool is_demand_unread() const;
  // Whether `settle` has something to tell, were it called now.
  bool has_news() const;
  // Whether there are rooms that cannot be used yet.
  bool is_touching() const { return touched_ < rooms_->count(); }
  uint64_t bytes_copied() const { return bytes_copied_; }

 private:
  struct Room {
    int32_t slot = -1;
    bool is_ahead = false, is_read = false;
    uint64_t ticket = 0;
    Mlp from;  // stays until the copy is done
  };

  int32_t ahead_most() const;

  const Backend* backend_;
  void* compute_;
  SlotMemory* rooms_;
  std::vector<Room> taken_;            // [room]
  std::vector<int32_t> free_;          // rooms
  int32_t touched_ = 0;                // rooms that have been free once
  int32_t ahead_ = 0;                  // rooms that guesses have
  std::vector<int32_t> room_of_;       // [slot], or -1
  std::vector<int32_t> demand_wants_;  // slots that wait for a room, in the order of their wishes
  std::vector<int32_t> ahead_wants_;
  std::vector<int32_t> copying_;  // rooms, by ticket
  uint64_t bytes_copied_ = 0;
};

}  // namespace ring
