// The compute threads of the CPU backend. `run` hands out numbered pieces of work; the caller takes
// part, and whoever is free takes the next piece, so a core that a neighbour has slowed down holds
// up one piece and not the whole layer. Idle threads look for work briefly, then park. Which thread
// computes a piece never changes a result: a piece owns its outputs.
#pragma once
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace ring {

class Pool {
 public:
  explicit Pool(int threads);  // the caller counts as one of them
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls work(piece, thread) for every piece in [0, pieces) and returns when all are done.
  // `thread` is in [0, threads()) and tells scratch apart. Not reentrant.
  template <typename Work>
  void run(int pieces, const Work& work) {
    run_erased(
        pieces,
        [](const void* context, int piece, int thread) {
          (*static_cast<const Work*>(context))(piece, thread);
        },
        &work);
  }

 private:
  using Call = void (*)(const void* context, int piece, int thread);

  void run_erased(int pieces, Call call, const void* context);
  void worker(int thread);
  void take_pieces(uint32_t round, int thread);

  std::vector<std::thread> workers_;
  Call call_ = nullptr;
  const void* context_ = nullptr;
  // Round number in the upper half, next piece in the lower: a worker that wakes late for a round
  // that is over cannot take a piece of the next one with the old call.
  std::atomic<uint64_t> next_{0};
  std::atomic<int> pieces_{0};
  std::atomic<int> finished_{0};
  std::atomic<uint32_t> round_{0};
  std::atomic<bool> ending_{false};
};

}  // namespace ring
