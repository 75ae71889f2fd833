// The pool of compute threads: each piece of each round runs exactly once, whatever the sizes, and
// nothing of a round runs after it. Most rounds are tiny and follow each other at once, which is
// when a thread that wakes late would take a piece of the next round.
#include "cpu/pool.h"

#include <sched.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "harness.h"
#include "reference.h"

using namespace ring;
using namespace ring::test;

namespace {

// What the pieces of one round leave behind. Workers cannot state claims, so they count.
struct Round {
  explicit Round(int pieces) : runs(pieces) {}

  std::vector<std::atomic<int>> runs;  // [piece]
  std::atomic<int> bad_pieces{0}, bad_threads{0};

  void note(int piece, int thread, int threads) {
    if (thread < 0 || thread >= threads) bad_threads.fetch_add(1, std::memory_order_relaxed);
    if (piece < 0 || piece >= static_cast<int>(runs.size())) {
      bad_pieces.fetch_add(1, std::memory_order_relaxed);
    } else {
      runs[piece].fetch_add(1, std::memory_order_relaxed);
    }
  }
};

void require_once(const Round& round, int threads) {
  require(round.bad_pieces == 0, "%d threads: a piece out of range", threads);
  require(round.bad_threads == 0, "%d threads: a thread number out of range", threads);
  for (size_t piece = 0; piece < round.runs.size(); ++piece) {
    require(round.runs[piece] == 1, "%d threads, %zu pieces: piece %zu ran %d times", threads,
            round.runs.size(), piece, round.runs[piece].load());
  }
}

void run_round(Pool& pool, int pieces) {
  Round round(pieces);
  const int threads = pool.threads();
  pool.run(pieces, [&](int piece, int thread) { round.note(piece, thread, threads); });
  require_once(round, threads);
}

// Longer than any worker looks for work before it parks, which the pool does by time; what follows
// must hold whether they have parked or not.
void let_workers_park() { std::this_thread::sleep_for(std::chrono::milliseconds(3)); }

// One piece for each thread, of which none ends before all have begun: so each thread must take
// one. Gives up after a while, in case one of them never comes.
void require_all_present(Pool& pool) {
  const int threads = pool.threads();
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  std::atomic<int> present{0};
  std::atomic<uint32_t> seen{0};
  pool.run(threads, [&](int, int thread) {
    seen.fetch_or(1u << thread);
    present.fetch_add(1);
    while (present.load() < threads && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::yield();
    }
  });
  require(seen == (1u << threads) - 1, "of %d threads came only those of mask %x", threads,
          seen.load());
}

cpu_set_t allowed_here() {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  sched_getaffinity(0, sizeof cpus, &cpus);
  return cpus;
}

const cpu_set_t allowed_at_start = allowed_here();

// This machine's own topology, cut down to `cpus` CPUs, each of which is a node of its own if so
// wished.
Topology part_of_machine(int cpus, bool has_nodes) {
  const cpu_set_t allowed = allowed_here();
  require(CPU_EQUAL(&allowed, &allowed_at_start), "a case before left this thread %d CPUs of %d",
          CPU_COUNT(&allowed), CPU_COUNT(&allowed_at_start));
  Topology topology = read_topology();
  if (static_cast<int>(topology.seats.size()) < cpus) skip("this needs %d CPUs", cpus);
  topology.seats.resize(cpus);
  for (int i = 0; i < cpus; ++i) topology.seats[i].node = has_nodes ? i : 0;
  return topology;
}

// Puts each of two threads on a CPU of its own, from where it may leave again. Neither ends its
// piece before both are there: the pool would take one that moves for one that lost its core.
void set_apart(Pool& pool, const Topology& topology) {
  const cpu_set_t before = allowed_here();
  std::atomic<int> present{0}, settled{0};
  pool.run(2, [&](int, int thread) {
    present.fetch_add(1);
    while (present.load() < 2) std::this_thread::yield();
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(topology.seats[thread].cpu, &one);
    sched_setaffinity(0, sizeof one, &one);
    sched_setaffinity(0, sizeof before, &before);
    settled.fetch_add(1);
    while (settled.load() < 2) std::this_thread::yield();
  });
}

// Rounds of two pieces of which that of one thread rests, as if its core had been taken away, until
// the pool has moved it. Where both threads are on one CPU there is nothing to move, and the system
// may put them there: so again, for a while.
void require_relief_of(Pool& pool, int resting, const Topology& topology) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  const auto in_time = [&] { return std::chrono::steady_clock::now() < deadline; };
  int64_t before = pool.reliefs_of(resting);
  while (pool.reliefs_of(resting) == before && in_time()) {
    set_apart(pool, topology);
    before = pool.reliefs_of(resting);
    std::atomic<int> present{0};
    pool.run(2, [&](int, int thread) {
      present.fetch_add(1);
      while (present.load() < 2 && in_time()) std::this_thread::yield();
      if (thread != resting) return;
      for (int rest = 0; rest < 10 && pool.reliefs_of(resting) == before; ++rest) {
        std::this_thread::sleep_for(std::chrono::microseconds(300));
      }
    });
  }
  require(pool.reliefs_of(resting) > before, "thread %d was left without a core", resting);
}

