// Anonymous memory that bytes of the checkpoint are read into: aligned to huge pages, touched in
// the background, locked where the system allows. Fresh memory costs a page fault at its first
// touch, which can be slower than the drive; so a part of a slab may be used only once it has been
// touched.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

#include "../status.h"

namespace ring {

class Slab {
 public:
  Slab() = default;
  ~Slab();
  Slab(Slab&& other) noexcept;
  Slab(const Slab&) = delete;
  Slab& operator=(const Slab&) = delete;

  // Address space only; nothing is touched.
  Status reserve(uint64_t bytes);
  // Touches [from, from + bytes); returns early when `ending` is set.
  void touch(uint64_t from, uint64_t bytes, const std::atomic<bool>& ending);
  // Keeps all of it in memory, which must have been touched; false where the system refuses.
  bool lock();

  uint8_t* data() const { return data_; }
  uint64_t bytes() const { return bytes_; }

 private:
  uint8_t* data_ = nullptr;
  uint64_t bytes_ = 0;
};

// Touches and locks slabs one after the other, in equal pieces, on a thread of its own.
class Toucher {
 public:
  ~Toucher();
  // on_slab: called on the thread when a slab is touched whole (and locked, or not). The slabs must
  // outlive the toucher; each holds pieces_each pieces, the last the rest of `pieces`.
  void start(std::vector<Slab>* slabs, uint64_t piece_bytes, int64_t pieces_each, int64_t pieces,
             std::function<void(const Slab&)> on_slab);
  void stop();
  // Pieces touched so far, counted over all slabs in order. From any thread.
  int64_t pieces() const { return pieces_.load(std::memory_order_acquire); }
  int64_t locked_slabs() const { return locked_.load(std::memory_order_acquire); }
  bool done() const { return done_.load(std::memory_order_acquire); }

 private:
  std::thread thread_;
  std::atomic<bool> ending_{false}, done_{true};
  std::atomic<int64_t> pieces_{0}, locked_{0};
};

}  // namespace ring
