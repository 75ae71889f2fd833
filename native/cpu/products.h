// How fast this machine's threads multiply with FP8 weights, by the very kernels that models are
// computed with, on routed experts that lie in memory: what bounds steps of one token and of many.
// Rates are bytes of weights per second, each multiplied with so many tokens; a byte is a product
// of each of them.
#pragma once
#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "../backend.h"
#include "../status.h"

namespace ring::cpu {

// By all `threads` (0: as many as the backend takes), for each of `tokens` the median of some
// rounds of at most `seconds` together, and a round before them; 0 in place of every rate where the
// instruction set has no such products. Takes 300 MB meanwhile.
Status measure_products(int threads, Math math, double seconds, const std::vector<int>& tokens,
                        std::vector<double>* bytes_per_second);

// One token after the other, F32-accurate, on threads of its own, until it is stopped: what
// something else is measured beside.
class Multiplying {
 public:
  Multiplying();
  ~Multiplying();
  // Returns once the first round is over.
  Status start(int threads);
  // Mean since start() returned.
  Status stop(double* bytes_per_second);

 private:
  struct Running;
  std::unique_ptr<Running> running_;
};

}  // namespace ring::cpu
