// How long work on the GPU takes: by the host's clock around many launches and one wait, since
// that needs nothing of the library. What is launched often is recorded first and then replayed, as
// a decode step would be, so that short kernels do not wait for the host. The few microseconds of a
// launch and a wait are in every figure, of ceilings too: a thousandth of what a try takes.
#pragma once
#include <functional>
#include <vector>

#include "cudas.h"

namespace ring::gpu {

double now();

// Gives work to the stream; `turn` rises, so that work may take its weights in turn.
using Launch = std::function<void(cudaStream_t stream, int turn)>;

// How much is measured. `tiny`: as little as shows that everything runs.
struct Effort {
  bool is_tiny = false;
  double ends_at = 0;  // of the section

  bool has_time() const { return now() < ends_at; }
  int tries() const { return is_tiny ? 2 : 11; }
};

// Seconds of one launch in each try; at least `turns` launches in a try.
std::vector<double> seconds_of(const Effort& effort, int turns, const Launch& launch);

// The same for what waits by itself, or must not be recorded: so many calls in a try.
std::vector<double> seconds_of_calls(const Effort& effort, int calls,
                                     const std::function<void()>& call);

}  // namespace ring::gpu
