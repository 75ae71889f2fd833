// The drive made of RAM. It holds what the files hold, copies a chunk as soon as it can, and says
// so when a drive of the set rate and latency would have delivered it: so every ratio of the reader
// and the cache can be measured again and again, on any machine. A chunk lands a latency and a
// transfer after it was asked for, or a transfer after the chunk before it, whichever is later; so
// chunks land in their order. The copying is done by the thread that reaps, and costs it about
// 0.1 s per GB that a real drive would not cost.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <utility>

#include "drive.h"
#include "files.h"

namespace ring::io {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kForEverMs = 3'600'000;
// About what it takes to be woken, so the wait ends that much before a chunk is due.
constexpr auto kWakeUp = std::chrono::microseconds(50);
constexpr uint64_t kFillBytes = 8 << 20;
constexpr uint64_t kCopyBytes = 128 << 10;

// A file's bytes; holes stay untouched.
struct Held {
  uint8_t* data = nullptr;
  uint64_t bytes = 0;
};

class PacedDrive : public Drive {
 public:
  explicit PacedDrive(const Pace& pace) : pace_(pace), state_(pace.seed * 2 + 1) {}

  ~PacedDrive() override {
    for (const Held& held : files_) {
      if (held.data != nullptr) munmap(held.data, held.bytes);
    }
  }

  Status open(const std::vector<Source>& sources) {
    OpenFiles files;
    bool refused = false;
    RING_TRY(files.open(sources, false, &refused));
    for (size_t file = 0; file < sources.size(); ++file) {
      const Source& source = sources[file];
      void* memory = mmap(nullptr, std::max<uint64_t>(1, source.bytes), PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (memory == MAP_FAILED)
        return failure(Code::out_of_memory, "%s: no memory to hold it for the paced drive",
                       source.paths.front().c_str());
      madvise(memory, source.bytes, MADV_HUGEPAGE);
      files_.push_back({static_cast<uint8_t*>(memory), source.bytes});
      RING_TRY(fill(files.descriptor(static_cast<int32_t>(file), 0), source.paths.front(),
                    files_.back()));
    }
    return {};
  }

  int depth() const override { return pace_.depth; }

  void submit(const Chunk& chunk) override {
    const Held& held = files_[static_cast<size_t>(chunk.file)];
    const uint64_t left = chunk.offset < held.bytes ? held.bytes - chunk.offset : 0;
    Asked asked{chunk, std::min(chunk.bytes, left), 0, {}};
    const double latency = pace_.latency_seconds * (1 + pace_.jitter * (2 * random() - 1));
    // The rate is kept over any time: a drive that had nothing to do does not catch up.
    const auto begins = std::max(Clock::now() + duration(latency), busy_until_);
    busy_until_ = begins + duration(static_cast<double>(asked.bytes) / pace_.bytes_per_second);
    asked.due = busy_until_;
    asked_.push_back(asked);
  }

  void lend(const Region&) override {}

  // Bytes are copied while nothing is due, in pieces short enough to be on time.
  int reap(Landed* landed, int capacity, int wait_ms) override {
    sharpen_timers();
    const auto limit = Clock::now() + std::chrono::milliseconds(wait_ms < 0 ? kForEverMs : wait_ms);
    for (;;) {
      const auto now = Clock::now();
      const bool is_due = !asked_.empty() && asked_.front().due <= now;
      const int count = is_due ? take_due(now, landed, capacity) : 0;
      if (count > 0) return count;
      if (!is_due && now >= limit) return 0;
      const auto until = asked_.empty() ? limit : std::min(limit, asked_.front().due - kWakeUp);
      const bool has_copied = copy_some();
      std::unique_lock<std::mutex> guard(lock_);
      if (!has_copied && until > now)
        has_woken_.wait_until(guard, until, [this] { return woken_; });
      if (std::exchange(woken_, false)) return 0;
    }
  }

  void wake() override {
    {
      const std::lock_guard<std::mutex> guard(lock_);
      woken_ = true;
    }
    has_woken_.notify_one();
  }

  std::string describe() const override {
    char text[120];
    snprintf(text, sizeof text, "a drive of RAM at %.3g GB/s, %.3g us, depth %d",
             pace_.bytes_per_second / 1e9, pace_.latency_seconds * 1e6, pace_.depth);
    return text;
  }

 private:
  struct Asked {
    Chunk chunk;
    uint64_t bytes;   // that the file has of it
    uint64_t copied;  // of them
    Clock::time_point due;
  };

  int take_due(Clock::time_point now, Landed* landed, int capacity) {
    int count = 0;
    while (count < capacity && !asked_.empty() && asked_.front().due <= now &&
           asked_.front().copied == asked_.front().bytes) {
      landed[count++] = {asked_.front().chunk.tag, static_cast<int64_t>(asked_.front().bytes)};
      asked_.pop_front();
      if (copying_ > 0) --copying_;
    }
    return count;
  }

  // The system rounds a thread's waits up to 50 us unless it is told otherwise.
  static void sharpen_timers() {
    static thread_local bool is_done = false;
    if (!is_done) prctl(PR_SET_TIMERSLACK, 1);
    is_done = true;
  }

  // False: there is nothing to copy.
  bool copy_some() {
    while (copying_ < asked_.size() && asked_[copying_].copied == asked_[copying_].bytes)
      ++copying_;
    if (copying_ == asked_.size()) return false;
    Asked& asked = asked_[copying_];
    const uint64_t bytes = std::min(kCopyBytes, asked.bytes - asked.copied);
    memcpy(asked.chunk.target + asked.copied,
           files_[static_cast<size_t>(asked.chunk.file)].data + asked.chunk.offset + asked.copied,
           bytes);
    asked.copied += bytes;
    return true;
  }

  static Clock::duration duration(double seconds) {
    return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  }

  double random() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return static_cast<double>(state_ >> 11) * 0x1p-53;
  }

