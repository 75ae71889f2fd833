// What a neighbour costs the thread pool: `npm run bench:pool [repeats]`. A series of rounds like
// those of a decode (a few pieces of 50 to 200 us, a little work of the caller alone between them)
// runs alone and beside a process that keeps one core busy for half or all of the time. What could
// be had is measured the same way: as many threads that never wait for each other. Both are shares
// of what they do alone, in the same minutes, so that a slow minute strikes both sides.
#include "cpu/pool.h"

#include <sched.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "cpu/topology.h"

namespace {

using Clock = std::chrono::steady_clock;
using ring::Pool;

constexpr double kSeconds = 0.8;         // one measurement
constexpr double kOthersMax = 0.05;      // CPUs that other processes may use meanwhile
constexpr double kNeighbourMs = 10;      // busy and asleep by turns within this
constexpr double kLoads[] = {0.5, 1.0};  // share of the time that the neighbour would compute

double now() { return std::chrono::duration<double>(Clock::now().time_since_epoch()).count(); }

// Arithmetic that takes the same cycles wherever it runs: each value waits for the one before.
void compute(int64_t steps) {
  uint64_t value = 1;
  for (int64_t i = 0; i < steps; ++i) {
    value = value * 6364136223846793005ull + 1;
    asm volatile("" : "+r"(value));
  }
}

double steps_per_us = 0;
int disturbed = 0;  // measurements made again
void compute_us(double us) { compute(static_cast<int64_t>(us * steps_per_us)); }

void calibrate() {
  double best = 0;
  for (int i = 0; i < 20; ++i) {
    const double start = now();
    compute(1'000'000);
    best = std::max(best, 1 / (now() - start));
  }
  steps_per_us = best;
}

// The rounds of a layer as they follow each other in a decode: products cut into four pieces for
// each thread, attention by kv heads, and steps too small to share.
struct Rounds {
  int pieces;
  double us;  // of one piece
};

double layer(Pool& pool) {
  const int shared = 4 * pool.threads();
  const Rounds series[] = {{1, 5},  {shared, 50},  {4, 60},       {shared, 75},
                           {1, 10}, {shared, 200}, {shared, 100}, {1, 5}};
  double us = 0;
  for (const Rounds& round : series) {
    pool.run(round.pieces, [&](int, int) { compute_us(round.us); });
    compute_us(3);
    us += round.pieces * round.us + 3;
  }
  return us;
}

// CPU seconds that all processes and the host's other guests have taken from this machine's cores.
double seconds_of_all() {
  double user = 0, nice = 0, system = 0, idle = 0, io = 0, irq = 0, soft = 0, steal = 0;
  FILE* file = fopen("/proc/stat", "r");
  if (file == nullptr) return 0;
  const int read = fscanf(file, "cpu %lf %lf %lf %lf %lf %lf %lf %lf", &user, &nice, &system, &idle,
                          &io, &irq, &soft, &steal);
  fclose(file);
  return read == 8 ? (user + nice + system + irq + soft + steal) / sysconf(_SC_CLK_TCK) : 0;
}

double seconds_of(clockid_t clock) {
  timespec time{};
  clock_gettime(clock, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// Work done per second, in seconds of one undisturbed core.
double rate_of_pool(Pool& pool) {
  const double start = now();
  double us = 0;
  do {
    us += layer(pool);
  } while (now() - start < kSeconds);
  return us * 1e-6 / (now() - start);
}

double rate_of_free_threads(int threads) {
  std::atomic<int64_t> pieces{0};
  const double start = now();
  std::vector<std::thread> all;
  for (int i = 0; i < threads; ++i) {
    all.emplace_back([&] {
      while (now() - start < kSeconds) compute_us(100), pieces.fetch_add(1);
    });
  }
  for (std::thread& one : all) one.join();
  return static_cast<double>(pieces.load()) * 100e-6 / (now() - start);
}

// A process that computes for `load` of the time on the last CPU that this process may use.
class Neighbour {
 public:
  explicit Neighbour(double load) {
    if (load <= 0) return;
    process_ = fork();
    if (process_ != 0) return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    cpu_set_t allowed, one;
    sched_getaffinity(0, sizeof allowed, &allowed);
    int last = CPU_SETSIZE - 1;
    while (!CPU_ISSET(last, &allowed)) --last;
    CPU_ZERO(&one);
    CPU_SET(last, &one);
    sched_setaffinity(0, sizeof one, &one);
    const double busy = kNeighbourMs * 1e-3 * load;
    while (true) {
      const double start = now();
      while (now() - start < busy) compute(1000);
      if (load < 1)
        std::this_thread::sleep_for(std::chrono::duration<double>(kNeighbourMs * 1e-3 - busy));
    }
  }
  ~Neighbour() {
    if (process_ <= 0) return;
    kill(process_, SIGKILL);
    waitpid(process_, nullptr, 0);
  }
  // CPU seconds it has had so far.
  double seconds() const {
    clockid_t clock;
    return process_ > 0 && clock_getcpuclockid(process_, &clock) == 0 ? seconds_of(clock) : 0;
  }
  Neighbour(const Neighbour&) = delete;
  Neighbour& operator=(const Neighbour&) = delete;

 private:
  pid_t process_ = -1;
};

// Measures beside a neighbour of our own, again while others take part (up to three times).
template <typename Measure>
double undisturbed(double load, const Measure& measure) {
  double rate = 0;
  for (int attempt = 0; attempt < 3; ++attempt) {
    const Neighbour beside(load);
    const double start = now();
    const double all = seconds_of_all();
    const double own = seconds_of(CLOCK_PROCESS_CPUTIME_ID), its = beside.seconds();
    rate = measure();
    const double others = (seconds_of_all() - all) - (seconds_of(CLOCK_PROCESS_CPUTIME_ID) - own) -
                          (beside.seconds() - its);
    if (others < kOthersMax * (now() - start)) return rate;
    ++disturbed;
  }
  return rate;
}

struct Spread {
  double median, least, most;
};

Spread spread_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return {values[values.size() / 2], values.front(), values.back()};
}

void print(const char* name, const Spread& s) {
  printf("  %-34s %.2f [%.2f to %.2f]\n", name, s.median, s.least, s.most);
}

void compare(int threads, double load, int repeats) {
  std::vector<double> rounds, free_threads, against;
  for (int i = 0; i < repeats; ++i) {
    // A pool of its own each time: where its threads lie at first is chance.
    const auto pool_rate = [&](double neighbour) {
      return undisturbed(neighbour, [&] {
        Pool pool(threads);
        return rate_of_pool(pool);
      });
    };
    const auto free_rate = [&](double neighbour) {
      return undisturbed(neighbour, [&] { return rate_of_free_threads(threads); });
    };
    const double pool_share = pool_rate(load) / pool_rate(0);
    const double free_share = free_rate(load) / free_rate(0);
    rounds.push_back(pool_share);
    free_threads.push_back(free_share);
    against.push_back(pool_share / free_share);
  }
  printf("beside a neighbour that computes %.0f %% of the time on one core\n", load * 100);
  print("rounds, of those alone", spread_of(rounds));
  print("threads that never wait, of alone", spread_of(free_threads));
  print("the first of the second", spread_of(against));
  fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  const int repeats = argc > 1 ? std::max(1, atoi(argv[1])) : 7;
  const int cores = ring::usable_cores();
  const int threads = argc > 2 ? std::max(1, atoi(argv[2])) : cores;
  calibrate();
  std::vector<double> alone;
  for (int i = 0; i < repeats; ++i) {
    alone.push_back(undisturbed(0, [&] {
      Pool pool(threads);
      return rate_of_pool(pool);
    }));
  }
  printf("%d threads on %d cores; medians of %d [least to most]\n", threads, cores, repeats);
  print("rounds alone, cores kept busy", spread_of(alone));
  for (const double load : kLoads) compare(threads, load, repeats);
  printf("%d measurements made again because other processes took part\n", disturbed);
}