// Both threads may run on these CPUs. Again for a while: a neighbour may take a core in these
// rounds too, and a thread is then held for a moment.
void require_free(Pool& pool, const cpu_set_t& cpus) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(3);
  cpu_set_t seen[2] = {};
  while (!CPU_EQUAL(&seen[0], &cpus) || !CPU_EQUAL(&seen[1], &cpus)) {
    require(std::chrono::steady_clock::now() < deadline, "of %d CPUs the threads have %d and %d",
            CPU_COUNT(&cpus), CPU_COUNT(&seen[0]), CPU_COUNT(&seen[1]));
    std::atomic<int> present{0};
    pool.run(2, [&](int, int thread) {
      present.fetch_add(1);
      while (present.load() < 2) std::this_thread::yield();
      seen[thread] = allowed_here();
    });
  }
}

constexpr int kThreadCounts[] = {1, 2, 3, 8};

}  // namespace

RING_CASE(pool_once, "a pool runs every piece once, for 0, 1, 2 and 1,000 pieces") {
  for (const int threads : kThreadCounts) {
    Pool pool(threads);
    require(pool.threads() == threads, "%d threads wanted, %d made", threads, pool.threads());
    for (const int pieces : {0, 1, 2, 1000, 0, 1000, 1, 2}) run_round(pool, pieces);
  }
}

RING_CASE(pool_negative, "a pool runs nothing for a negative number of pieces") {
  Pool pool(2);
  int calls = 0;
  pool.run(-1, [&](int, int) { ++calls; });
  require(calls == 0, "it ran %d pieces", calls);
}

// Sizes go up and down by turns: a thread that comes late with the count of the round before is
// caught when that was the larger one by a piece out of range, else by a piece that runs twice.
RING_CASE(pool_stress, "a pool keeps many rounds of changing size apart, back to back") {
  Dice dice(30);
  for (const int threads : kThreadCounts) {
    Pool pool(threads);
    for (int round = 0; round < 50000; ++round) run_round(pool, dice.below(8));
    for (int round = 0; round < 1000; ++round) run_round(pool, dice.below(200));
  }
}

// Each round's work is an object of its own that counts its calls and knows when its round is over.
// It does nothing else, so that rounds follow each other as closely as they can; growing sizes are
// what a thread with the number of a piece of the round before would fall for.
RING_CASE(pool_late, "a pool calls no work after its round has ended, and none twice") {
  struct Work {
    std::atomic<int>* calls;  // of this round
    const std::atomic<int>* latest;
    int number;
    std::atomic<int>* late;
    void operator()(int, int) const {
      if (latest->load() != number) late->fetch_add(1);
      calls->fetch_add(1);
    }
  };
  for (const auto& [threads, rounds] : {std::pair{2, 300000}, {3, 100000}, {8, 30000}}) {
    std::vector<std::atomic<int>> calls(rounds);
    std::atomic<int> latest{-1}, late{0};
    {
      Pool pool(threads);
      for (int number = 0; number < rounds; ++number) {
        latest.store(number);
        pool.run(number % 2 == 0 ? 2 : 7, Work{&calls[number], &latest, number, &late});
        latest.store(-1);
      }
    }
    require(late == 0, "%d threads: %d pieces ran late", threads, late.load());
    for (int number = 0; number < rounds; ++number) {
      const int expected = number % 2 == 0 ? 2 : 7;
      require(calls[number] == expected, "%d threads, round %d: %d pieces ran, expected %d",
              threads, number, calls[number].load(), expected);
    }
  }
}

RING_CASE(pool_parked, "a pool wakes all its parked threads, and ends while they are parked") {
  for (const int threads : kThreadCounts) {
    Pool pool(threads);
    let_workers_park();
    for (int round = 0; round < 3; ++round) {
      require_all_present(pool);
      let_workers_park();
    }
  }
}

RING_CASE(pool_short_life, "a pool may end at once, used or not") {
  for (int life = 0; life < 100; ++life) {
    Pool pool(1 + life % 4);
    if (life % 2 == 0) run_round(pool, 3);
  }
}

