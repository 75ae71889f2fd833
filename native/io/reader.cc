// See reader.h. The reader's thread owns the drive and all that is not under the lock; the device's
// thread hands over what it asks for and takes what has arrived, each in one short list. The thread
// sleeps in one of two places: on the lists while nothing is to be read, in the drive otherwise.
#include "reader.h"

#include <time.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <utility>

#include "copies.h"
#include "job.h"

namespace ring::io {
namespace {

constexpr uint64_t kDefaultChunkBytes = 1 << 20;
constexpr int kLandedAtOnce = 64;

int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

uint64_t thread_cpu_ns() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(time.tv_nsec);
}

// One writer, so no read-modify-write is needed.
void add(std::atomic<uint64_t>& counter, uint64_t amount) {
  counter.store(counter.load(std::memory_order_relaxed) + amount, std::memory_order_relaxed);
}

unsigned long long printed(uint64_t value) { return value; }

}  // namespace

struct Reader::State {
  enum class Wish { submit, promote, cancel, lend };
  struct Asked {
    Wish wish;
    Read read;
    int64_t tag = 0;
    Region region;
  };

  std::unique_ptr<Drive> drive;
  Copies copies;
  ReaderOptions options;
  ReaderCounters counters;
  std::thread thread;

  std::mutex lock;
  std::condition_variable has_arrival, has_wish;
  std::vector<Asked> asked;
  std::vector<Arrival> arrived;
  std::string description;
  bool ending = false;
  bool in_reap = false;  // the thread waits for the drive, not for a wish

  // Of the reader's thread alone. A job is queued while it has something to send.
  std::unordered_map<int64_t, std::unique_ptr<Job>> jobs;
  std::deque<Job*> demand, ahead;
  std::unordered_map<uint64_t, Piece> pieces;  // under way, by chunk tag
  uint64_t ahead_under_way = 0;                // bytes
  std::deque<Piece> unchecked;                 // landed, their job waits for their checksums
  uint64_t next_tag = 1;
  int64_t counted_ns = 0;

  void ask(Asked wish);
  void run();
  bool take_wishes(std::vector<Asked>* taken);
  void reap();
  void count_time();
  void obey(Asked& wish);
  Status check(const Read& read) const;
  void start(Read read);
  void promote(Job& job);
  void lend(const Region& region);
  std::deque<Job*>& queue_of(const Job& job);
  void unqueue(Job& job);
  void try_again(Piece piece);
  void fill();
  Job* choose_job() const;
  void send(Piece piece);
  void land(const Landed& landed);
  void land_error(Piece& piece, int error);
  void land_short(Piece& piece, uint64_t bytes);
  void check_one();
  void give_another_try(Piece& piece, const Status& why);
  void reread(const Piece& wrong, uint64_t block);
  void finish(Job& job);
  void report(Arrival arrival);
};

void Reader::State::ask(Asked wish) {
  bool wakes = false;
  {
    const std::lock_guard<std::mutex> guard(lock);
    asked.push_back(std::move(wish));
    wakes = in_reap && asked.size() == 1;
  }
  has_wish.notify_one();
  if (wakes) drive->wake();
}

void Reader::State::run() {
  std::vector<Asked> taken;
  while (take_wishes(&taken)) {
    for (Asked& wish : taken) obey(wish);
    count_time();
    fill();
    if (!pieces.empty()) reap();
    // One at a time, so that the drive never waits for the processor.
    if (!unchecked.empty()) check_one();
    counters.cpu_ns.store(thread_cpu_ns() + drive->cpu_ns(), std::memory_order_relaxed);
  }
}

// Waits for wishes while there is nothing to do. False: the end, with nothing under way any more.
bool Reader::State::take_wishes(std::vector<Asked>* taken) {
  taken->clear();
  std::unique_lock<std::mutex> guard(lock);
  const bool is_idle = pieces.empty() && unchecked.empty() && demand.empty() && ahead.empty();
  if (is_idle) has_wish.wait(guard, [this] { return ending || !asked.empty(); });
  if (!ending) {
    taken->swap(asked);
    return true;
  }
  demand.clear();
  ahead.clear();
  unchecked.clear();
  return !pieces.empty();
}

