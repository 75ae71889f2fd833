// The drive made of RAM. It holds what the files hold, copies a chunk when it is asked for, and
// says so when a drive of the set rate and latency would have delivered it: so every ratio of the
// reader and the cache can be measured again and again, on any machine.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <queue>

#include "drive.h"
#include "files.h"

namespace ring::io {
namespace {

using Clock = std::chrono::steady_clock;

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
    const uint64_t bytes = std::min(chunk.bytes, left);
    const auto now = Clock::now();
    const double seconds = pace_.latency_seconds * (1 + pace_.jitter * (2 * random() - 1));
    const auto begins = std::max(now + duration(seconds), busy_until_);
    // The rate is kept over any time: a gap is lost, nothing else.
    const auto ends = begins + duration(static_cast<double>(bytes) / pace_.bytes_per_second);
    busy_until_ = ends;
    memcpy(chunk.target, held.data + chunk.offset, bytes);
    due_.push({ends, {chunk.tag, static_cast<int64_t>(bytes)}});
  }

  void lend(const Region&) override {}

  int reap(Landed* landed, int capacity, int wait_ms) override {
    std::unique_lock<std::mutex> guard(lock_);
    const auto limit = Clock::now() + std::chrono::milliseconds(wait_ms < 0 ? 3'600'000 : wait_ms);
    const auto until = due_.empty() ? limit : std::min(limit, due_.top().at);
    if (!woken_) has_woken_.wait_until(guard, until, [this] { return woken_; });
    woken_ = false;
    const auto now = Clock::now();
    int count = 0;
    while (count < capacity && !due_.empty() && due_.top().at <= now) {
      landed[count++] = due_.top().landed;
      due_.pop();
    }
    return count;
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
  struct Due {
    Clock::time_point at;
    Landed landed;
    bool operator<(const Due& other) const { return at > other.at; }  // the earliest on top
  };

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
    constexpr uint64_t kPiece = 8 << 20;
    auto at = static_cast<uint64_t>(std::max<off_t>(0, lseek(descriptor, 0, SEEK_DATA)));
    if (lseek(descriptor, 0, SEEK_DATA) < 0 && errno == ENXIO) return {};  // nothing but a hole
    while (at < held.bytes) {
      const off_t hole = lseek(descriptor, static_cast<off_t>(at), SEEK_HOLE);
      const uint64_t end = hole < 0 ? held.bytes : std::min<uint64_t>(held.bytes, hole);
      while (at < end) {
        const ssize_t got =
            pread(descriptor, held.data + at, std::min(kPiece, end - at), static_cast<off_t>(at));
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0)
          return failure(Code::cannot_read, "%s: cannot be read at byte %llu: %s", path.c_str(),
                         static_cast<unsigned long long>(at),
                         got == 0 ? "it ends there" : strerror(errno));
        at += static_cast<uint64_t>(got);
      }
      posix_fadvise(descriptor, 0, 0, POSIX_FADV_DONTNEED);
      const off_t next = lseek(descriptor, static_cast<off_t>(at), SEEK_DATA);
      if (next < 0) break;
      at = static_cast<uint64_t>(next);
    }
    return {};
  }

  Pace pace_;
  uint64_t state_;
  std::vector<Held> files_;
  Clock::time_point busy_until_{};
  std::priority_queue<Due> due_;
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
