// Benchmark of the reader: experts of three matrices at odd places are read in random order, with a
// few always asked for, as a model that misses all the time would. Beside every figure stands what
// the drive itself gave just before and after, because real drives vary by half from minute to
// minute; then the paced drive, which does not. Processor time is in seconds per GB: of the
// reader's own threads (checksums included), of the checksums, of the whole process.
//   ring_bench_reader [FOLDER] [GIB] [SECONDS]
#include "io/reader.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "io/ceiling.h"
#include "io/crc32c.h"
#include "memory/slab.h"

using namespace ring;
using namespace ring::io;

namespace {

constexpr uint64_t kMatrixBytes = (8 << 20) + 24;  // never a whole number of blocks
constexpr int kMatrices = 3;
constexpr uint64_t kExpertBytes = kMatrixBytes * kMatrices;
constexpr int kExpertsAskedFor = 8;
constexpr uint64_t kSumsEach = (kMatrixBytes + kChecksumBytes - 1) / kChecksumBytes;

struct File {
  std::string path;
  uint64_t experts = 0;
  std::vector<uint32_t> checksums;  // [expert][matrix][block]

  uint64_t bytes() const { return experts * kExpertBytes; }
  std::vector<Source> sources() const { return {{{path}, bytes()}}; }
};

struct Figures {
  double bytes_per_second = 0;
  double cpu_per_gb = 0, checksum_per_gb = 0, process_per_gb = 0;
  double landed_share = 0;  // bytes landed by bytes wanted
  double depth = 0;
};

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double process_cpu() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

void end_if(const Status& status) {
  if (!status.failed()) return;
  fprintf(stderr, "%s\n", status.text);
  exit(1);
}

uint64_t next_random(uint64_t& state) {
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state;
}

File write_file(const std::string& folder, double gib) {
  File file;
  file.path = folder + "/ring-bench-reader.bin";
  file.experts = static_cast<uint64_t>(gib * 0x1p30 / static_cast<double>(kExpertBytes));
  const int descriptor = open(file.path.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);
  std::vector<uint64_t> words(kMatrixBytes / 8);
  uint64_t state = 7;
  for (uint64_t matrix = 0; matrix < file.experts * kMatrices; ++matrix) {
    for (uint64_t& word : words) word = next_random(state);
    const auto* data = reinterpret_cast<const uint8_t*>(words.data());
    for (uint64_t at = 0; at < kMatrixBytes; at += kChecksumBytes)
      file.checksums.push_back(crc32c(0, data + at, std::min(kChecksumBytes, kMatrixBytes - at)));
    if (write(descriptor, data, kMatrixBytes) != static_cast<ssize_t>(kMatrixBytes)) {
      fprintf(stderr, "%s: cannot be written: %s\n", file.path.c_str(), strerror(errno));
      exit(1);
    }
  }
  fsync(descriptor);
  posix_fadvise(descriptor, 0, 0, POSIX_FADV_DONTNEED);
  close(descriptor);
  return file;
}

Read read_of(const File& file, uint64_t expert, uint8_t* target, bool checks) {
  Read read;
  for (int i = 0; i < kMatrices; ++i) {
    const uint64_t matrix = expert * kMatrices + static_cast<uint64_t>(i);
    const uint32_t* sums = checks ? file.checksums.data() + matrix * kSumsEach : nullptr;
    read.parts.push_back({0, matrix * kMatrixBytes, kMatrixBytes, target, sums});
    target += room_for(kMatrixBytes);
  }
  return read;
}

double cpu_of(const ReaderCounters& counters) {
  return static_cast<double>(counters.cpu_ns.load()) * 1e-9;
}

Figures measure(std::unique_ptr<Drive> drive, const File& file, uint64_t chunk_bytes, bool checks,
                double seconds) {
  Reader reader;
  ReaderOptions options;
  options.chunk_bytes = chunk_bytes;
  end_if(reader.open(std::move(drive), file.sources(), options));
  const uint64_t slot_bytes = room_for(kMatrixBytes) * kMatrices;
  Slab slab;
  end_if(slab.reserve(slot_bytes * kExpertsAskedFor));
  const std::atomic<bool> never{false};
  slab.touch(0, slab.bytes(), never);
  reader.lend({slab.data(), slab.bytes()});

  uint64_t state = 3, done = 0;
  const auto ask = [&](uint64_t slot) {
    Read read =
        read_of(file, next_random(state) % file.experts, slab.data() + slot * slot_bytes, checks);
    read.tag = static_cast<int64_t>(slot);
    reader.submit(std::move(read));
  };
  const auto take = [&](bool goes_on) {
    Arrival arrivals[kExpertsAskedFor];
    reader.wait(-1);
    const int count = reader.poll(arrivals, kExpertsAskedFor);
    for (int i = 0; i < count; ++i) {
      if (arrivals[i].landing != Landing::arrived) end_if(arrivals[i].why);
      if (goes_on) ask(static_cast<uint64_t>(arrivals[i].tag));
    }
    done += static_cast<uint64_t>(count);
    return count;
  };
  for (uint64_t slot = 0; slot < kExpertsAskedFor; ++slot) ask(slot);
  take(true);  // the queue is full from here on
  const ReaderCounters& counters = reader.counters();
  done = 0;
  const double begin = now(), cpu = cpu_of(counters), process = process_cpu();
  const auto sums = static_cast<double>(counters.checksum_ns.load());
  const uint64_t landed = counters.bytes_landed.load();
  while (now() - begin < seconds) take(true);
  const double wall = now() - begin;
  const double gb = static_cast<double>(counters.bytes_landed.load() - landed) * 1e-9;
  Figures figures;
  figures.bytes_per_second = gb * 1e9 / wall;
  figures.cpu_per_gb = (cpu_of(counters) - cpu) / gb;
  figures.checksum_per_gb = (static_cast<double>(counters.checksum_ns.load()) - sums) * 1e-9 / gb;
  figures.process_per_gb = (process_cpu() - process) / gb;
  figures.depth =
      static_cast<double>(counters.depth_ns.load()) / static_cast<double>(counters.busy_ns.load());
  for (int left = kExpertsAskedFor; left > 0;) left -= take(false);
  figures.landed_share = static_cast<double>(counters.bytes_landed.load()) /
                         static_cast<double>(counters.bytes_wanted.load());
  return figures;
}

std::unique_ptr<Drive> open_rung(const File& file, Rung rung) {
  std::unique_ptr<Drive> drive;
  end_if(open_drive(file.sources(), {rung, 0}, &drive));
  return drive;
}

// The larger of 4 MiB and 1 MiB chunks, 16 at once.
double ceiling_of(const File& file) {
  double best = 0;
  for (const uint64_t chunk_bytes : {uint64_t{4} << 20, uint64_t{1} << 20}) {
    CeilingProbe probe;
    probe.chunk_bytes = chunk_bytes;
    probe.seconds = 1;
    double rate = 0;
    end_if(measure_ceiling(*open_rung(file, Rung::automatic), file.sources(), probe, &rate));
    best = std::max(best, rate);
  }
  return best;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

struct Row {
  Rung rung;
  const char* name;
  int chunk_mib;
  bool checks;
};

// Medians of some rounds; the share is of the ceilings before and after each.
void print_row(const File& file, const Row& row, double seconds, double* ceiling) {
  constexpr int kRounds = 3;
  std::vector<double> rates, shares, cpu, sums, process, landed, depth;
  for (int round = 0; round < kRounds; ++round) {
    const Figures f = measure(open_rung(file, row.rung), file,
                              static_cast<uint64_t>(row.chunk_mib) << 20, row.checks, seconds);
    const double before = *ceiling;
    *ceiling = ceiling_of(file);
    rates.push_back(f.bytes_per_second * 1e-9);
    shares.push_back(f.bytes_per_second / ((before + *ceiling) / 2));
    cpu.push_back(f.cpu_per_gb);
    sums.push_back(f.checksum_per_gb);
    process.push_back(f.process_per_gb);
    landed.push_back(f.landed_share);
    depth.push_back(f.depth);
  }
  const auto [least, most] = std::minmax_element(shares.begin(), shares.end());
  printf("%-18s %2d MiB %4s | %5.2f %5.3f [%.2f..%.2f] | %6.4f %6.4f %6.4f | %6.4f %5.1f\n",
         row.name, row.chunk_mib, row.checks ? "yes" : "no", median(rates), median(shares), *least,
         *most, median(cpu), median(sums), median(process), median(landed), median(depth));
  fflush(stdout);
}

void print_rungs(const File& file, double seconds) {
  printf("%-18s %6s %4s | %5s %20s | %6s %6s %6s | %6s %5s\n", "rung", "chunk", "sums", "GB/s",
         "share of the drive", "cpu/GB", "sum/GB", "all/GB", "landed", "depth");
  const std::pair<Rung, const char*> rungs[] = {{Rung::uring_registered, "uring, registered"},
                                                {Rung::uring, "uring"},
                                                {Rung::threads, "threads"},
                                                {Rung::buffered, "buffered"}};
  double ceiling = ceiling_of(file);
  for (const auto& [rung, name] : rungs) {
    for (const int mib : {1, 2, 4}) print_row(file, {rung, name, mib, false}, seconds, &ceiling);
    print_row(file, {rung, name, 2, true}, seconds, &ceiling);
  }
}

// One chunk at a time: how long after its due time it is announced.
void print_lateness(const File& file) {
  Pace pace;
  pace.bytes_per_second = 2e9;
  pace.latency_seconds = 200e-6;
  std::unique_ptr<Drive> drive;
  end_if(open_paced_drive(file.sources(), pace, &drive));
  Slab slab;
  end_if(slab.reserve(1 << 20));
  const std::atomic<bool> never{false};
  slab.touch(0, slab.bytes(), never);
  std::vector<double> late;
  for (int i = 0; i < 1000; ++i) {
    const Chunk chunk{1, 0, 0, static_cast<uint64_t>(i % 64) << 20, 1 << 20, slab.data()};
    const double begin = now();
    drive->submit(chunk);
    Landed landed{};
    while (drive->reap(&landed, 1, -1) == 0) {
    }
    late.push_back(now() - begin - pace.latency_seconds -
                   static_cast<double>(chunk.bytes) / pace.bytes_per_second);
  }
  std::sort(late.begin(), late.end());
  printf("one chunk of 1 MiB: late by %.1f us (median), %.1f us (95 of 100), %.1f us (worst)\n",
         late[500] * 1e6, late[950] * 1e6, late.back() * 1e6);
}

void print_paced(const File& file, double seconds) {
  printf("\n%-28s %6s %6s | %8s | %6s\n", "paced", "chunk", "depth", "of rate", "cpu/GB");
  for (const double rate : {1e9, 2e9, 4e9}) {
    for (const int mib : {1, 4}) {
      for (const int depth : {4, 32}) {
        Pace pace;
        pace.bytes_per_second = rate;
        pace.latency_seconds = 200e-6;
        pace.depth = depth;
        std::unique_ptr<Drive> drive;
        end_if(open_paced_drive(file.sources(), pace, &drive));
        const std::string name = drive->describe();
        const Figures f =
            measure(std::move(drive), file, static_cast<uint64_t>(mib) << 20, false, seconds);
        printf("%.1f GB/s, 200 us %12s %2d MiB %6d | %8.4f | %6.4f\n", rate * 1e-9, "", mib, depth,
               f.bytes_per_second / rate, f.cpu_per_gb);
        fflush(stdout);
      }
    }
  }
  print_lateness(file);
}

}  // namespace

int main(int count, char** words) {
  const std::string folder = count > 1 ? words[1] : "/tmp";
  const double gib = count > 2 ? atof(words[2]) : 2;
  const double seconds = count > 3 ? atof(words[3]) : 1.5;
  const File file = write_file(folder, gib);
  print_rungs(file, seconds);
  print_paced(file, seconds);
  unlink(file.path.c_str());
  return 0;
}
