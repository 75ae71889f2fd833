// See jobs.h.
#include "jobs.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include "thread_time.h"

namespace ring::io {
namespace {

constexpr int kLandedAtOnce = 64;
constexpr uint64_t kLeastChunkBytes = 256 << 10;

int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// One writer, so no read-modify-write is needed.
void add(std::atomic<uint64_t>& counter, uint64_t amount) {
  counter.store(counter.load(std::memory_order_relaxed) + amount, std::memory_order_relaxed);
}

unsigned long long printed(uint64_t value) { return value; }

}  // namespace

// Called whenever the number of chunks under way is about to change.
void Jobs::count_time() {
  const int64_t time = now_ns();
  if (!pieces_.empty()) {
    add(counters_.busy_ns, static_cast<uint64_t>(time - counted_ns_));
    add(counters_.depth_ns, static_cast<uint64_t>(time - counted_ns_) * pieces_.size());
  }
  counted_ns_ = time;
}

// A read that would write or read where nobody expects it is refused, not tried.
Status Jobs::refusal_of(const Read& read) const {
  if (jobs_.contains(read.tag))
    return failure(Code::bad_argument, "read %lld is being read already",
                   static_cast<long long>(read.tag));
  for (const ReadPart& part : read.parts) {
    if (part.file < 0 || part.file >= copies_.files())
      return failure(Code::bad_argument, "there is no file %d to read", part.file);
    const uint64_t bytes = copies_.file_bytes(part.file);
    if (part.offset > bytes || part.bytes > bytes - part.offset)
      return failure(Code::bad_argument, "%s: has %llu bytes, byte %llu is asked for",
                     copies_.first_path(part.file), printed(bytes),
                     printed(part.offset + part.bytes - 1));
    if (reinterpret_cast<uintptr_t>(part.target) % kBlockBytes != 0)
      return failure(Code::bad_argument, "reads need memory at a multiple of %llu bytes",
                     printed(kBlockBytes));
  }
  return {};
}

void Jobs::submit(Read read) {
  if (const Status refusal = refusal_of(read); refusal.failed()) {
    add(counters_.failures, 1);
    done.push_back({read.tag, Landing::failed, refusal});
    return;
  }
  auto owned = std::make_unique<Job>(std::move(read), chunk_bytes_of(read.priority));
  Job& job = *owned;
  jobs_[job.read.tag] = std::move(owned);
  if (!job.has_more()) return finish(job);
  queue_of(job).push_back(&job);
  job.is_queued = true;
}

void Jobs::promote(int64_t tag) {
  const auto found = jobs_.find(tag);
  if (found == jobs_.end() || found->second->read.priority == Priority::demand) return;
  Job& job = *found->second;
  const bool was_queued = job.is_queued;
  unqueue(job);
  job.read.priority = Priority::demand;
  if (was_queued) demand_.push_back(&job);
  job.is_queued = was_queued;
}

void Jobs::cancel(int64_t tag) {
  const auto found = jobs_.find(tag);
  if (found == jobs_.end()) return;
  found->second->is_cancelled = true;
  finish(*found->second);
}

void Jobs::drop() {
  demand_.clear();
  ahead_.clear();
  unchecked_.clear();
}

std::deque<Job*>& Jobs::queue_of(const Job& job) {
  return job.read.priority == Priority::demand ? demand_ : ahead_;
}

void Jobs::unqueue(Job& job) {
  if (job.is_queued) std::erase(queue_of(job), &job);
  job.is_queued = false;
}

// Before whatever else waits with the same urgency: the rest of its read is there already.
void Jobs::try_again(Piece piece) {
  Job& job = *piece.job;
  job.again.push_back(std::move(piece));
  if (job.is_queued) return;
  queue_of(job).push_front(&job);
  job.is_queued = true;
}

void Jobs::fill() {
  count_time();
  const auto depth = static_cast<size_t>(drive_.depth());
  while (pieces_.size() < depth) {
    Job* job = choose_job();
    if (job == nullptr) return;
    Piece piece = job->next();
    if (!job->has_more()) unqueue(*job);
    send(std::move(piece));
  }
}

// Look-ahead goes in smaller chunks, so that a few of them fill the drive within its bound.
uint64_t Jobs::chunk_bytes_of(Priority priority) const {
  if (priority == Priority::demand) return options_.chunk_bytes;
  return std::min(options_.chunk_bytes, std::max(options_.ahead_bytes / 4, kLeastChunkBytes));
}

// Demand strictly first, but for the few look-ahead bytes that may be under way beside it.
Job* Jobs::choose_job() const {
  const bool is_alone = demand_.empty();
  const uint64_t limit = is_alone ? options_.ahead_bytes : options_.ahead_bytes_beside_demand;
  const bool ahead_fits = ahead_under_way_ + chunk_bytes_of(Priority::ahead) <= limit ||
                          (is_alone && ahead_under_way_ == 0);
  if (!ahead_.empty() && ahead_fits) return ahead_.front();
  return is_alone ? nullptr : demand_.front();
}

void Jobs::send(Piece piece) {
  Chunk& chunk = piece.chunk;
  piece.sent_ns = now_ns();
  chunk.copy = copies_.choose(chunk.file, chunk.bytes, piece.refused, piece.sent_ns);
  chunk.tag = next_tag_++;
  piece.queued = copies_.send(chunk);
  piece.is_ahead = piece.job->read.priority == Priority::ahead;
  if (piece.is_ahead) ahead_under_way_ += chunk.bytes;
  ++piece.job->under_way;
  const Chunk sent = chunk;
  pieces_.emplace(sent.tag, std::move(piece));
  drive_.submit(sent);
}

void Jobs::reap(int wait_ms) {
  Landed landed[kLandedAtOnce];
  const int count = drive_.reap(landed, kLandedAtOnce, wait_ms);
  count_time();
  for (int i = 0; i < count; ++i) land(landed[i]);
}

void Jobs::land(const Landed& landed) {
  auto found = pieces_.extract(landed.tag);
  if (found.empty()) return;
  Piece piece = std::move(found.mapped());
  Job& job = *piece.job;
  if (piece.is_ahead) ahead_under_way_ -= piece.chunk.bytes;
  if (landed.result < 0) {
    land_error(piece, static_cast<int>(-landed.result));
  } else {
    const auto bytes = static_cast<uint64_t>(landed.result);
    copies_.landed(piece.chunk, piece.queued, now_ns() - piece.sent_ns);
    add(counters_.bytes_landed, bytes);
    if (piece.is_ahead) add(counters_.bytes_ahead, bytes);
    job.landed_bytes += bytes;
    if (bytes < job.needed(piece)) {
      land_short(piece, bytes);
    } else if (job.read.parts[piece.part].checksums != nullptr) {
      return unchecked_.push_back(std::move(piece));
    }
  }
  --job.under_way;
  finish(job);
}

void Jobs::land_error(Piece& piece, int error) {
  copies_.failed(piece.chunk, now_ns());
  give_another_try(
      piece, failure(Code::cannot_read, "%s: cannot be read at byte %llu: %s",
                     copies_.path(piece.chunk), printed(piece.chunk.offset), strerror(error)));
}

// Whole blocks are kept and the rest is asked for; where nothing more comes, the file ends.
void Jobs::land_short(Piece& piece, uint64_t bytes) {
  const uint64_t kept = bytes / kBlockBytes * kBlockBytes;
  if (kept == 0) {
    const ReadPart& wanted = piece.job->read.parts[piece.part];
    return give_another_try(
        piece, failure(Code::cannot_read, "%s: ends at byte %llu, expected at least %llu",
                       copies_.path(piece.chunk), printed(piece.chunk.offset + bytes),
                       printed(wanted.offset + wanted.bytes)));
  }
  piece.chunk.offset += kept;
  piece.chunk.target += kept;
  piece.chunk.bytes -= kept;
  try_again(std::move(piece));
}

void Jobs::give_another_try(Piece& piece, const Status& why) {
  Job& job = *piece.job;
  copies_.refuse(piece.chunk, &piece.refused);
  // A block that is read once more shall be of one copy, so that it is known which one was wrong.
  if (piece.block >= 0) piece.restart();
  if (++piece.tries >= std::max(options_.tries, copies_.copies(piece.chunk.file))) {
    if (!job.why.failed()) job.why = why;
    return;
  }
  add(counters_.retries, 1);
  try_again(std::move(piece));
}

void Jobs::check_one() {
  const Piece piece = std::move(unchecked_.front());
  unchecked_.pop_front();
  Job& job = *piece.job;
  const uint64_t begin = thread_cpu_ns();
  if (piece.block >= 0) {
    if (!job.mend(piece)) reread(piece, static_cast<uint64_t>(piece.block));
  } else {
    for (const uint64_t block : job.complete_blocks(piece))
      if (!job.block_is_good(piece.part, block)) reread(piece, block);
  }
  add(counters_.checksum_ns, thread_cpu_ns() - begin);
  --job.under_way;
  finish(job);
}

// The transfer may have been at fault, or one of several copies: a block is read once more from
// each. Where chunks of several copies_ make up a block, none of them is to blame yet.
void Jobs::reread(const Piece& wrong, uint64_t block) {
  Job& job = *wrong.job;
  const int32_t file = wrong.chunk.file;
  add(counters_.mismatches, 1);
  Piece piece = job.reread(wrong.part, block);
  if (wrong.block >= 0) {
    piece.rereads = wrong.rereads;
    piece.refused = wrong.refused;
    copies_.refuse(wrong.chunk, &piece.refused);
  }
  if (++piece.rereads > copies_.copies(file) || piece.beside == nullptr) {
    if (!job.why.failed())
      job.why = failure(Code::cannot_read,
                        "%s: bytes %llu to %llu differ from the checksum that was recorded of them",
                        copies_.first_path(file), printed(job.block_begin(wrong.part, block)),
                        printed(job.block_end(wrong.part, block) - 1));
    return;
  }
  add(counters_.retries, 1);
  try_again(std::move(piece));
}

// Reports a read that has nothing under way and nothing to send any more.
void Jobs::finish(Job& job) {
  const bool is_over = job.is_cancelled || job.why.failed();
  if (is_over) {
    if (job.has_more()) job.has_gaps = true;
    unqueue(job);
    job.again.clear();
  }
  if (job.under_way > 0 || (!is_over && job.has_more())) return;
  Arrival arrival{job.read.tag, Landing::arrived, {}};
  if (job.is_cancelled && (job.has_gaps || job.why.failed())) {
    arrival.landing = Landing::cancelled;
    add(counters_.bytes_cancelled, job.landed_bytes);
  } else if (job.why.failed()) {
    arrival.landing = Landing::failed;
    arrival.why = job.why;
    add(counters_.failures, 1);
  } else {
    for (const ReadPart& part : job.read.parts) add(counters_.bytes_wanted, part.bytes);
  }
  jobs_.erase(job.read.tag);
  done.push_back(std::move(arrival));
}

}  // namespace ring::io
