// See pool.h.
#include "pool.h"

namespace ring {
namespace {

// About 20 us of looking before parking: longer than the gap between two pieces of a layer, shorter
// than what a neighbour on the same core would notice.
constexpr int kLooks = 4000;

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::atomic_signal_fence(std::memory_order_seq_cst);
#endif
}

}  // namespace

Pool::Pool(int threads) {
  for (int thread = 1; thread < threads; ++thread) {
    workers_.emplace_back([this, thread] { worker(thread); });
  }
}

Pool::~Pool() {
  ending_.store(true);
  round_.fetch_add(1);
  round_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void Pool::run_erased(int pieces, Call call, const void* context) {
  if (pieces <= 0) return;
  if (workers_.empty() || pieces == 1) {
    for (int piece = 0; piece < pieces; ++piece) call(context, piece, 0);
    return;
  }
  const uint32_t round = round_.load(std::memory_order_relaxed) + 1;
  // Closes the round before: a worker that is late in it can take nothing while the call changes.
  next_.store(static_cast<uint64_t>(round) << 32 | 0xffffffffu, std::memory_order_release);
  call_ = call;
  context_ = context;
  pieces_.store(pieces, std::memory_order_release);
  finished_.store(0, std::memory_order_relaxed);
  // Publishes call, context and count: whoever takes a piece of this round has acquired next_.
  next_.store(static_cast<uint64_t>(round) << 32, std::memory_order_release);
  round_.store(round, std::memory_order_release);
  round_.notify_all();
  take_pieces(round, 0);
  for (int look = 0; finished_.load(std::memory_order_acquire) < pieces; ++look) {
    if (look < kLooks) {
      relax();
    } else {
      std::this_thread::yield();  // another thread holds the last piece and may need this core
    }
  }
}

void Pool::take_pieces(uint32_t round, int thread) {
  uint64_t seen = next_.load(std::memory_order_acquire);
  while (static_cast<uint32_t>(seen >> 32) == round) {
    const uint32_t piece = static_cast<uint32_t>(seen);
    if (piece >= static_cast<uint32_t>(pieces_.load(std::memory_order_acquire))) return;
    if (!next_.compare_exchange_weak(seen, seen + 1, std::memory_order_acq_rel)) continue;
    call_(context_, static_cast<int>(piece), thread);
    finished_.fetch_add(1, std::memory_order_acq_rel);
    seen = next_.load(std::memory_order_acquire);
  }
}

void Pool::worker(int thread) {
  uint32_t done = 0;
  while (!ending_.load(std::memory_order_acquire)) {
    uint32_t round = round_.load(std::memory_order_acquire);
    for (int look = 0; round == done && look < kLooks; ++look) {
      relax();
      round = round_.load(std::memory_order_acquire);
    }
    if (round == done) {
      round_.wait(done, std::memory_order_acquire);
      continue;
    }
    take_pieces(round, thread);
    done = round;
  }
}

}  // namespace ring
