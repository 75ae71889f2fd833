// See pool.h.
#include "pool.h"

#include <time.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

namespace ring {
namespace {

// How long a thread looks for work, or for the end of a round, before it does something that costs
// a system call: longer than the gap between two rounds of a layer and most last pieces, shorter
// than what a neighbour on the same core would notice.
constexpr int64_t kLookNs = 50'000;
// A thread that computes has its CPU time moved on after this.
constexpr int64_t kStillNs = 20'000;

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::atomic_signal_fence(std::memory_order_seq_cst);
#endif
}

int64_t ns_of(clockid_t clock) {
  timespec time{};
  if (clock_gettime(clock, &time) != 0) return -1;
  return int64_t{1'000'000'000} * time.tv_sec + time.tv_nsec;
}

// Whether `has_come` came true within the time; looked at once in any case.
template <typename Condition>
bool look(int64_t ns, const Condition& has_come) {
  if (has_come()) return true;
  if (ns <= 0) return false;
  const int64_t end = ns_of(CLOCK_MONOTONIC) + ns;
  do {
    for (int i = 0; i < 16; ++i) {
      relax();
      if (has_come()) return true;
    }
  } while (ns_of(CLOCK_MONOTONIC) < end);
  return false;
}

// The kernel's name for the CPU time of a thread of this process (pthread_getcpuclockid gives the
// same for a handle; a number is safe to keep).
clockid_t cpu_clock_of(pid_t thread) {
  return static_cast<clockid_t>(~static_cast<unsigned>(thread) << 3 | 6);
}

bool hold(pid_t thread, const cpu_set_t& cpus) {
  return sched_setaffinity(thread, sizeof cpus, &cpus) == 0;
}

cpu_set_t only(int cpu) {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  CPU_SET(cpu, &cpus);
  return cpus;
}

bool may_use(int cpu) { return cpu >= 0 && cpu < CPU_SETSIZE; }

}  // namespace

Pinning pinning_wanted() {
  const char* text = getenv("RING_PIN");
  if (text == nullptr || *text == 0 || strcmp(text, "0") == 0) return Pinning::none;
  return strcmp(text, "all") == 0 ? Pinning::all : Pinning::workers;
}

Pool::Pool(int threads, Pinning pinning, const Topology& topology)
    : desks_(threads < 1 ? 1 : threads),
      // With less than a CPU for each, looking keeps those from work that have some.
      look_ns_(threads > static_cast<int>(topology.seats.size()) ? 0 : kLookNs) {
  const std::vector<Seat> seats = topology.assign(static_cast<int>(desks_.size()));
  for (size_t thread = 0; thread < desks_.size(); ++thread) desks_[thread].seat = seats[thread];
  CPU_ZERO(&caller_cpus_);
  sched_getaffinity(0, sizeof caller_cpus_, &caller_cpus_);
  desks_[0].id = gettid();
  for (int thread = 1; thread < threads; ++thread) {
    workers_.emplace_back([this, thread, pinning, &topology] {
      desks_[thread].id = gettid();
      place(thread, pinning, topology);
      ready_.fetch_add(1, std::memory_order_release);
      ready_.notify_one();
      worker(thread);
    });
  }
  for (int ready; (ready = ready_.load(std::memory_order_acquire)) < threads - 1;) {
    ready_.wait(ready, std::memory_order_acquire);
  }
  if (pinning == Pinning::all) place(0, pinning, topology);
}

Pool::~Pool() {
  ending_.store(true);
  round_.fetch_add(1);
  round_.notify_all();
  for (std::thread& worker : workers_) worker.join();
  if (desks_[0].pinned) hold(0, caller_cpus_);
}

// On its CPU, or else among the CPUs of its node where there are several nodes.
void Pool::place(int thread, Pinning pinning, const Topology& topology) {
  Desk& desk = desks_[thread];
  if (pinning != Pinning::none) {
    desk.pinned = may_use(desk.seat.cpu) && hold(0, only(desk.seat.cpu));
  } else if (topology.nodes() > 1) {
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    for (const Seat& seat : topology.seats) {
      if (seat.node == desk.seat.node && may_use(seat.cpu)) CPU_SET(seat.cpu, &cpus);
    }
    hold(0, cpus);
  }
}

void Pool::run_erased(int pieces, Call call, const void* context) {
  if (pieces <= 0) return;
  if (workers_.empty() || pieces == 1) {
    for (int piece = 0; piece < pieces; ++piece) call(context, piece, 0);
    return;
  }
  const uint32_t round = round_.load(std::memory_order_relaxed) + 1;
  // Closes the round before: a worker that is late in it can take nothing while the call changes.
  next_.store(static_cast<uint64_t>(round) << 32 | 0xffffffffu, std::memory_order_release);
  call_ = call;
  context_ = context;
  pieces_.store(pieces, std::memory_order_release);
  finished_.store(0, std::memory_order_relaxed);
  // Publishes call, context and count: whoever takes a piece of this round has acquired next_.
  next_.store(static_cast<uint64_t>(round) << 32, std::memory_order_release);
  round_.store(round, std::memory_order_release);
  round_.notify_all();
  take_pieces(round, 0);
  watch(round, 0);
  wait_for_end();
}

void Pool::wait_for_end() const {
  const int pieces = pieces_.load(std::memory_order_relaxed);
  for (int done; (done = finished_.load(std::memory_order_acquire)) < pieces;) {
    finished_.wait(done, std::memory_order_acquire);
  }
}

void Pool::take_pieces(uint32_t round, int thread) {
  Desk& desk = desks_[thread];
  uint64_t seen = next_.load(std::memory_order_acquire);
  while (static_cast<uint32_t>(seen >> 32) == round) {
    const uint32_t piece = static_cast<uint32_t>(seen);
    const int pieces = pieces_.load(std::memory_order_acquire);
    if (piece >= static_cast<uint32_t>(pieces)) return;
    if (!next_.compare_exchange_weak(seen, seen + 1, std::memory_order_acq_rel)) continue;
    desk.busy_on.store(sched_getcpu(), std::memory_order_relaxed);
    call_(context_, static_cast<int>(piece), thread);
    desk.busy_on.store(-1, std::memory_order_relaxed);
    const int done = finished_.fetch_add(1, std::memory_order_acq_rel) + 1;
    if (done == pieces && thread != 0) finished_.notify_one();
    seen = next_.load(std::memory_order_acquire);
  }
}

bool Pool::is_over(uint32_t round) const {
  return finished_.load(std::memory_order_acquire) >= pieces_.load(std::memory_order_relaxed) ||
         round_.load(std::memory_order_relaxed) != round;
}

// For a thread that finds no piece left: until the round is over or has one watcher already, or a
// thread has been given this one's core.
void Pool::watch(uint32_t round, int thread) {
  while (!look(look_ns_, [&] { return is_over(round); })) {
    if (is_watched_.exchange(true, std::memory_order_acquire)) return;
    const bool has_helped = relieve(thread);
    is_watched_.store(false, std::memory_order_release);
    if (has_helped || look_ns_ == 0) return;
  }
}

// Gives this thread's core to one that has lost its own in the middle of a piece. A watcher has
// nothing to do, so it loses nothing where the other could not run. The caller's thread, which all
// depends on, lends its core to the end of the round and has the other sent back; a worker swaps
// for good. Both may then go where they could before. A thread that is pinned, or held to another
// node, stays where it is.
bool Pool::relieve(int watcher) {
  const int here = sched_getcpu();
  for (Desk& desk : desks_) {
    const int there = desk.busy_on.load(std::memory_order_relaxed);
    if (&desk == &desks_[watcher] || there == here || !may_use(there) || !may_use(here)) continue;
    if (!stands_still(desk)) continue;
    cpu_set_t its, mine;
    if (sched_getaffinity(desk.id, sizeof its, &its) != 0 || !CPU_ISSET(here, &its)) continue;
    if (sched_getaffinity(0, sizeof mine, &mine) != 0 || !CPU_ISSET(there, &mine)) continue;
    hold(desk.id, only(here));
    if (watcher == 0) {
      desk.reliefs.fetch_add(1, std::memory_order_relaxed);
      wait_for_end();
      hold(desk.id, only(there));
      hold(desk.id, its);
    } else {
      hold(desk.id, its);
      hold(0, only(there));
      hold(0, mine);
      desk.reliefs.fetch_add(1, std::memory_order_relaxed);
    }
    return true;
  }
  return false;
}

bool Pool::stands_still(const Desk& desk) const {
  const clockid_t clock = cpu_clock_of(desk.id);
  const int64_t before = ns_of(clock);
  const auto is_done = [&] { return desk.busy_on.load(std::memory_order_relaxed) < 0; };
  return before >= 0 && !look(kStillNs, is_done) && ns_of(clock) == before;
}

void Pool::worker(int thread) {
  uint32_t done = 0;
  while (!ending_.load(std::memory_order_acquire)) {
    uint32_t round = done;
    const auto has_begun = [&] {
      round = round_.load(std::memory_order_acquire);
      return round != done;
    };
    if (!look(look_ns_, has_begun)) {
      round_.wait(done, std::memory_order_acquire);
      continue;
    }
    take_pieces(round, thread);
    watch(round, thread);
    done = round;
  }
}

}  // namespace ring
