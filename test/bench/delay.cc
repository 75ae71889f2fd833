// How long a demand read waits for look-ahead that is under way: reads of one expert on a paced
// drive, alone and while others are always queued as look-ahead, in turn, at random moments. Prints
// one JSON object: delays at the median and at 99 of 100, as shares of the time that the read takes
// alone.
//   ring_bench_delay [READS]
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "io/reader.h"
#include "memory/slab.h"

using namespace ring;
using namespace ring::io;

namespace {

constexpr uint64_t kExpertBytes = 24 << 20;
constexpr uint64_t kExperts = 64;
constexpr int64_t kDemandTag = 1000;
constexpr int kAheadAtOnce = 4;
constexpr double kBytesPerSecond = 1e9;

void end_if(const Status& status) {
  if (!status.failed()) return;
  fprintf(stderr, "%s\n", status.text);
  exit(1);
}

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

class Bench {
 public:
  explicit Bench(const std::string& path) {
    const std::vector<Source> sources = {{{path}, kExpertBytes * kExperts}};
    Pace pace;
    pace.bytes_per_second = kBytesPerSecond;
    pace.latency_seconds = 200e-6;
    std::unique_ptr<Drive> drive;
    end_if(open_paced_drive(sources, pace, &drive));
    end_if(reader_.open(std::move(drive), sources, {}));
    reader_.limit_ahead(kExpertBytes * 8 / 100);
    end_if(slab_.reserve(room_for(kExpertBytes) * (kAheadAtOnce + 1)));
    const std::atomic<bool> never{false};
    slab_.touch(0, slab_.bytes(), never);
  }

  // Seconds of one demand read, at a moment that nothing foretells.
  double demand(bool beside_ahead) {
    for (int slot = 0; beside_ahead && slot < kAheadAtOnce; ++slot)
      if (!is_ahead_[slot]) ask(slot, Priority::ahead);
    std::uniform_real_distribution<double> pause(0.002, 0.03);
    // Busy, as a machine that computes is: sleeping cores wake late, whoever is asked.
    for (const double end = now() + pause(random_); now() < end;) take(0, beside_ahead);
    const double begin = now();
    ask(kAheadAtOnce, Priority::demand);
    while (!take(50, beside_ahead)) {
    }
    return now() - begin;
  }

  void drain() {
    while (std::find(is_ahead_, is_ahead_ + kAheadAtOnce, true) != is_ahead_ + kAheadAtOnce)
      take(50, false);
  }

 private:
  void ask(int slot, Priority priority) {
    Read read;
    read.tag = priority == Priority::demand ? kDemandTag : slot;
    read.priority = priority;
    std::uniform_int_distribution<uint64_t> expert(0, kExperts - 1);
    read.parts.push_back({0, expert(random_) * kExpertBytes, kExpertBytes,
                          slab_.data() + room_for(kExpertBytes) * static_cast<uint64_t>(slot),
                          nullptr});
    if (priority == Priority::ahead) is_ahead_[slot] = true;
    reader_.submit(std::move(read));
  }

  // Returns whether the demand read has arrived; look-ahead goes on where it shall.
  bool take(int wait_ms, bool goes_on) {
    bool has_arrived = false;
    Arrival arrivals[8];
    if (wait_ms > 0) reader_.wait(wait_ms);
    const int count = reader_.poll(arrivals, 8);
    for (int i = 0; i < count; ++i) {
      if (arrivals[i].landing != Landing::arrived) end_if(arrivals[i].why);
      if (arrivals[i].tag == kDemandTag) {
        has_arrived = true;
      } else {
        is_ahead_[arrivals[i].tag] = false;
        if (goes_on) ask(static_cast<int>(arrivals[i].tag), Priority::ahead);
      }
    }
    return has_arrived;
  }

  Slab slab_;
  Reader reader_;
  std::mt19937_64 random_{5};
  bool is_ahead_[kAheadAtOnce] = {};
};

double at_share(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(share * static_cast<double>(values.size() - 1))];
}

}  // namespace

int main(int count, char** words) {
  const int reads = count > 1 ? atoi(words[1]) : 200;
  const char* folder = getenv("TMPDIR");
  std::string path = std::string(folder == nullptr ? P_tmpdir : folder) + "/ring-delay-XXXXXX";
  const int file = mkstemp(path.data());
  if (file < 0 || ftruncate(file, static_cast<off_t>(kExpertBytes * kExperts)) != 0) {
    perror(path.c_str());
    return 1;
  }
  std::vector<double> alone, beside;
  {
    Bench bench(path);
    for (int i = 0; i < reads; ++i) {
      alone.push_back(bench.demand(false));
      beside.push_back(bench.demand(true));
      bench.drain();
    }
  }
  close(file);
  unlink(path.c_str());
  const double base = at_share(alone, 0.5);
  printf(
      "{\"reads\": %d, \"alone_ms\": %.3f, \"alone_p99\": %.4f, \"delay_p50\": %.4f, "
      "\"delay_p99\": %.4f}\n",
      reads, base * 1e3, at_share(alone, 0.99) / base - 1, at_share(beside, 0.5) / base - 1,
      at_share(beside, 0.99) / base - 1);
  return 0;
}
