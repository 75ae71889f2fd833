// The rung of threads: each takes a chunk and reads it with pread, past the page cache (O_DIRECT)
// or, where a file system has no O_DIRECT, through it and dropped behind. Works for every user and
// in every container; costs a system call and two wake-ups a chunk.
#include "threads.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "thread_time.h"

namespace ring::io {
namespace {

constexpr int kThreads = 8;

class ThreadDrive : public Drive {
 public:
  ThreadDrive(OpenFiles files, int threads, bool is_direct)
      : files_(std::move(files)), is_direct_(is_direct) {
    for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { work(); });
  }

  ~ThreadDrive() override {
    {
      const std::lock_guard<std::mutex> guard(lock_);
      ending_ = true;
    }
    has_chunk_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  int depth() const override { return static_cast<int>(threads_.size()); }

  void submit(const Chunk& chunk) override {
    {
      const std::lock_guard<std::mutex> guard(lock_);
      chunks_.push_back(chunk);
    }
    has_chunk_.notify_one();
  }

  void lend(const Region&) override {}

  int reap(Landed* landed, int capacity, int wait_ms) override {
    std::unique_lock<std::mutex> guard(lock_);
    const auto ready = [this] { return woken_ || !landed_.empty(); };
    if (wait_ms < 0) {
      has_landed_.wait(guard, ready);
    } else {
      has_landed_.wait_for(guard, std::chrono::milliseconds(wait_ms), ready);
    }
    woken_ = false;
    const int count = std::min(capacity, static_cast<int>(landed_.size()));
    std::copy_n(landed_.begin(), count, landed);
    landed_.erase(landed_.begin(), landed_.begin() + count);
    return count;
  }

  void wake() override {
    {
      const std::lock_guard<std::mutex> guard(lock_);
      woken_ = true;
    }
    has_landed_.notify_one();
  }

  uint64_t cpu_ns() const override { return cpu_ns_.load(std::memory_order_relaxed); }

  std::string describe() const override {
    return std::to_string(threads_.size()) +
           (is_direct_ ? " threads, O_DIRECT" : " threads, through the page cache");
  }

 private:
  void work() {
    uint64_t counted = 0;
    std::unique_lock<std::mutex> guard(lock_);
    for (;;) {
      has_chunk_.wait(guard, [this] { return ending_ || !chunks_.empty(); });
      if (chunks_.empty()) return;
      const Chunk chunk = chunks_.front();
      chunks_.pop_front();
      guard.unlock();
      const int64_t result = read(chunk);
      const uint64_t cpu = thread_cpu_ns();
      cpu_ns_.fetch_add(cpu - counted, std::memory_order_relaxed);
      counted = cpu;
      guard.lock();
      landed_.push_back({chunk.tag, result});
      has_landed_.notify_one();
    }
  }

  int64_t read(const Chunk& chunk) const {
    const int file = files_.descriptor(chunk.file, chunk.copy);
    ssize_t result = 0;
    do {
      result = pread(file, chunk.target, chunk.bytes, static_cast<off_t>(chunk.offset));
    } while (result < 0 && errno == EINTR);
    const int64_t outcome = result < 0 ? -errno : result;
    if (!is_direct_) {
      posix_fadvise(file, static_cast<off_t>(chunk.offset), static_cast<off_t>(chunk.bytes),
                    POSIX_FADV_DONTNEED);
    }
    return outcome;
  }

  OpenFiles files_;
  bool is_direct_;
  std::mutex lock_;
  std::condition_variable has_chunk_, has_landed_;
  std::deque<Chunk> chunks_;
  std::vector<Landed> landed_;
  std::atomic<uint64_t> cpu_ns_{0};
  bool woken_ = false, ending_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace

std::unique_ptr<Drive> make_thread_drive(OpenFiles files, int depth, bool is_direct) {
  return std::make_unique<ThreadDrive>(std::move(files), depth > 0 ? std::min(depth, 64) : kThreads,
                                       is_direct);
}

}  // namespace ring::io