RING_CASE(pool_shares, "a pool lets all its threads take part, round after round") {
  for (const int threads : kThreadCounts) {
    Pool pool(threads);
    for (int round = 0; round < 20; ++round) require_all_present(pool);
  }
}

RING_CASE(pool_publishes, "a pool's caller sees what the pieces wrote, and they what it wrote") {
  Pool pool(4);
  std::vector<int> input(64), output(64);
  for (int round = 0; round < 2000; ++round) {
    for (int& value : input) value = round;
    pool.run(64, [&](int piece, int) { output[piece] = input[piece] + piece; });
    for (int piece = 0; piece < 64; ++piece) {
      require(output[piece] == round + piece, "round %d, piece %d: stale", round, piece);
    }
  }
}

RING_CASE(pool_relief, "a pool gives a thread that lost its core the core of one that waits") {
  const Topology topology = part_of_machine(2, false);
  const cpu_set_t before = allowed_here();
  Pool pool(2, Pinning::none);
  for (const int resting : {1, 0, 1, 0}) {
    require_relief_of(pool, resting, topology);
    require_free(pool, before);
  }
}

RING_CASE(pool_pinned,
          "a pool keeps pinned threads on a CPU each, and the caller's only if asked") {
  const Topology topology = part_of_machine(2, false);
  const cpu_set_t before = allowed_here();
  for (const Pinning pinning : {Pinning::none, Pinning::workers, Pinning::all}) {
    Pool pool(2, pinning, topology);
    cpu_set_t seen[2];
    std::atomic<int> present{0};
    pool.run(2, [&](int, int thread) {
      present.fetch_add(1);
      while (present.load() < 2) std::this_thread::yield();
      seen[thread] = allowed_here();
    });
    for (int thread = 0; thread < 2; ++thread) {
      const bool is_pinned = pinning == Pinning::all || (pinning == Pinning::workers && thread > 0);
      const int cpu = topology.seats[thread].cpu;
      require(pool.cpu_of(thread) == (is_pinned ? cpu : -1), "thread %d says CPU %d", thread,
              pool.cpu_of(thread));
      const bool is_held = CPU_COUNT(&seen[thread]) == 1 && CPU_ISSET(cpu, &seen[thread]);
      // A thread that is free may be found on one CPU for a moment, while it is moved.
      require(is_held || !is_pinned, "thread %d may use %d CPUs", thread, CPU_COUNT(&seen[thread]));
    }
  }
  const cpu_set_t after = allowed_here();
  require(CPU_EQUAL(&after, &before), "the caller's thread stayed on %d CPUs", CPU_COUNT(&after));
}

RING_CASE(pool_nodes, "a pool's workers stay on the CPUs of their memory node") {
  const Topology topology = part_of_machine(2, true);
  Pool pool(2, Pinning::none, topology);
  require(pool.node_of(0) == 0 && pool.node_of(1) == 1, "nodes %d and %d", pool.node_of(0),
          pool.node_of(1));
  cpu_set_t seen{};
  std::atomic<int> present{0};
  pool.run(2, [&](int, int thread) {
    present.fetch_add(1);
    while (present.load() < 2) std::this_thread::yield();
    if (thread == 1) seen = allowed_here();
  });
  require(CPU_COUNT(&seen) == 1 && CPU_ISSET(topology.seats[1].cpu, &seen), "it may use %d CPUs",
          CPU_COUNT(&seen));
}

RING_CASE(pool_refused, "a pool works where a CPU that it should pin to does not exist") {
  Topology topology;
  topology.seats = {{0, 0, 0}, {60000, 60000, 7}};
  Pool pool(2, Pinning::workers, topology);
  require(pool.cpu_of(1) == -1, "it says CPU %d", pool.cpu_of(1));
  run_round(pool, 100);
}

RING_CASE(pool_environment, "RING_PIN asks a pool to pin its threads") {
  const char* set = getenv("RING_PIN");
  const std::string before = set == nullptr ? "" : set;
  unsetenv("RING_PIN");
  const Pinning unset = pinning_wanted();
  const auto wanted = [](const char* text) {
    setenv("RING_PIN", text, 1);
    return pinning_wanted();
  };
  const Pinning empty = wanted(""), zero = wanted("0"), one = wanted("1"), all = wanted("all");
  setenv("RING_PIN", before.c_str(), 1);
  require(unset == Pinning::none && empty == Pinning::none && zero == Pinning::none,
          "it pins without being asked");
  require(one == Pinning::workers, "1 does not pin the workers");
  require(all == Pinning::all, "all does not pin all");
}