// Waits for the drive, unless there is something else to do.
void Reader::State::reap() {
  Landed landed[kLandedAtOnce];
  {
    const std::lock_guard<std::mutex> guard(lock);
    in_reap = unchecked.empty() && (asked.empty() || ending);
  }
  const int count = drive->reap(landed, kLandedAtOnce, in_reap ? -1 : 0);
  {
    const std::lock_guard<std::mutex> guard(lock);
    in_reap = false;
  }
  count_time();
  for (int i = 0; i < count; ++i) land(landed[i]);
}

// Called whenever the number of chunks under way is about to change.
void Reader::State::count_time() {
  const int64_t time = now_ns();
  if (!pieces.empty()) {
    add(counters.busy_ns, static_cast<uint64_t>(time - counted_ns));
    add(counters.depth_ns, static_cast<uint64_t>(time - counted_ns) * pieces.size());
  }
  counted_ns = time;
}

void Reader::State::obey(Asked& wish) {
  if (wish.wish == Wish::submit) return start(std::move(wish.read));
  if (wish.wish == Wish::lend) return lend(wish.region);
  const auto found = jobs.find(wish.tag);
  if (found == jobs.end()) return;
  Job& job = *found->second;
  if (wish.wish == Wish::promote) return promote(job);
  job.is_cancelled = true;
  finish(job);
}

// A read that would write or read where nobody expects it is refused, not tried.
Status Reader::State::check(const Read& read) const {
  if (jobs.contains(read.tag))
    return failure(Code::bad_argument, "read %lld is being read already",
                   static_cast<long long>(read.tag));
  for (const ReadPart& part : read.parts) {
    if (part.file < 0 || part.file >= copies.files())
      return failure(Code::bad_argument, "there is no file %d to read", part.file);
    const uint64_t bytes = copies.file_bytes(part.file);
    if (part.offset > bytes || part.bytes > bytes - part.offset)
      return failure(Code::bad_argument, "%s: has %llu bytes, byte %llu is asked for",
                     copies.first_path(part.file), printed(bytes),
                     printed(part.offset + part.bytes - 1));
    if (reinterpret_cast<uintptr_t>(part.target) % kBlockBytes != 0)
      return failure(Code::bad_argument, "reads need memory at a multiple of %llu bytes",
                     printed(kBlockBytes));
  }
  return {};
}

void Reader::State::start(Read read) {
  if (const Status status = check(read); status.failed()) {
    add(counters.failures, 1);
    return report({read.tag, Landing::failed, status});
  }
  auto owned = std::make_unique<Job>(std::move(read), options.chunk_bytes);
  Job& job = *owned;
  jobs[job.read.tag] = std::move(owned);
  if (!job.has_more()) return finish(job);
  queue_of(job).push_back(&job);
  job.is_queued = true;
}

void Reader::State::promote(Job& job) {
  if (job.read.priority == Priority::demand) return;
  const bool was_queued = job.is_queued;
  unqueue(job);
  job.read.priority = Priority::demand;
  if (was_queued) demand.push_back(&job);
  job.is_queued = was_queued;
}

void Reader::State::lend(const Region& region) {
  drive->lend(region);
  std::string now = drive->describe();
  const std::lock_guard<std::mutex> guard(lock);
  description = std::move(now);
}

std::deque<Job*>& Reader::State::queue_of(const Job& job) {
  return job.read.priority == Priority::demand ? demand : ahead;
}

void Reader::State::unqueue(Job& job) {
  if (job.is_queued) std::erase(queue_of(job), &job);
  job.is_queued = false;
}

// Before whatever else waits with the same urgency: the rest of its read is there already.
void Reader::State::try_again(Piece piece) {
  Job& job = *piece.job;
  job.again.push_back(std::move(piece));
  if (job.is_queued) return;
  queue_of(job).push_front(&job);
  job.is_queued = true;
}

