// Processor time of the calling thread.
#pragma once
#include <time.h>

#include <cstdint>

namespace ring::io {

inline uint64_t thread_cpu_ns() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(time.tv_nsec);
}

}  // namespace ring::io
