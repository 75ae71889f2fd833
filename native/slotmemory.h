// RAM for a number of experts, each with room for any of them as it lies in the checkpoint: slab
// after slab, touched in the background, locked where the system allows, and lent to the reader.
// It must not know which expert lies where.
#pragma once
#include <cstdint>
#include <vector>

#include "io/reader.h"
#include "memory/slab.h"

namespace ring {

class SlotMemory {
 public:
  ~SlotMemory() { stop(); }

  // Reserves the memory and begins to touch it; the reader is lent each slab then.
  Status open(int32_t count, uint64_t bytes_each, io::Reader* reader);
  // Ends the touching, which uses the reader. The reader must be gone before the memory is.
  void stop() { toucher_.stop(); }

  int32_t count() const { return count_; }
  uint8_t* at(int32_t room) {
    return slabs_[room / each_].data() + bytes_each_ * static_cast<uint64_t>(room % each_);
  }
  // Rooms that have been touched and may be used, counted from the first.
  int32_t touched() const;
  int32_t locked() const;

 private:
  int32_t count_ = 0;
  int32_t each_ = 1;  // rooms of a slab
  uint64_t bytes_each_ = 0;
  std::vector<Slab> slabs_;
  Toucher toucher_;
};

}  // namespace ring
