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
    // The kernel must not write into memory that is about to go.
    Landed landed[16];
    while (under_way_ > 0) reap(landed, 16, -1);
    if (is_open_) io_uring_queue_exit(&ring_);
    if (event_ >= 0) close(event_);
  }

  // Empty on success, else what could not be had.
  std::string open(OpenFiles* files, int depth, bool registers) {
    depth_ = depth > 0 ? std::min(depth, 1024) : kDepth;
    const int made = io_uring_queue_init(static_cast<unsigned>(depth_) + 1, &ring_, 0);
    if (made < 0) return std::string("no io_uring: ") + strerror(-made);
    is_open_ = true;
    event_ = eventfd(0, EFD_CLOEXEC);
    if (event_ < 0) return std::string("no io_uring, for want of an eventfd: ") + strerror(errno);
    has_files_ = io_uring_register_files(&ring_, files->all().data(),
                                         static_cast<unsigned>(files->all().size())) == 0;
    if (registers) {
      const int table = io_uring_register_buffers_sparse(&ring_, kBuffersMax);
      registers_ = table >= 0;
      if (table < 0) refusal_ = strerror(-table);
    }
    files_ = std::make_unique<OpenFiles>(std::move(*files));
    listen();
    return {};
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
    ++under_way_;
  }

  void lend(const Region& region) override {
    lent_bytes_ += region.bytes;
    for (uint64_t at = 0; registers_ && at < region.bytes; at += kBufferBytes) {
      if (!register_buffer(region.data + at, std::min(kBufferBytes, region.bytes - at))) return;
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
        --under_way_;
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
    return "io_uring, O_DIRECT, depth " + std::to_string(depth_) + describe_buffers();
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

  // Fails where the kernel has enough of it: an unprivileged user may lock 8 MiB only.
  bool register_buffer(uint8_t* data, uint64_t bytes) {
    const auto index = static_cast<unsigned>(buffers_.size());
    if (index == kBuffersMax) {
      refusal_ = "too many pieces of memory";
      return false;
    }
    const iovec piece = {data, bytes};
    const __u64 tag = 0;
    const int done = io_uring_register_buffers_update_tag(&ring_, index, &piece, &tag, 1);
    if (done < 0) {
      refusal_ = strerror(-done);
      return false;
    }
    const auto place = std::upper_bound(
        buffers_.begin(), buffers_.end(), data,
        [](const uint8_t* at, const Registered& buffer) { return at < buffer.begin; });
    buffers_.insert(place, {data, data + bytes, static_cast<int>(index)});
    registered_bytes_ += bytes;
    return true;
  }

  // The buffer that holds all of these bytes, or -1.
  int buffer_of(const uint8_t* data, uint64_t bytes) const {
    const auto after = std::upper_bound(
        buffers_.begin(), buffers_.end(), data,
        [](const uint8_t* at, const Registered& buffer) { return at < buffer.begin; });
    if (after == buffers_.begin()) return -1;
    const Registered& buffer = *(after - 1);
    return data + bytes <= buffer.end ? buffer.index : -1;
  }

  std::string describe_buffers() const {
    if (refusal_.empty()) return registers_ ? ", registered buffers" : "";
    if (registered_bytes_ == 0) return ", buffers not registered (" + refusal_ + ")";
    return ", " + std::to_string(registered_bytes_ >> 20) + " of " +
           std::to_string(lent_bytes_ >> 20) + " MiB of buffers registered (" + refusal_ + ")";
  }

  io_uring ring_{};
  std::unique_ptr<OpenFiles> files_;
  int depth_ = 0;
  int event_ = -1;
  uint64_t woken_ = 0;
  int under_way_ = 0;
  bool is_open_ = false, has_files_ = false, registers_ = false;
  std::string refusal_;              // why buffers, or some of them, are not registered
  std::vector<Registered> buffers_;  // by address
  uint64_t lent_bytes_ = 0, registered_bytes_ = 0;
};

}  // namespace

std::unique_ptr<Drive> make_uring_drive(OpenFiles* files, int depth, bool registers,
                                        std::string* missing) {
  auto drive = std::make_unique<UringDrive>();
  *missing = drive->open(files, depth, registers);
  return missing->empty() ? std::move(drive) : nullptr;
}

}  // namespace ring::io

#endif
