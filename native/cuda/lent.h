// RAM of the device's that experts are copied from, pinned for as long as the backend is open: the
// GPU then fetches from it by itself, at the rate of the link. What cannot be pinned is copied all
// the same, by way of the driver's own memory. May be used from any thread.
//
// While a stream is recorded nothing is pinned, and the other way round: CUDA refuses to pin during
// a recording of the usual kind, which is then worth nothing, and promises little of the others.
// Who pins waits for the recording, which takes milliseconds; who would record, and a step waits
// for that, does without this time.
#pragma once
#include <mutex>
#include <vector>

#include "gpu.h"

namespace ring::cuda {

class Lent {
 public:
  Lent() = default;
  ~Lent();
  Lent(const Lent&) = delete;
  Lent& operator=(const Lent&) = delete;

  Status add(const uint8_t* data, uint64_t bytes);
  // Held while something is pinned, and while a stream is recorded.
  std::mutex& pinning() { return mutex_; }

 private:
  std::mutex mutex_;
  std::vector<void*> ranges_;
};

}  // namespace ring::cuda
