// See bandwidth.h.
#include "bandwidth.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "../memory/slab.h"
#include "../timed.h"
#include "pool.h"
#include "topology.h"

namespace ring::cpu {
namespace {

typedef uint64_t Pair __attribute__((vector_size(16)));

constexpr uint64_t kSlabBytes = uint64_t{512} << 20;
constexpr uint64_t kPieceBytes = uint64_t{1} << 20;
constexpr int kRounds = 3;

}  // namespace

uint64_t read_only(const uint8_t* data, size_t bytes, int ahead) {
  const auto* line =
      reinterpret_cast<const Pair*>((reinterpret_cast<uintptr_t>(data) + 63) & ~63ull);
  const size_t lines = bytes < 64 ? 0 : (bytes - 63) / 64;
  Pair a = {}, b = {}, c = {}, d = {};
  for (size_t i = 0; i < lines; ++i, line += 4) {
    if (ahead > 0) __builtin_prefetch(line + 4 * ahead);
    a += line[0];
    b += line[1];
    c += line[2];
    d += line[3];
  }
  const Pair all = a + b + c + d;
  return all[0] ^ all[1];
}

Status measure_memory(int threads, double* bytes_per_second) {
  Slab slab;
  RING_TRY(slab.reserve(kSlabBytes));
  const std::atomic<bool> never{false};
  slab.touch(0, slab.bytes(), never);
  Pool pool(threads > 0 ? threads : usable_cores());
  std::atomic<uint64_t> sink{0};
  double best = 0;
  for (const int ahead : {0, 16, 64}) {
    std::vector<double> seconds;
    for (int round = -1; round < kRounds; ++round) {
      const double begin = now();
      pool.run(static_cast<int>(kSlabBytes / kPieceBytes), [&](int piece, int) {
        const uint64_t sum = read_only(slab.data() + piece * kPieceBytes, kPieceBytes, ahead);
        sink.fetch_add(sum, std::memory_order_relaxed);
      });
      if (round >= 0) seconds.push_back(now() - begin);
    }
    std::sort(seconds.begin(), seconds.end());
    best = std::max(best, static_cast<double>(kSlabBytes) / seconds[kRounds / 2]);
  }
  *bytes_per_second = best;
  return {};
}

}  // namespace ring::cpu
