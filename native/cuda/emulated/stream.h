// Streams and events of the emulation, as its own parts see them.
#pragma once
#include <chrono>
#include <deque>
#include <functional>
#include <vector>

#include "cuda.h"

namespace emulated {

// Works that a stream has been given while it was recorded.
struct Graph {
  std::vector<std::function<void()>> works;
};

struct Stream {
  struct Work {
    std::function<void()> run;
    std::chrono::steady_clock::time_point due;
  };
  std::deque<Work> waiting;
  uint64_t taken = 0, done = 0;
  Graph* recording = nullptr;
};

struct Event {
  Stream* stream = nullptr;
  uint64_t number = 0;  // of the stream's works, those that come before it
};

void enqueue(Stream* stream, std::function<void()> run);
// While this thread records a stream, the error of a call that CUDA does not allow then; the
// recording is worth nothing any more. Else success.
cudaError_t refuse_while_recording();
// As that, while any thread records one; and what any thread records until `end_pinning` is worth
// nothing.
cudaError_t begin_pinning();
void end_pinning();
void count_kernel(const Stream* stream);
void count_wait();
void set_last_error(cudaError_t error);

}  // namespace emulated
