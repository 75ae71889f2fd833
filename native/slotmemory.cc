// See slotmemory.h.
#include "slotmemory.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace ring {
namespace {

constexpr uint64_t kSlabBytes = uint64_t{1} << 30;

}  // namespace

Status SlotMemory::open(int32_t count, uint64_t bytes_each, io::Reader* reader, Pin pin) {
  count_ = count;
  bytes_each_ = bytes_each;
  each_ = static_cast<int32_t>(std::max<uint64_t>(1, kSlabBytes / bytes_each));
  for (int32_t first = 0; first < count; first += each_) {
    const int32_t here = std::min(each_, count - first);
    slabs_.emplace_back();
    RING_TRY(slabs_.back().reserve(bytes_each * static_cast<uint64_t>(here)));
  }
  toucher_.start(&slabs_, bytes_each, each_, count,
                 [this, reader, how = std::move(pin)](const Slab& slab) {
                   reader->lend({slab.data(), slab.bytes()});
                   if (how) this->pin(slab, how);
                 });
  return {};
}

// A slab that cannot be pinned is used as it is.
void SlotMemory::pin(const Slab& slab, const Pin& how) {
  bytes_lent_ += slab.bytes();
  const auto begin = std::chrono::steady_clock::now();
  if (how(slab.data(), slab.bytes()).failed()) return;
  const auto taken = std::chrono::steady_clock::now() - begin;
  pin_ns_ +=
      static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(taken).count());
  bytes_pinned_ += slab.bytes();
}

int32_t SlotMemory::touched() const {
  return static_cast<int32_t>(std::min<int64_t>(count_, toucher_.pieces()));
}

int32_t SlotMemory::locked() const {
  return static_cast<int32_t>(std::min<int64_t>(count_, toucher_.locked_slabs() * each_));
}

}  // namespace ring
