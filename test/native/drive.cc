// The ladder of drives and the drive made of RAM: what cannot be had falls to the next rung and is
// said, memory that may not be locked costs time and nothing else, and a set rate is kept.
#include "io/drive.h"

#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "drives.h"
#include "harness.h"
#include "io/ceiling.h"
#include "memory/slab.h"

using namespace ring;
using namespace ring::test;
using namespace ring::io;

namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

bool says(const std::string& text, const char* words) {
  return text.find(words) != std::string::npos;
}

std::string read_text(const char* path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Waits for one chunk; returns its result.
int64_t read_chunk(Drive& drive, const Chunk& chunk) {
  drive.submit(chunk);
  Landed landed{};
  while (drive.reap(&landed, 1, -1) == 0) {
  }
  require(landed.tag == chunk.tag, "another chunk has landed");
  return landed.result;
}

// As a user who may not lock memory at will. Only the calling thread changes, and those it starts.
bool give_up_locking() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2];
  if (syscall(SYS_capget, &header, data) != 0) return false;
  data[0].effective &= ~(1u << CAP_IPC_LOCK);
  return syscall(SYS_capset, &header, data) == 0;
}

// As in a container whose filter forbids io_uring; for the calling thread and those it starts.
bool forbid_uring() {
  sock_filter steps[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  sock_fprog program{4, steps};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

}  // namespace

RING_CASE(drive_rungs, "each rung can be asked for, and says which it is") {
  const Folder folder;
  const std::vector<Source> sources = one_file(folder.write("file", kFileBytes));
  std::unique_ptr<Drive> best;
  require(!open_drive(sources, {}, &best).failed(), "no drive can be opened");
  if (says(best->describe(), "page cache")) skip("%s", best->describe().c_str());
  const std::pair<Rung, const char*> rungs[] = {
      {Rung::threads, "threads, O_DIRECT"}, {Rung::buffered, "threads, through the page cache"}};
  for (const auto& [rung, words] : rungs) {
    std::unique_ptr<Drive> drive;
    require(!open_drive(sources, {rung, 3}, &drive).failed(), "%s: cannot be opened", words);
    require(says(drive->describe(), words), "%s: says %s", words, drive->describe().c_str());
    require(drive->depth() == 3, "%s: depth %d", words, drive->depth());
  }
  if (!says(best->describe(), "io_uring, ")) skip("%s", best->describe().c_str());
  std::unique_ptr<Drive> plain;
  require(!open_drive(sources, {Rung::uring, 7}, &plain).failed(), "io_uring cannot be opened");
  require(plain->depth() == 7, "io_uring has depth %d", plain->depth());
  require(!says(plain->describe(), "registered"), "plain io_uring says %s",
          plain->describe().c_str());
}

RING_CASE(drive_no_direct, "without O_DIRECT the page cache is read through, and it is said") {
  const char* path = "/proc/version";
  const std::string text = read_text(path);
  if (text.empty()) skip("there is no %s", path);
  for (const Rung rung : {Rung::automatic, Rung::uring, Rung::threads, Rung::buffered}) {
    std::unique_ptr<Drive> drive;
    const Status status = open_drive({{{path}, text.size()}}, {rung, 0}, &drive);
    require(!status.failed(), "%s", status.text);
    const std::string said = drive->describe();
    require(says(said, "through the page cache"), "it says %s", said.c_str());
    require(says(said, "no O_DIRECT") == (rung != Rung::buffered), "it says %s", said.c_str());
    Memory memory(kBlockBytes);
    const int64_t bytes = read_chunk(*drive, {1, 0, 0, 0, kBlockBytes, memory.data()});
    require(bytes == static_cast<int64_t>(text.size()), "%lld bytes",
            static_cast<long long>(bytes));
    require(memcmp(memory.data(), text.data(), text.size()) == 0, "the bytes differ");
  }
}

RING_CASE(drive_forbidden, "where io_uring is forbidden threads read, and it is said") {
  const Folder folder;
  const std::vector<Source> sources = one_file(folder.write("file", kFileBytes));
  bool is_forbidden = false;
  std::string said;
  Memory memory(kBlockBytes);
  int64_t bytes = 0;
  std::thread([&] {
    is_forbidden = forbid_uring();
    std::unique_ptr<Drive> drive;
    if (!is_forbidden || open_drive(sources, {}, &drive).failed()) return;
    said = drive->describe();
    bytes = read_chunk(*drive, {1, 0, 0, 0, kBlockBytes, memory.data()});
  }).join();
  if (!is_forbidden) skip("nothing can be forbidden here");
  require(bytes == kBlockBytes, "%lld bytes were read; %s", static_cast<long long>(bytes),
          said.c_str());
  require_bytes("threads", {0, 0, kBlockBytes, memory.data(), nullptr});
  if (says(said, "page cache")) skip("%s", said.c_str());
  require(says(said, "8 threads, O_DIRECT"), "it says %s", said.c_str());
  require(says(said, "no io_uring: Operation not permitted") || says(said, "without liburing"),
          "it says %s", said.c_str());
}

RING_CASE(drive_missing, "a file that is not there fails the opening, with its path") {
  const Folder folder;
  const std::string there = folder.write("there", 100), missing = folder.path("missing");
  for (const Setup& setup : setups()) {
    if (setup.is_faulty) continue;
    for (const auto& paths : {std::vector<std::string>{missing}, {there, missing}}) {
      std::unique_ptr<Drive> drive;
      const std::vector<Source> sources = {{paths, 100}};
      const Status status = setup.rung == Rung::paced
                                ? open_paced_drive(sources, Pace{1e9}, &drive)
                                : open_drive(sources, {setup.rung, 0}, &drive);
      require(status.failed() && status.code == Code::cannot_read, "%s: was opened", setup.name);
      require(says(status.text, missing.c_str()) && says(status.text, "No such file"),
              "%s: says %s", setup.name, status.text);
    }
  }
}

RING_CASE(drive_locked, "memory that may not be locked is not registered, said, and read into") {
  const Folder folder;
  const std::vector<Source> sources = one_file(folder.write("file", kFileBytes));
  Slab slab;
  require(!slab.reserve(16 << 20).failed(), "no address space");
  const std::atomic<bool> never{false};
  slab.touch(0, slab.bytes(), never);
  rlimit before{};
  getrlimit(RLIMIT_MEMLOCK, &before);
  rlimit less = before;
  less.rlim_cur = 1 << 20;
  setrlimit(RLIMIT_MEMLOCK, &less);
  bool gave_up = false;
  std::string said;
  Landing landing = Landing::failed;
  std::thread([&] {
    gave_up = give_up_locking();
    std::unique_ptr<Drive> drive;
    if (!gave_up || open_drive(sources, {Rung::uring_registered, 0}, &drive).failed()) return;
    Reader reader;
    if (reader.open(std::move(drive), sources, small_chunks()).failed()) return;
    reader.lend({slab.data(), slab.bytes()});
    reader.submit(read_of(1, 1, kFileBytes - 1, slab.data()));
    Arrival arrival;
    if (reader.wait(20'000) && reader.poll(&arrival, 1) == 1) landing = arrival.landing;
    said = reader.describe();
  }).join();
  setrlimit(RLIMIT_MEMLOCK, &before);
  if (!gave_up) skip("capabilities cannot be given up here");
  require(landing == Landing::arrived, "the read has not arrived; %s", said.c_str());
  require_bytes("unregistered", {0, 1, kFileBytes - 1, slab.data(), nullptr});
  if (!says(said, "io_uring, ")) skip("%s", said.c_str());
  require(says(said, "buffers not registered (Cannot allocate memory)"), "it says %s",
          said.c_str());
}

RING_CASE(drive_lent, "lent memory is said to be registered, and read into past its borders") {
  const Folder folder;
  const std::vector<Source> sources = one_file(folder.write("file", kFileBytes));
  std::unique_ptr<Drive> drive;
  require(!open_drive(sources, {}, &drive).failed(), "no drive can be opened");
  Memory memory(1 << 20);
  drive->lend({memory.data(), 64 << 10});
  drive->lend({memory.data() + (512 << 10), 512 << 10});
  for (uint64_t at = 0; at < (1 << 20); at += 32 << 10) {
    const Chunk chunk{at + 1, 0, 0, at, 32 << 10, memory.data() + at};
    require(read_chunk(*drive, chunk) == 32 << 10, "a chunk came short");
  }
  const Chunk across{5, 0, 0, 48 << 10, 32 << 10, memory.data() + (48 << 10)};
  require(read_chunk(*drive, across) == 32 << 10, "a chunk across a border came short");
  require_bytes("lent", {0, 0, 1 << 20, memory.data(), nullptr});
}

RING_CASE(drive_wake, "a drive that is waited for returns when it is woken") {
  const Folder folder;
  const std::vector<Source> sources = one_file(folder.write("file", kFileBytes));
  for (const Setup& setup : setups()) {
    if (setup.is_faulty) continue;
    const auto drive = open_setup(setup, sources);
    Landed landed{};
    for (int i = 0; i < 3; ++i) {
      drive->wake();
      require(drive->reap(&landed, 1, -1) == 0, "%s: something has landed", setup.name);
    }
    require(drive->reap(&landed, 1, 1) == 0, "%s: something has landed", setup.name);
    std::thread waker([&] { drive->wake(); });
    drive->reap(&landed, 1, -1);
    waker.join();
  }
}

RING_CASE(drive_paced, "the drive of RAM is never quicker than its latency and its rate") {
  const Folder folder;
  const std::vector<Source> sources = one_file(folder.write("file", kFileBytes));
  Pace pace;
  pace.bytes_per_second = 64e6;
  pace.latency_seconds = 3e-3;
  pace.depth = 4;
  std::unique_ptr<Drive> drive;
  require(!open_paced_drive(sources, pace, &drive).failed(), "it cannot be opened");
  require(drive->depth() == 4, "its depth is %d", drive->depth());
  Memory memory(1 << 20);
  const double begin = now();
  read_chunk(*drive, {1, 0, 0, 0, 64 << 10, memory.data()});
  const double one = now() - begin;
  require(one >= 3e-3 + 65536 / 64e6, "one chunk took %.2f ms", one * 1e3);
  const double full = now();
  const int chunks = 16;
  for (int i = 0; i < 4; ++i) {
    const uint64_t at = static_cast<uint64_t>(i) << 16;
    drive->submit({at, 0, 0, at, 64 << 10, memory.data() + at});
  }
  for (int landed_count = 0, asked = 4; landed_count < chunks;) {
    Landed landed[4];
    const int count = drive->reap(landed, 4, -1);
    landed_count += count;
    for (int i = 0; i < count && asked < chunks; ++i, ++asked) {
      const uint64_t at = static_cast<uint64_t>(asked) << 16;
      drive->submit({at, 0, 0, at, 64 << 10, memory.data() + at});
    }
  }
  const double all = now() - full;
  require(all >= 3e-3 + chunks * 65536 / 64e6, "16 chunks took %.2f ms", all * 1e3);
  require_bytes("paced", {0, 0, 1 << 20, memory.data(), nullptr});
}

RING_CASE(drive_paced_rate, "the drive of RAM gives its rate, measured as a real drive is") {
  const Folder folder;
  const uint64_t bytes = 8 << 20;
  const std::vector<Source> sources = {{{folder.write("file", bytes)}, bytes}};
  std::unique_ptr<Drive> drive;
  require(!open_paced_drive(sources, {1e9, 2e-4, 16, 0, 1}, &drive).failed(),
          "it cannot be opened");
  CeilingProbe probe;
  probe.chunk_bytes = 1 << 20;
  probe.bytes = 200 << 20;
  double rate = 0;
  const Status measured = measure_ceiling(*drive, sources, probe, &rate);
  require(!measured.failed(), "%s", measured.text);
  // Slower only where this machine holds up the thread that delivers.
  require(rate < 1.02e9 && rate > 0.5e9, "%.3g bytes per second", rate);
}
