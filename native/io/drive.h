// Where bytes come from: the lowest rung of reading. A drive takes chunks (block-aligned pieces of
// a file with a place in memory), several at a time, and says when each has landed. It knows
// nothing of experts, urgency or retries: that is the reader above it. The real ones are io_uring,
// threads with O_DIRECT and threads through the page cache; the paced one is made of RAM and keeps
// a set rate, and the faulty one wraps another and fails on request. All of them pass the same
// tests.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "status.h"

namespace ring::io {

// Offsets, lengths and addresses of chunks are multiples of this on every drive, so that what works
// on one works on all. No file system that we know asks O_DIRECT for more.
constexpr uint64_t kBlockBytes = 4096;

// A file and its copies: paths[0] is the checkpoint's own, the others are mirrors that hold the
// same bytes.
struct Source {
  std::vector<std::string> paths;
  uint64_t bytes = 0;
};

struct Region {
  uint8_t* data = nullptr;
  uint64_t bytes = 0;
};

struct Chunk {
  uint64_t tag = 0;  // the reader's own name for it
  int32_t file = 0;
  int32_t copy = 0;  // which path of the source
  uint64_t offset = 0;
  uint64_t bytes = 0;  // may reach past the end of the file: the read is then short
  uint8_t* target = nullptr;
};

struct Landed {
  uint64_t tag = 0;
  int64_t result = 0;  // bytes read (fewer at the end of the file), or -errno
};

// Used by one thread, except wake.
class Drive {
 public:
  virtual ~Drive() = default;

  // Most chunks that may be under way at once.
  virtual int depth() const = 0;
  // Takes a chunk; the caller keeps at most depth() under way. A chunk that cannot be read lands
  // with an error: submit itself never fails.
  virtual void submit(const Chunk& chunk) = 0;
  // Memory that reads will land in, all of it touched: registered with the kernel where the rung
  // can (a slab at a time, while reads go on). Reads may land elsewhere too, at a higher cost.
  virtual void lend(const Region& region) = 0;
  // Hands over what has landed, up to `capacity`; waits up to waitMs (-1: for ever) when there is
  // nothing yet, and returns early on wake.
  virtual int reap(Landed* landed, int capacity, int wait_ms) = 0;
  // Makes a reap that waits, or the next one, return. From any thread.
  virtual void wake() = 0;
  // Processor time of the drive's own threads so far.
  virtual uint64_t cpu_ns() const { return 0; }
  // Rung, depth and what was not to be had, for people: "io_uring, registered buffers, depth 32".
  virtual std::string describe() const = 0;
};

struct DriveOptions {
  Rung rung = Rung::automatic;  // contract.h; automatic takes the best that works here
  int depth = 0;                // 0: chosen by the drive
};

// Opens the files and probes the ladder from the wanted rung downwards; a rung that cannot be had
// is named in describe() of the one that is used.
Status open_drive(const std::vector<Source>& sources, const DriveOptions& options,
                  std::unique_ptr<Drive>* drive);

// A drive made of RAM: holds the given extents of the files, read at open, and serves them at a set
// rate with a set latency.
struct Pace {
  double bytes_per_second = 0;
  double latency_seconds = 0;
  int depth = 32;
  double jitter = 0;  // 0 to 1: latency varies by this share, seeded
  uint64_t seed = 1;
};
Status open_paced_drive(const std::vector<Source>& sources, const Pace& pace,
                        std::unique_ptr<Drive>* drive);

// What goes wrong, and where: a chunk that touches [offset, offset + bytes) of a file meets the
// fault (contract.h), `times` times in all (-1: always).
struct Fault {
  FaultKind kind = FaultKind::error;
  int32_t file = 0;
  uint64_t offset = 0, bytes = 0;
  int32_t times = -1;
  double delay_seconds = 0;  // of slow
};
std::unique_ptr<Drive> make_faulty_drive(std::unique_ptr<Drive> under, std::vector<Fault> faults);

}  // namespace ring::io
