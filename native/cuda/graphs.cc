// See graphs.h.
#include "graphs.h"

#include <algorithm>

namespace ring::cuda {
namespace {

// Sequences that grow leave their kinds behind, and a graph takes memory of the GPU.
constexpr size_t kChainsMost = 24;

}  // namespace

Graphs::~Graphs() {
  for (const Chain& chain : chains_) {
    if (chain.graph != nullptr) cudaGraphExecDestroy(chain.graph);
  }
}

Graphs::Chain& Graphs::find(const Kind& kind) {
  ++finds_;
  auto found = std::find_if(chains_.begin(), chains_.end(),
                            [&](const Chain& chain) { return chain.kind == kind; });
  if (found == chains_.end() && chains_.size() < kChainsMost) {
    chains_.push_back({kind});
    found = chains_.end() - 1;
  } else if (found == chains_.end()) {
    found = std::min_element(chains_.begin(), chains_.end(),
                             [](const Chain& a, const Chain& b) { return a.used < b.used; });
    if (found->graph != nullptr) cudaGraphExecDestroy(found->graph);
    *found = {kind};
  }
  found->used = finds_;
  return *found;
}

// Other threads of the process may do what they like meanwhile.
void Graphs::begin(cudaStream_t stream) {
  is_refused_ = cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) != cudaSuccess;
}

void Graphs::end(cudaStream_t stream, const Status& put, Chain& chain) {
  cudaGraph_t graph = nullptr;
  const bool is_recorded = !is_refused_ && cudaStreamEndCapture(stream, &graph) == cudaSuccess;
  is_refused_ =
      !is_recorded || put.failed() || cudaGraphInstantiate(&chain.graph, graph, 0) != cudaSuccess;
  if (graph != nullptr) cudaGraphDestroy(graph);
  if (is_refused_) cudaGetLastError();  // else the next launch would report it
}

}  // namespace ring::cuda