// Keeps the drive's queue full.
void Reader::State::fill() {
  const auto depth = static_cast<size_t>(drive->depth());
  while (pieces.size() < depth) {
    Job* job = choose_job();
    if (job == nullptr) return;
    Piece piece = job->next();
    if (!job->has_more()) unqueue(*job);
    send(std::move(piece));
  }
}

// Demand strictly first, but for the few look-ahead bytes that may be under way beside it.
Job* Reader::State::choose_job() const {
  if (demand.empty()) return ahead.empty() ? nullptr : ahead.front();
  const bool ahead_fits =
      ahead_under_way + options.chunk_bytes <= options.ahead_bytes_beside_demand;
  return ahead_fits && !ahead.empty() ? ahead.front() : demand.front();
}

void Reader::State::send(Piece piece) {
  Chunk& chunk = piece.chunk;
  piece.sent_ns = now_ns();
  chunk.copy = copies.choose(chunk.file, chunk.bytes, piece.refused, piece.sent_ns);
  chunk.tag = next_tag++;
  piece.queued = copies.send(chunk);
  piece.is_ahead = piece.job->read.priority == Priority::ahead;
  if (piece.is_ahead) ahead_under_way += chunk.bytes;
  ++piece.job->under_way;
  const Chunk sent = chunk;
  pieces.emplace(sent.tag, std::move(piece));
  drive->submit(sent);
}

void Reader::State::land(const Landed& landed) {
  auto found = pieces.extract(landed.tag);
  if (found.empty()) return;
  Piece piece = std::move(found.mapped());
  Job& job = *piece.job;
  if (piece.is_ahead) ahead_under_way -= piece.chunk.bytes;
  if (landed.result < 0) {
    land_error(piece, static_cast<int>(-landed.result));
  } else {
    const auto bytes = static_cast<uint64_t>(landed.result);
    copies.landed(piece.chunk, piece.queued, now_ns() - piece.sent_ns);
    add(counters.bytes_landed, bytes);
    if (job.was_ahead) add(counters.bytes_ahead, bytes);
    if (bytes < job.needed(piece)) {
      land_short(piece, bytes);
    } else if (job.read.parts[piece.part].checksums != nullptr) {
      return unchecked.push_back(std::move(piece));
    }
  }
  --job.under_way;
  finish(job);
}

void Reader::State::land_error(Piece& piece, int error) {
  copies.failed(piece.chunk, now_ns());
  give_another_try(piece,
                   failure(Code::cannot_read, "%s: cannot be read at byte %llu: %s",
                           copies.path(piece.chunk), printed(piece.chunk.offset), strerror(error)));
}

// Whole blocks are kept and the rest is asked for; where nothing more comes, the file ends.
void Reader::State::land_short(Piece& piece, uint64_t bytes) {
  const uint64_t kept = bytes / kBlockBytes * kBlockBytes;
  if (kept == 0) {
    const ReadPart& wanted = piece.job->read.parts[piece.part];
    return give_another_try(
        piece, failure(Code::cannot_read, "%s: ends at byte %llu, expected at least %llu",
                       copies.path(piece.chunk), printed(piece.chunk.offset + bytes),
                       printed(wanted.offset + wanted.bytes)));
  }
  piece.chunk.offset += kept;
  piece.chunk.target += kept;
  piece.chunk.bytes -= kept;
  try_again(std::move(piece));
}

void Reader::State::give_another_try(Piece& piece, const Status& why) {
  Job& job = *piece.job;
  piece.refused |= CopySet{1} << piece.chunk.copy;
  if (++piece.tries >= std::max(options.tries, copies.copies(piece.chunk.file))) {
    if (!job.why.failed()) job.why = why;
    return;
  }
  add(counters.retries, 1);
  try_again(std::move(piece));
}

void Reader::State::check_one() {
  const Piece piece = std::move(unchecked.front());
  unchecked.pop_front();
  Job& job = *piece.job;
  const uint64_t begin = thread_cpu_ns();
  if (piece.block >= 0) {
    if (!job.mend(piece)) reread(piece, static_cast<uint64_t>(piece.block));
  } else {
    for (const uint64_t block : job.complete_blocks(piece))
      if (!job.block_is_good(piece.part, block)) reread(piece, block);
  }
  add(counters.checksum_ns, thread_cpu_ns() - begin);
  --job.under_way;
  finish(job);
}

