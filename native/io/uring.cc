// The rung of io_uring: one ring, files registered, and memory registered slab by slab as it is
// lent, which spares the kernel the pinning of pages at every read. Built only where liburing is;
// used only where the kernel allows it.
#include "uring.h"

#ifndef RING_HAS_URING

namespace ring::io {

std::unique_ptr<Drive> make_uring_drive(OpenFiles*, int, bool, std::string* missing) {
  *missing = "built without liburing";
  return nullptr;
}

}  // namespace ring::io

#else

#include <liburing.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>

namespace ring::io {
namespace {

constexpr int kDepth = 32;
constexpr unsigned kBuffersMax = 4096;
// The kernel takes no larger buffer at once.
constexpr uint64_t kBufferBytes = uint64_t{1} << 30;
constexpr uint64_t kWakeTag = ~uint64_t{0};

struct Registered {
  uint8_t* begin;
  uint8_t* end;
  int index;
};

class UringDrive : public Drive {
 public:
  ~UringDrive() override {
    if (is_open_) io_uring_queue_exit(&ring_);
    if (event_ >= 0) close(event_);
  }

  // Null on success, else what could not be had.
  const char* open(OpenFiles* files, int depth, bool registers) {
    depth_ = depth > 0 ? std::min(depth, 1024) : kDepth;
    const int made = io_uring_queue_init(static_cast<unsigned>(depth_) + 1, &ring_, 0);
    if (made < 0) return made == -EPERM ? "io_uring is forbidden" : "io_uring is not to be had";
    is_open_ = true;
    event_ = eventfd(0, EFD_CLOEXEC);
    if (event_ < 0) return "no event descriptor for io_uring";
    has_files_ = io_uring_register_files(&ring_, files->all().data(),
                                         static_cast<unsigned>(files->all().size())) == 0;
    registers_ = registers && io_uring_register_buffers_sparse(&ring_, kBuffersMax) == 0;
    lost_ = registers && !registers_;
    files_ = std::make_unique<OpenFiles>(std::move(*files));
    listen();
    return nullptr;
  }

  int depth() const override { return depth_; }

  void submit(const Chunk& chunk) override {
    io_uring_sqe* sqe = next_entry();
    const int file = has_files_ ? files_->index(chunk.file, chunk.copy)
                                : files_->descriptor(chunk.file, chunk.copy);
    const int buffer = buffer_of(chunk.target, chunk.bytes);
    if (buffer >= 0) {
      io_uring_prep_read_fixed(sqe, file, chunk.target, static_cast<unsigned>(chunk.bytes),
                               chunk.offset, buffer);
    } else {
      io_uring_prep_read(sqe, file, chunk.target, static_cast<unsigned>(chunk.bytes), chunk.offset);
    }
    if (has_files_) io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
    io_uring_sqe_set_data64(sqe, chunk.tag);
  }

  void lend(const Region& region) override {
    if (!registers_) return;
    for (uint64_t at = 0; at < region.bytes && buffers_.size() < kBuffersMax; at += kBufferBytes) {
      iovec piece = {region.data + at, std::min(kBufferBytes, region.bytes - at)};
      const auto index = static_cast<unsigned>(buffers_.size());
      __u64 tag = 0;
      if (io_uring_register_buffers_update_tag(&ring_, index, &piece, &tag, 1) < 0) {
        // An unprivileged user may lock 8 MiB only.
        lost_ = true;
        return;
      }
      auto* begin = static_cast<uint8_t*>(piece.iov_base);
      buffers_.push_back({begin, begin + piece.iov_len, static_cast<int>(index)});
    }
  }

  int reap(Landed* landed, int capacity, int wait_ms) override {
    if (wait_ms < 0) {
      io_uring_submit_and_wait(&ring_, 1);
    } else {
      io_uring_submit(&ring_);
      if (wait_ms > 0 && io_uring_cq_ready(&ring_) == 0) {
        __kernel_timespec time = {wait_ms / 1000, wait_ms % 1000 * 1'000'000ll};
        io_uring_cqe* first = nullptr;
        io_uring_wait_cqe_timeout(&ring_, &first, &time);
      }
    }
    int count = 0;
    io_uring_cqe* cqe = nullptr;
    while (count < capacity && io_uring_peek_cqe(&ring_, &cqe) == 0) {
      const uint64_t tag = io_uring_cqe_get_data64(cqe);
      const int result = cqe->res;
      io_uring_cqe_seen(&ring_, cqe);
      if (tag == kWakeTag) {
        listen();
      } else {
        landed[count++] = {tag, result};
      }
    }
    return count;
  }

  void wake() override {
    const uint64_t one = 1;
    if (write(event_, &one, sizeof one) < 0) return;  // full: it is awake anyway
  }

  std::string describe() const override {
    return std::string("io_uring") + (registers_ ? ", registered buffers" : "") +
           ", O_DIRECT, depth " + std::to_string(depth_) +
           (lost_ ? " (buffers could not be registered)" : "");
  }

 private:
  io_uring_sqe* next_entry() {
    io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
    while (sqe == nullptr) {
      io_uring_submit(&ring_);
      sqe = io_uring_get_sqe(&ring_);
    }
    return sqe;
  }

  void listen() {
    io_uring_sqe* sqe = next_entry();
    io_uring_prep_read(sqe, event_, &woken_, sizeof woken_, 0);
    io_uring_sqe_set_data64(sqe, kWakeTag);
    io_uring_submit(&ring_);
  }

  // The buffer that holds all of these bytes, or -1.
  int buffer_of(const uint8_t* data, uint64_t bytes) const {
    for (const Registered& buffer : buffers_) {
      if (data >= buffer.begin && data + bytes <= buffer.end) return buffer.index;
    }
    return -1;
  }

  io_uring ring_{};
  std::unique_ptr<OpenFiles> files_;
  int depth_ = 0;
  int event_ = -1;
  uint64_t woken_ = 0;
  bool is_open_ = false, has_files_ = false, registers_ = false, lost_ = false;
  std::vector<Registered> buffers_;
};

}  // namespace

std::unique_ptr<Drive> make_uring_drive(OpenFiles* files, int depth, bool registers,
                                        std::string* missing) {
  auto drive = std::make_unique<UringDrive>();
  const char* reason = drive->open(files, depth, registers);
  if (reason == nullptr) return drive;
  *missing = reason;
  return nullptr;
}

}  // namespace ring::io

#endif
