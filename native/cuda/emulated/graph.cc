// Recorded streams and graphs of the emulation: works are kept instead of done, and done again and
// again later. One stream of a thread is recorded at a time, and joins with no other.
#include <atomic>
#include <mutex>

#include "cuda.h"
#include "stream.h"

namespace emulated {
namespace {

thread_local Stream* recorded = nullptr;
thread_local bool is_broken = false;
std::atomic<uint64_t> kernels{0}, graphs{0}, waits{0};

// Of all threads, while one of them records or pins.
std::mutex shared;
int recordings = 0, pinnings = 0;
bool is_spoilt = false;

}  // namespace

cudaError_t refuse_while_recording() {
  if (recorded == nullptr) return cudaSuccess;
  is_broken = true;
  set_last_error(cudaErrorStreamCaptureUnsupported);
  return cudaErrorStreamCaptureUnsupported;
}

cudaError_t begin_pinning() {
  const std::lock_guard lock(shared);
  is_spoilt = is_spoilt || recordings > 0;
  if (recordings > 0) return cudaErrorStreamCaptureUnsupported;
  ++pinnings;
  return cudaSuccess;
}

void end_pinning() {
  const std::lock_guard lock(shared);
  --pinnings;
}

void count_kernel(const Stream* stream) { kernels += stream->recording == nullptr ? 1 : 0; }
void count_wait() { ++waits; }
Counts counts() { return {kernels, graphs, waits}; }

}  // namespace emulated

using namespace emulated;

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (const cudaError_t refused = refuse_while_recording()) return refused;
  {
    const std::lock_guard lock(shared);
    is_spoilt = pinnings > 0 || (is_spoilt && recordings > 0);
    ++recordings;
  }
  recorded = stream;
  is_broken = false;
  stream->recording = new Graph;
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = nullptr;
  if (recorded != stream) return cudaErrorStreamCaptureUnmatched;
  Graph* const made = stream->recording;
  recorded = nullptr;
  stream->recording = nullptr;
  {
    const std::lock_guard lock(shared);
    --recordings;
    is_broken = is_broken || is_spoilt;
  }
  if (is_broken) {
    delete made;
    return cudaErrorStreamCaptureInvalidated;
  }
  *graph = made;
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* made, cudaGraph_t graph, unsigned long long) {
  if (const cudaError_t refused = refuse_while_recording()) return refused;
  *made = new Graph(*graph);
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
  if (const cudaError_t refused = refuse_while_recording()) return refused;
  ++graphs;
  for (const auto& work : graph->works) enqueue(stream, work);
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
  delete graph;
  return cudaSuccess;
}
