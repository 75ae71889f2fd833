// Reading memory: every whole line once, whatever the distance at which lines are fetched.
#include "cpu/bandwidth.h"

#include <cstring>
#include <vector>

#include "harness.h"

using namespace ring;
using namespace ring::test;

namespace {

// Words of one bit each, so that a line left out or read twice shows in the sum.
std::vector<uint64_t> numbered(size_t words) {
  std::vector<uint64_t> values(words + 8);
  for (size_t i = 0; i < words; ++i) values[i] = uint64_t{1} << (i % 61);
  return values;
}

}  // namespace

RING_CASE(bandwidth_reads_all, "reading alone reads every whole line once") {
  constexpr size_t kWords = 1024;
  const std::vector<uint64_t> values = numbered(kWords + 8);
  const auto* bytes = reinterpret_cast<const uint8_t*>(values.data());
  const size_t skipped = (64 - (reinterpret_cast<uintptr_t>(bytes) & 63)) & 63;
  uint64_t even = 0, odd = 0;
  for (size_t i = 0; i < kWords; ++i) (i % 2 == 0 ? even : odd) += values[skipped / 8 + i];
  for (const int ahead : {0, 16, 64}) {
    const uint64_t sum = cpu::read_only(bytes + skipped, kWords * 8 + 63, ahead);
    require(sum == (even ^ odd), "with lines fetched %d ahead another sum came out", ahead);
  }
  require(cpu::read_only(bytes, 63, 0) == 0, "of less than a line nothing is read");
}
