// All reads that are not complete: which chunk goes to the drive next, what becomes of one that has
// come back, and which reads are complete by it. Belongs to one thread and knows nothing of others.
#pragma once
#include <deque>
#include <memory>
#include <unordered_map>
#include <vector>

#include "copies.h"
#include "job.h"
#include "reader.h"

namespace ring::io {

class Jobs {
 public:
  Jobs(Drive& drive, const ReaderOptions& options, ReaderCounters& counters)
      : drive_(drive), options_(options), counters_(counters) {}
  Status open(const std::vector<Source>& sources) { return copies_.open(sources); }

  // As the functions of Reader.
  void submit(Read read);
  void promote(int64_t tag);
  void cancel(int64_t tag);

  // Keeps the drive's queue full.
  void fill();
  // Takes in what the drive has delivered, up to wait_ms after now.
  void reap(int wait_ms);
  // Checks one of the chunks that have landed: one at a time, so that the drive never waits for the
  // processor.
  void check_one();
  // Forgets what is not under way.
  void drop();

  bool is_idle() const { return !is_reading() && unchecked_.empty() && queues_are_empty(); }
  bool is_reading() const { return !pieces_.empty(); }
  bool is_checking() const { return !unchecked_.empty(); }

  // Reads that are complete since they were taken away last.
  std::vector<Arrival> done;

 private:
  bool queues_are_empty() const { return demand_.empty() && ahead_.empty(); }
  Status refusal_of(const Read& read) const;
  std::deque<Job*>& queue_of(const Job& job);
  void unqueue(Job& job);
  void try_again(Piece piece);
  Job* choose_job() const;
  uint64_t chunk_bytes_of(Priority priority) const;
  void send(Piece piece);
  void count_time();
  void land(const Landed& landed);
  void land_error(Piece& piece, int error);
  void land_short(Piece& piece, uint64_t bytes);
  void give_another_try(Piece& piece, const Status& why);
  void reread(const Piece& wrong, uint64_t block);
  void finish(Job& job);

  Drive& drive_;
  const ReaderOptions& options_;
  ReaderCounters& counters_;
  Copies copies_;
  std::unordered_map<int64_t, std::unique_ptr<Job>> jobs_;
  std::deque<Job*> demand_, ahead_;             // those that have something to send
  std::unordered_map<uint64_t, Piece> pieces_;  // under way, by chunk tag
  std::deque<Piece> unchecked_;                 // landed, with checksums to check
  uint64_t ahead_under_way_ = 0;                // bytes
  uint64_t next_tag_ = 1;
  int64_t counted_ns_ = 0;
};

}  // namespace ring::io