// The transfer may have been at fault, or one of several copies: a block is read once more from
// each. Where chunks of several copies make up a block, none of them is to blame yet.
void Reader::State::reread(const Piece& wrong, uint64_t block) {
  Job& job = *wrong.job;
  const int32_t file = wrong.chunk.file;
  add(counters.mismatches, 1);
  Piece piece = job.reread(wrong.part, block);
  if (wrong.block >= 0) {
    piece.rereads = wrong.rereads;
    piece.refused = wrong.refused | CopySet{1} << wrong.chunk.copy;
  }
  if (++piece.rereads > copies.copies(file) || piece.beside == nullptr) {
    if (!job.why.failed())
      job.why = failure(Code::cannot_read,
                        "%s: bytes %llu to %llu differ from the checksum that was recorded of them",
                        copies.first_path(file), printed(job.block_begin(wrong.part, block)),
                        printed(job.block_end(wrong.part, block) - 1));
    return;
  }
  add(counters.retries, 1);
  try_again(std::move(piece));
}

// Reports a read that has nothing under way and nothing to send any more.
void Reader::State::finish(Job& job) {
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
  } else if (job.why.failed()) {
    arrival.landing = Landing::failed;
    arrival.why = job.why;
    add(counters.failures, 1);
  } else {
    for (const ReadPart& part : job.read.parts) add(counters.bytes_wanted, part.bytes);
  }
  jobs.erase(job.read.tag);
  report(std::move(arrival));
}

void Reader::State::report(Arrival arrival) {
  {
    const std::lock_guard<std::mutex> guard(lock);
    arrived.push_back(std::move(arrival));
  }
  has_arrival.notify_one();
}

Reader::Reader() : state_(std::make_unique<State>()) {}

Reader::~Reader() {
  if (!state_->thread.joinable()) return;
  {
    const std::lock_guard<std::mutex> guard(state_->lock);
    state_->ending = true;
  }
  state_->has_wish.notify_one();
  state_->drive->wake();
  state_->thread.join();
}

Status Reader::open(std::unique_ptr<Drive> drive, const std::vector<Source>& sources,
                    const ReaderOptions& options) {
  State& state = *state_;
  RING_TRY(state.copies.open(sources));
  state.drive = std::move(drive);
  state.options = options;
  if (options.chunk_bytes == 0) state.options.chunk_bytes = kDefaultChunkBytes;
  state.description = state.drive->describe();
  state.thread = std::thread([&state] { state.run(); });
  return {};
}

void Reader::lend(Region region) { state_->ask({State::Wish::lend, {}, 0, region}); }

void Reader::submit(Read read) { state_->ask({State::Wish::submit, std::move(read), 0, {}}); }

void Reader::promote(int64_t tag) { state_->ask({State::Wish::promote, {}, tag, {}}); }

void Reader::cancel(int64_t tag) { state_->ask({State::Wish::cancel, {}, tag, {}}); }

int Reader::poll(Arrival* arrivals, int capacity) {
  const std::lock_guard<std::mutex> guard(state_->lock);
  const int count = std::min(capacity, static_cast<int>(state_->arrived.size()));
  std::move(state_->arrived.begin(), state_->arrived.begin() + count, arrivals);
  state_->arrived.erase(state_->arrived.begin(), state_->arrived.begin() + count);
  return count;
}

bool Reader::wait(int wait_ms) {
  std::unique_lock<std::mutex> guard(state_->lock);
  const auto ready = [this] { return !state_->arrived.empty(); };
  if (wait_ms < 0) {
    state_->has_arrival.wait(guard, ready);
    return true;
  }
  return state_->has_arrival.wait_for(guard, std::chrono::milliseconds(wait_ms), ready);
}

const ReaderCounters& Reader::counters() const { return state_->counters; }

std::string Reader::describe() const {
  const std::lock_guard<std::mutex> guard(state_->lock);
  return state_->description;
}

}  // namespace ring::io
