// RAM of the device's that experts are copied from, pinned for as long as the backend is open: the
// GPU then fetches from it by itself, at the rate of the link. What cannot be pinned is copied all
// the same, by way of the driver's own memory. May be used from any thread.
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

 private:
  std::mutex mutex_;
  std::vector<void*> ranges_;
};

}  // namespace ring::cuda
