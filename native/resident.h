// Bytes of the checkpoint that are read once, at open, into locked memory of their own: the dense
// weights, and for a moment the scales. Neighbours in a file are read together.
#pragma once
#include <atomic>
#include <cstdint>
#include <vector>

#include "io/reader.h"
#include "memory/slab.h"
#include "slots.h"

namespace ring {

class Resident {
 public:
  // Bytes between two extents up to which they are read as one.
  explicit Resident(uint64_t gap_bytes) : gap_bytes_(gap_bytes) {}

  void want(const Extent& extent) { wanted_.push_back(extent); }
  // Reads all that is wanted. `progress` goes from `from` to `to` thousandths.
  Status read(io::Reader& reader, std::atomic<int32_t>& progress, int32_t from, int32_t to);
  // Bytes of an extent that was wanted; null before read.
  const uint8_t* find(const Extent& extent) const;

  uint64_t bytes() const { return slab_.bytes(); }
  bool is_locked() const { return is_locked_; }

 private:
  struct Run {
    int32_t file;
    uint64_t offset, bytes;
    uint8_t* data;  // where the run's first byte lies
  };

  void merge();

  uint64_t gap_bytes_;
  std::vector<Extent> wanted_;
  std::vector<Run> runs_;  // by file and offset
  Slab slab_;
  bool is_locked_ = false;
};

}  // namespace ring
