// Chains of work that come again and again as CUDA graphs: put once while the stream is being
// recorded, launched as a whole from then on. What a chain does may depend on nothing but its kind
// and what lies in memory when it runs. It must not know what that is.
#pragma once
#include <mutex>
#include <vector>

#include "gpu.h"

namespace ring::cuda {

class Graphs {
 public:
  // All that the arguments of a chain's kernels depend on.
  struct Kind {
    int32_t step = 0, tokens = 0, longest = 0;
    bool operator==(const Kind&) const = default;
  };

  Graphs() = default;
  ~Graphs();
  Graphs(const Graphs&) = delete;
  Graphs& operator=(const Graphs&) = delete;

  // Puts a chain of this kind into the stream: by calling `put` the first time, so that all kernels
  // it uses are loaded before anything is recorded; later as one graph. Where CUDA cannot record
  // it, by `put` ever after; as long as somebody has `undisturbed`, by `put` this time.
  template <typename Put>
  Status run(const Kind& kind, cudaStream_t stream, std::mutex& undisturbed, const Put& put) {
    Chain& chain = find(kind);
    if (!chain.has_run || is_refused_) {
      chain.has_run = true;
      return put();
    }
    if (chain.graph == nullptr) {
      const std::unique_lock guard(undisturbed, std::try_to_lock);
      if (!guard.owns_lock()) return put();
      begin(stream);
      end(stream, put(), chain);
      if (is_refused_) return put();
    }
    RING_GPU(cudaGraphLaunch(chain.graph, stream));
    return {};
  }

 private:
  struct Chain {
    Kind kind;
    bool has_run = false;
    uint64_t used = 0;  // the chains that were looked for before it was
    cudaGraphExec_t graph = nullptr;
  };

  // The chain of that kind, in place of the one that has not run for longest where there are many.
  Chain& find(const Kind& kind);
  void begin(cudaStream_t stream);
  void end(cudaStream_t stream, const Status& put, Chain& chain);

  std::vector<Chain> chains_;
  uint64_t finds_ = 0;
  bool is_refused_ = false;
};

}  // namespace ring::cuda
