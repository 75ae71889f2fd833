// What the clock says, and how long a scope took, both in seconds.
#pragma once
#include <chrono>

namespace ring {

inline double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Adds the time that a scope took to a counter.
class Timed {
 public:
  explicit Timed(double* seconds) : seconds_(seconds), begin_(Clock::now()) {}
  ~Timed() { *seconds_ += std::chrono::duration<double>(Clock::now() - begin_).count(); }
  Timed(const Timed&) = delete;
  Timed& operator=(const Timed&) = delete;

 private:
  using Clock = std::chrono::steady_clock;
  double* seconds_;
  Clock::time_point begin_;
};

}  // namespace ring
