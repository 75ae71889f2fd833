// See resident.h.
#include "resident.h"

#include <algorithm>
#include <tuple>

namespace ring {
namespace {

// One read is not longer, so that progress moves and the reader has several to spread.
constexpr uint64_t kRunBytes = uint64_t{64} << 20;

}  // namespace

void Resident::merge() {
  std::sort(wanted_.begin(), wanted_.end(), [](const Extent& a, const Extent& b) {
    return std::tie(a.file, a.offset) < std::tie(b.file, b.offset);
  });
  for (const Extent& extent : wanted_) {
    const uint64_t end = extent.offset + extent.bytes;
    if (!runs_.empty()) {
      Run& last = runs_.back();
      const uint64_t last_end = last.offset + last.bytes;
      const bool joins = last.file == extent.file && extent.offset <= last_end + gap_bytes_;
      if (joins && (extent.offset < last_end || end - last.offset <= kRunBytes)) {
        last.bytes = std::max(last_end, end) - last.offset;
        continue;
      }
    }
    runs_.push_back({extent.file, extent.offset, extent.bytes, nullptr});
  }
  wanted_.clear();
}

Status Resident::read(io::Reader& reader, std::atomic<int32_t>& progress, int32_t from,
                      int32_t to) {
  merge();
  uint64_t total = 0;
  for (const Run& run : runs_) total += io::room_for(run.bytes);
  if (total == 0) return {};
  RING_TRY(slab_.reserve(total));
  const std::atomic<bool> never{false};
  slab_.touch(0, slab_.bytes(), never);
  is_locked_ = slab_.lock();
  uint8_t* target = slab_.data();
  for (size_t index = 0; index < runs_.size(); ++index) {
    Run& run = runs_[index];
    io::Read read;
    read.tag = static_cast<int64_t>(index);
    read.parts.push_back({run.file, run.offset, run.bytes, target, nullptr});
    run.data = target + run.offset % io::kBlockBytes;
    target += io::room_for(run.bytes);
    reader.submit(std::move(read));
  }
  Status first_failure;
  io::Arrival arrivals[16];
  for (size_t landed = 0; landed < runs_.size();) {
    const int count = reader.poll(arrivals, 16);
    for (int i = 0; i < count; ++i) {
      if (arrivals[i].landing != io::Landing::arrived && !first_failure.failed())
        first_failure = arrivals[i].why;
    }
    landed += static_cast<size_t>(count);
    progress.store(from +
                   static_cast<int32_t>(static_cast<uint64_t>(to - from) * landed / runs_.size()));
    if (count == 0) reader.wait(-1);
  }
  return first_failure;
}

const uint8_t* Resident::find(const Extent& extent) const {
  auto after = std::upper_bound(
      runs_.begin(), runs_.end(), extent, [](const Extent& wanted, const Run& run) {
        return std::tie(wanted.file, wanted.offset) < std::tie(run.file, run.offset);
      });
  if (after == runs_.begin()) return nullptr;
  const Run& run = *--after;
  const bool holds = run.file == extent.file && extent.offset >= run.offset &&
                     extent.offset + extent.bytes <= run.offset + run.bytes;
  return holds && run.data != nullptr ? run.data + (extent.offset - run.offset) : nullptr;
}

}  // namespace ring
