// Streams and events of the emulation, as its own parts see them.
#pragma once
#include <chrono>
#include <deque>
#include <functional>

#include "cuda.h"

namespace emulated {

struct Stream {
  struct Work {
    std::function<void()> run;
    std::chrono::steady_clock::time_point due;
  };
  std::deque<Work> waiting;
  uint64_t taken = 0, done = 0;
};

struct Event {
  Stream* stream = nullptr;
  uint64_t number = 0;  // of the stream's works, those that come before it
};

void enqueue(Stream* stream, std::function<void()> run);
void set_last_error(cudaError_t error);

}  // namespace emulated
