// See ceiling.h.
#include "ceiling.h"

#include <algorithm>
#include <cstring>

#include "../memory/slab.h"
#include "../timed.h"

namespace ring::io {
namespace {

// A chunk of each source that holds at least one, weighted by size.
class Places {
 public:
  Places(const std::vector<Source>& sources, uint64_t chunk_bytes, uint64_t seed)
      : chunk_bytes_(chunk_bytes), state_(seed * 2 + 1) {
    for (size_t file = 0; file < sources.size(); ++file) {
      const uint64_t chunks = sources[file].bytes / chunk_bytes;
      if (chunks == 0) continue;
      total_ += chunks;
      files_.push_back({static_cast<int32_t>(file), total_});
    }
  }
  bool any() const { return total_ > 0; }
  void choose(Chunk* chunk) {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    const uint64_t at = state_ % total_;
    uint64_t before = 0;
    for (const File& file : files_) {
      if (at < file.chunks_up_to) {
        chunk->file = file.index;
        chunk->offset = (at - before) * chunk_bytes_ / kBlockBytes * kBlockBytes;
        return;
      }
      before = file.chunks_up_to;
    }
  }

 private:
  struct File {
    int32_t index;
    uint64_t chunks_up_to;
  };
  uint64_t chunk_bytes_, state_, total_ = 0;
  std::vector<File> files_;
};

}  // namespace

Status measure_ceiling(Drive& drive, const std::vector<Source>& sources, const CeilingProbe& probe,
                       double* bytes_per_second) {
  Places places(sources, probe.chunk_bytes, probe.seed);
  if (!places.any())
    return failure(Code::bad_argument, "no file is large enough to measure the drive with");
  const int depth = std::min(probe.depth, drive.depth());
  Slab slab;
  RING_TRY(slab.reserve(probe.chunk_bytes * static_cast<uint64_t>(depth)));
  const std::atomic<bool> never{false};
  slab.touch(0, slab.bytes(), never);
  drive.lend({slab.data(), slab.bytes()});
  std::vector<Landed> landed(static_cast<size_t>(depth));
  const double begin = now();
  // Counted from the first landing to the last submission: filling and draining the queue is not
  // what the drive can do.
  double first_landing = 0, last_submission = 0;
  uint64_t asked = 0, delivered = 0;
  int under_way = 0;
  const auto submit = [&](uint64_t place) {
    Chunk chunk;
    chunk.tag = place;
    chunk.bytes = probe.chunk_bytes;
    chunk.target = slab.data() + place * probe.chunk_bytes;
    places.choose(&chunk);
    drive.submit(chunk);
    asked += probe.chunk_bytes;
    ++under_way;
  };
  for (int place = 0; place < depth; ++place) submit(static_cast<uint64_t>(place));
  while (under_way > 0) {
    const int count = drive.reap(landed.data(), depth, -1);
    const double time = now();
    const bool is_first = first_landing == 0 && count > 0;
    if (is_first) first_landing = time;
    const bool goes_on = asked < probe.bytes && time - begin < probe.seconds;
    if (goes_on) last_submission = time;
    for (int i = 0; i < count; ++i) {
      --under_way;
      if (landed[i].result < 0)
        return failure(Code::cannot_read, "the drive cannot be measured: %s",
                       strerror(static_cast<int>(-landed[i].result)));
      if (!goes_on) continue;
      if (!is_first) delivered += static_cast<uint64_t>(landed[i].result);
      submit(landed[i].tag);
    }
  }
  if (last_submission <= first_landing || delivered == 0)
    return failure(Code::bad_argument, "too few bytes were read to measure the drive");
  *bytes_per_second = static_cast<double>(delivered) / (last_submission - first_landing);
  return {};
}

}  // namespace ring::io
