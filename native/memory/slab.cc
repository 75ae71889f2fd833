// See slab.h.
#include "slab.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace ring {
namespace {

constexpr uint64_t kHugePage = uint64_t{2} << 20;

}  // namespace

Slab::Slab(Slab&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

Slab::~Slab() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

Status Slab::reserve(uint64_t bytes) {
  bytes_ = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  // A little more, so that a huge page's border lies inside; the ends are given back.
  void* memory = mmap(nullptr, bytes_ + kHugePage, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    return failure(Code::out_of_memory, "no address space for %llu bytes of experts: %s",
                   static_cast<unsigned long long>(bytes_), strerror(errno));
  }
  auto* begin = static_cast<uint8_t*>(memory);
  const auto address = reinterpret_cast<uintptr_t>(begin);
  const uint64_t before = (kHugePage - address % kHugePage) % kHugePage;
  if (before > 0) munmap(begin, before);
  if (before < kHugePage) munmap(begin + before + bytes_, kHugePage - before);
  data_ = begin + before;
  madvise(data_, bytes_, MADV_HUGEPAGE);
  madvise(data_, bytes_, MADV_DONTDUMP);
  // Pages that a GPU has pinned would be copied for every child, or the GPU would go on with those
  // that the child keeps.
  madvise(data_, bytes_, MADV_DONTFORK);
  return {};
}

void Slab::touch(uint64_t from, uint64_t bytes, const std::atomic<bool>& ending) {
  const auto page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  const uint64_t end = std::min(bytes_, from + bytes);
  for (uint64_t at = from; at < end; at += page) {
    data_[at] = 0;
    if (at % kHugePage == 0 && ending.load(std::memory_order_relaxed)) return;
  }
}

bool Slab::lock() { return mlock(data_, bytes_) == 0; }

Toucher::~Toucher() { stop(); }

void Toucher::start(std::vector<Slab>* slabs, uint64_t piece_bytes, int64_t pieces_each,
                    int64_t pieces, std::function<void(const Slab&)> on_slab) {
  stop();
  ending_.store(false);
  done_.store(false);
  pieces_.store(0);
  locked_.store(0);
  thread_ =
      std::thread([this, slabs, piece_bytes, pieces_each, pieces, on_slab = std::move(on_slab)] {
        for (Slab& slab : *slabs) {
          const int64_t here = std::min(pieces_each, pieces - pieces_.load());
          for (int64_t piece = 0; piece < here; ++piece) {
            slab.touch(static_cast<uint64_t>(piece) * piece_bytes, piece_bytes, ending_);
            if (ending_.load()) return;
            pieces_.fetch_add(1, std::memory_order_release);
          }
          if (slab.lock()) locked_.fetch_add(1, std::memory_order_release);
          on_slab(slab);
        }
        done_.store(true, std::memory_order_release);
      });
}

void Toucher::stop() {
  ending_.store(true);
  if (thread_.joinable()) thread_.join();
}

}  // namespace ring
