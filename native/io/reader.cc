// See reader.h. The reader's thread owns the drive and the jobs; the device's thread hands over
// what it asks for and takes what has arrived, each in one short list. The reader's thread sleeps
// in one of two places: on the lists while nothing is to be read, in the drive otherwise.
#include "reader.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <iterator>
#include <mutex>
#include <thread>
#include <utility>

#include "jobs.h"
#include "thread_time.h"

namespace ring::io {
namespace {

constexpr uint64_t kDefaultChunkBytes = 2 << 20;

}  // namespace

struct Reader::State {
  enum class Wish { submit, promote, cancel, lend, limit_ahead };
  struct Asked {
    Wish wish;
    Read read;
    int64_t tag = 0;  // or bytes
    Region region;
  };

  std::unique_ptr<Drive> drive;
  ReaderOptions options;
  ReaderCounters counters;
  std::unique_ptr<Jobs> jobs;  // of the reader's thread alone, as the drive is, but for its wake
  std::thread thread;

  std::mutex lock;  // of all that follows
  std::condition_variable has_arrival, has_wish;
  std::vector<Asked> asked;
  std::vector<Arrival> arrived;
  std::string description;
  bool ending = false;
  bool is_in_drive = false;  // the thread sleeps in the drive, which must be woken

  void ask(Asked wish);
  void run();
  bool take_wishes(std::vector<Asked>* taken);
  void obey(Asked& wish);
  void reap();
  void report();
};

void Reader::State::ask(Asked wish) {
  bool wakes = false;
  {
    const std::lock_guard<std::mutex> guard(lock);
    asked.push_back(std::move(wish));
    wakes = is_in_drive && asked.size() == 1;
  }
  has_wish.notify_one();
  if (wakes) drive->wake();
}

void Reader::State::run() {
  std::vector<Asked> taken;
  while (take_wishes(&taken)) {
    for (Asked& wish : taken) obey(wish);
    report();  // what was cancelled or refused, before the drive is waited for
    jobs->fill();
    if (jobs->is_reading()) reap();
    if (jobs->is_checking()) jobs->check_one();
    counters.cpu_ns.store(thread_cpu_ns() + drive->cpu_ns(), std::memory_order_relaxed);
    report();
  }
}

// Waits for wishes while there is nothing to do. False: the end, with nothing under way any more.
bool Reader::State::take_wishes(std::vector<Asked>* taken) {
  taken->clear();
  std::unique_lock<std::mutex> guard(lock);
  if (jobs->is_idle()) has_wish.wait(guard, [this] { return ending || !asked.empty(); });
  if (!ending) {
    taken->swap(asked);
    return true;
  }
  jobs->drop();
  return jobs->is_reading();
}

void Reader::State::obey(Asked& wish) {
  switch (wish.wish) {
    case Wish::submit:
      return jobs->submit(std::move(wish.read));
    case Wish::promote:
      return jobs->promote(wish.tag);
    case Wish::cancel:
      return jobs->cancel(wish.tag);
    case Wish::limit_ahead:
      options.ahead_bytes = static_cast<uint64_t>(wish.tag);
      return;
    case Wish::lend: {
      drive->lend(wish.region);
      std::string now = drive->describe();
      const std::lock_guard<std::mutex> guard(lock);
      description = std::move(now);
    }
  }
}

// Waits for the drive, unless there is something else to do.
void Reader::State::reap() {
  bool waits = false;
  {
    const std::lock_guard<std::mutex> guard(lock);
    waits = !jobs->is_checking() && (asked.empty() || ending);
    is_in_drive = waits;
  }
  jobs->reap(waits ? -1 : 0);
  if (!waits) return;
  const std::lock_guard<std::mutex> guard(lock);
  is_in_drive = false;
}

void Reader::State::report() {
  if (jobs->done.empty()) return;
  {
    const std::lock_guard<std::mutex> guard(lock);
    std::move(jobs->done.begin(), jobs->done.end(), std::back_inserter(arrived));
  }
  jobs->done.clear();
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
  state.drive = std::move(drive);
  state.options = options;
  if (options.chunk_bytes == 0) state.options.chunk_bytes = kDefaultChunkBytes;
  state.jobs = std::make_unique<Jobs>(*state.drive, state.options, state.counters);
  RING_TRY(state.jobs->open(sources));
  state.description = state.drive->describe();
  state.thread = std::thread([&state] { state.run(); });
  return {};
}

void Reader::lend(Region region) { state_->ask({State::Wish::lend, {}, 0, region}); }

void Reader::submit(Read read) { state_->ask({State::Wish::submit, std::move(read), 0, {}}); }

void Reader::limit_ahead(uint64_t bytes) {
  state_->ask({State::Wish::limit_ahead, {}, static_cast<int64_t>(bytes), {}});
}

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
