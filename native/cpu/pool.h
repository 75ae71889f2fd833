// The compute threads of the CPU backend. `run` hands out numbered pieces of work; the caller takes
// part, and whoever is free takes the next piece, so a core that a neighbour has slowed down holds
// up one piece and not the whole layer. Which thread computes a piece never changes a result: a
// piece owns its outputs.
//
// On cores that other processes use too, what costs is not the time they take but the waiting for
// it: a thread that loses its core in the middle of a piece gets it back milliseconds later, and
// until then all others wait. So a thread without work watches those that still compute, and where
// one has stood still (its CPU time says so) gives it its own core: see `watch`.
//
// Memory nodes: where there are several, threads are spread over them and stay on theirs. That is
// all: memory lies on the node of the thread that first writes it, and today no one arranges who
// that is. node_of() is there for it.
#pragma once
#include <sched.h>
#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "topology.h"

namespace ring {

// Whether threads stay on one core each: it spares them moves on a machine of their own, and makes
// them unable to make way on a shared one.
enum class Pinning {
  none,
  workers,  // all but the caller's thread, which is not the pool's own
  all,      // the caller's too, until the pool ends
};

// RING_PIN: unset or 0 none, 1 workers, all.
Pinning pinning_wanted();

class Pool {
 public:
  // The caller counts as one of the threads, and only the thread that makes the pool may run it.
  explicit Pool(int threads, Pinning pinning = pinning_wanted(),
                const Topology& topology = read_topology());
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }
  // The memory node that a thread is meant for. Thread 0 is the caller's and is held there only by
  // Pinning::all.
  int node_of(int thread) const { return desks_[thread].seat.node; }
  // The CPU that a thread is pinned to, -1 for none (it was not asked, or the system refused).
  int cpu_of(int thread) const { return desks_[thread].pinned ? desks_[thread].seat.cpu : -1; }

  // How often a thread that had lost its core was given another's.
  int64_t reliefs_of(int thread) const {
    return desks_[thread].reliefs.load(std::memory_order_relaxed);
  }

  // Calls work(piece, thread) for every piece in [0, pieces) and returns when all are done.
  // `thread` is in [0, threads()) and tells scratch apart. Not reentrant.
  template <typename Work>
  void run(int pieces, const Work& work) {
    run_erased(
        pieces,
        [](const void* context, int piece, int thread) {
          (*static_cast<const Work*>(context))(piece, thread);
        },
        &work);
  }

 private:
  using Call = void (*)(const void* context, int piece, int thread);

  // What others know of a thread; a cache line each, as they write while others look.
  struct alignas(64) Desk {
    Seat seat{};
    bool pinned = false;
    pid_t id = 0;
    std::atomic<int> busy_on{-1};  // the CPU where its present piece began, -1 between pieces
    std::atomic<int64_t> reliefs{0};
  };

  void run_erased(int pieces, Call call, const void* context);
  void worker(int thread);
  void take_pieces(uint32_t round, int thread);
  void wait_for_end() const;
  bool is_over(uint32_t round) const;
  void watch(uint32_t round, int thread);
  bool relieve(int watcher);
  bool stands_still(const Desk& desk) const;
  void place(int thread, Pinning pinning, const Topology& topology);

  std::vector<Desk> desks_;  // [thread]
  std::vector<std::thread> workers_;
  int64_t look_ns_;
  cpu_set_t caller_cpus_;  // what the caller's thread was allowed before Pinning::all
  Call call_ = nullptr;
  const void* context_ = nullptr;
  // Round number in the upper half, next piece in the lower: a worker that wakes late for a round
  // that is over cannot take a piece of the next one with the old call.
  std::atomic<uint64_t> next_{0};
  std::atomic<int> pieces_{0};
  std::atomic<int> finished_{0};
  std::atomic<uint32_t> round_{0};
  std::atomic<bool> is_watched_{false};
  std::atomic<int> ready_{0};  // workers that have an id and a place
  std::atomic<bool> ending_{false};
};

}  // namespace ring
