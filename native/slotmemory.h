// RAM for a number of experts, each with room for any of them as it lies in the checkpoint: slab
// after slab, touched in the background, locked where the system allows, and lent to the reader and
// to whoever copies from it.
// It must not know which expert lies where.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <vector>

#include "io/reader.h"
#include "memory/slab.h"

namespace ring {

class SlotMemory {
 public:
  ~SlotMemory() { stop(); }

  // Pins memory, from the thread that touches it.
  using Pin = std::function<Status(const uint8_t* data, uint64_t bytes)>;

  // Reserves the memory and begins to touch it; the reader is lent each slab then, and it is pinned
  // if that can be: `pin` may be empty.
  Status open(int32_t count, uint64_t bytes_each, io::Reader* reader, Pin pin);
  // Ends the touching, which uses the reader and `pin`. The reader must be gone before the memory
  // is.
  void stop() { toucher_.stop(); }

  int32_t count() const { return count_; }
  uint8_t* at(int32_t room) {
    return slabs_[room / each_].data() + bytes_each_ * static_cast<uint64_t>(room % each_);
  }
  // Rooms that have been touched and may be used, counted from the first.
  int32_t touched() const;
  int32_t locked() const;
  // What was to be pinned so far, what has been, and the time that took.
  uint64_t bytes_lent() const { return bytes_lent_.load(std::memory_order_relaxed); }
  uint64_t bytes_pinned() const { return bytes_pinned_.load(std::memory_order_relaxed); }
  uint64_t pin_ns() const { return pin_ns_.load(std::memory_order_relaxed); }

 private:
  void pin(const Slab& slab, const Pin& how);

  int32_t count_ = 0;
  int32_t each_ = 1;  // rooms of a slab
  uint64_t bytes_each_ = 0;
  std::vector<Slab> slabs_;
  std::atomic<uint64_t> bytes_lent_{0}, bytes_pinned_{0}, pin_ns_{0};
  Toucher toucher_;
};

}  // namespace ring
