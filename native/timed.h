// Adds the time a scope took to a counter of seconds.
#pragma once
#include <chrono>

namespace ring {

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
