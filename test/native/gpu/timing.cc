// See timing.h.
#include "timing.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "door.h"

namespace ring::gpu {
namespace {

using test::require_gpu;
using test::test_stream;

constexpr double kTrySeconds = 10e-3;
constexpr int kLaunchesMost = 2000;  // of one recording

}  // namespace

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::vector<double> seconds_of_calls(const Effort& effort, int calls,
                                     const std::function<void()>& call) {
  std::vector<double> seconds;
  for (int attempt = -1; attempt < effort.tries(); ++attempt) {
    const double start = now();
    for (int i = 0; i < calls; ++i) call();
    // The first only warms up.
    if (attempt >= 0) seconds.push_back((now() - start) / calls);
  }
  return seconds;
}

std::vector<double> seconds_of(const Effort& effort, int turns, const Launch& launch) {
  const cuda::Measure& m = *door().measure;
  const cudaStream_t stream = test_stream();
  const auto launch_all = [&](int count) {
    for (int turn = 0; turn < count; ++turn) launch(stream, turn);
  };
  // Once for what is loaded late, which must not happen while a recording is made; once for the
  // time.
  launch_all(turns);
  require_gpu(m.wait(stream));
  int count = turns;
  if (!effort.is_tiny) {
    const double start = now();
    launch_all(turns);
    require_gpu(m.wait(stream));
    const double each = (now() - start) / turns;
    count = static_cast<int>(std::clamp(kTrySeconds / each, 1.0, double{kLaunchesMost}));
    count = (count + turns - 1) / turns * turns;
  }
  void* recording = nullptr;
  require_gpu(m.record(stream));
  launch_all(count);
  require_gpu(m.keep(stream, &recording));
  const std::vector<double> seconds = seconds_of_calls(effort, 1, [&] {
    require_gpu(m.replay(recording, stream));
    require_gpu(m.wait(stream));
  });
  require_gpu(m.forget(recording));
  std::vector<double> of_one;
  for (const double all : seconds) of_one.push_back(all / count);
  return of_one;
}

}  // namespace ring::gpu