  static Status fill(int descriptor, const std::string& path, const Held& held) {
    for (uint64_t at = 0; at < held.bytes;) {
      const off_t data = lseek(descriptor, static_cast<off_t>(at), SEEK_DATA);
      if (data < 0 && errno == ENXIO) return {};  // nothing but a hole from here on
      if (data > 0) at = static_cast<uint64_t>(data);
      const off_t hole = lseek(descriptor, static_cast<off_t>(at), SEEK_HOLE);
      const uint64_t end =
          hole < 0 ? held.bytes : std::min(held.bytes, static_cast<uint64_t>(hole));
      for (; at < end; at = std::min(end, at + kFillBytes))
        RING_TRY(fill_piece(descriptor, path, held, at, std::min(kFillBytes, end - at)));
    }
    return {};
  }

  static Status fill_piece(int descriptor, const std::string& path, const Held& held,
                           uint64_t offset, uint64_t bytes) {
    for (uint64_t have = 0; have < bytes;) {
      const ssize_t got = pread(descriptor, held.data + offset + have, bytes - have,
                                static_cast<off_t>(offset + have));
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0)
        return failure(Code::cannot_read, "%s: cannot be read at byte %llu: %s", path.c_str(),
                       static_cast<unsigned long long>(offset + have),
                       got == 0 ? "the file ends there" : strerror(errno));
      have += static_cast<uint64_t>(got);
    }
    posix_fadvise(descriptor, static_cast<off_t>(offset), static_cast<off_t>(bytes),
                  POSIX_FADV_DONTNEED);
    return {};
  }

  Pace pace_;
  uint64_t state_;
  std::vector<Held> files_;
  Clock::time_point busy_until_{};
  std::deque<Asked> asked_;  // in the order in which they are due
  size_t copying_ = 0;       // index of the first that may lack bytes
  std::mutex lock_;
  std::condition_variable has_woken_;
  bool woken_ = false;
};

}  // namespace

Status open_paced_drive(const std::vector<Source>& sources, const Pace& pace,
                        std::unique_ptr<Drive>* drive) {
  auto paced = std::make_unique<PacedDrive>(pace);
  RING_TRY(paced->open(sources));
  *drive = std::move(paced);
  return {};
}

}  // namespace ring::io
