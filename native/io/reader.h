// The one reader of a device. It takes reads of whole experts (up to a few extents each), cuts them
// into chunks, keeps the drive's queue full with demand strictly before look-ahead, tries again
// what failed, checks what landed, and says when a read is complete. One thread of its own owns the
// drive; the other functions belong to the device's thread. Memory that a read lands in belongs to
// the caller and must stay until the read has been reported.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "drive.h"

namespace ring::io {

enum class Priority : int32_t { demand, ahead };

// Bytes of a file and where they shall lie. They are widened to blocks: the bytes of the extent
// begin at target + offset % kBlockBytes, and up to room_for(bytes) bytes from target on are
// written.
struct ReadPart {
  int32_t file = 0;
  uint64_t offset = 0;
  uint64_t bytes = 0;
  uint8_t* target = nullptr;  // aligned to kBlockBytes
  // CRC32C of every kChecksumBytes of the extent (the last may be shorter), or null: not checked.
  const uint32_t* checksums = nullptr;
};

constexpr uint64_t kChecksumBytes = 1 << 20;

constexpr uint64_t room_for(uint64_t bytes) {
  return (bytes + kBlockBytes - 1) / kBlockBytes * kBlockBytes + kBlockBytes;
}

// Parts are read in their order. A tag is free again once its arrival was handed over.
struct Read {
  int64_t tag = 0;
  Priority priority = Priority::demand;
  std::vector<ReadPart> parts;
};

enum class Landing : int32_t { arrived, failed, cancelled };

struct Arrival {
  int64_t tag = 0;
  Landing landing = Landing::arrived;
  // Of a failed read: what was wrong, with the path and byte, one sentence.
  Status why;
};

// Written by the reader's thread, read by anyone: figures for people and for the policy.
struct ReaderCounters {
  std::atomic<uint64_t> bytes_wanted{0};  // of completed reads, before widening to blocks
  std::atomic<uint64_t> bytes_landed{0};  // what the drive delivered
  std::atomic<uint64_t> bytes_ahead{0};  // of bytes_landed, what nobody waited for when it was sent
  std::atomic<uint64_t> bytes_cancelled{0};  // of bytes_landed, of reads that were cancelled
  std::atomic<uint64_t> busy_ns{0};          // with at least one chunk under way
  std::atomic<uint64_t> depth_ns{0};         // integral of chunks under way over time
  std::atomic<uint64_t> cpu_ns{0};           // of the reader's own threads
  std::atomic<uint64_t> checksum_ns{0};      // of cpu_ns, spent on checksums
  std::atomic<uint64_t> retries{0};
  std::atomic<uint64_t> failures{0};
  std::atomic<uint64_t> mismatches{0};  // checksum blocks that were wrong, rereads included
};

struct ReaderOptions {
  // Parts are cut into chunks of about this size, all of a part alike. 0: 2 MiB, which was within
  // noise of the best of 1, 2 and 4 MiB; smaller ones cost throughput and processor time, larger
  // ones make demand wait longer for look-ahead under way.
  uint64_t chunk_bytes = 0;
  int tries = 3;  // of a chunk, the first included
  // Look-ahead bytes under way at once: while demand is queued, and while it is not. The latter is
  // what a demand read that comes next may have to wait for.
  uint64_t ahead_bytes_beside_demand = 0;
  uint64_t ahead_bytes = 4 << 20;
};

class Reader {
 public:
  Reader();
  ~Reader();  // waits for chunks under way, drops what is queued
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  // `sources` as the drive got them, for messages and sizes.
  Status open(std::unique_ptr<Drive> drive, const std::vector<Source>& sources,
              const ReaderOptions& options);
  // See Drive::lend; from any thread. The memory must stay until the reader is gone.
  void lend(Region region);
  void submit(Read read);
  // Look-ahead bytes under way while no demand is queued; a chunk of a quarter of that is the
  // least.
  void limit_ahead(uint64_t bytes);
  // A look-ahead read becomes demand; nothing happens when it is that already, or complete.
  void promote(int64_t tag);
  // What is not under way yet is dropped; the read is then reported as cancelled, or as arrived
  // when nothing was left to drop.
  void cancel(int64_t tag);
  // Completed reads since the last call, never waits.
  int poll(Arrival* arrivals, int capacity);
  // Until there is something to poll, or the time is over; returns whether there is.
  bool wait(int wait_ms);
  const ReaderCounters& counters() const;
  std::string describe() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace ring::io
