// A drive on which things go wrong where somebody said they should: for tests of everything above
// it. A slow chunk is held back while others pass it.
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <unordered_map>

#include "drive.h"

namespace ring::io {
namespace {

using Clock = std::chrono::steady_clock;

class FaultyDrive : public Drive {
 public:
  FaultyDrive(std::unique_ptr<Drive> under, std::vector<Fault> faults)
      : under_(std::move(under)), faults_(std::move(faults)) {}

  int depth() const override { return under_->depth(); }

  void submit(const Chunk& chunk) override {
    if (Fault* fault = fault_of(chunk)) meets_[chunk.tag] = {*fault, chunk};
    under_->submit(chunk);
  }

  void lend(const Region& region) override { under_->lend(region); }

  int reap(Landed* landed, int capacity, int wait_ms) override {
    int count = release(landed, capacity);
    if (count == capacity) return count;
    const int wait = count > 0 ? 0 : shorter(wait_ms);
    const int found = under_->reap(landed + count, capacity - count, wait);
    const Landed* from = landed + count;
    for (int i = 0; i < found; ++i) {
      Landed one = from[i];
      const auto met = meets_.find(one.tag);
      bool is_late = false;
      if (met != meets_.end()) {
        spoil(met->second, one);
        is_late = met->second.fault.kind == FaultKind::slow;
        if (is_late) late_.push_back({Clock::now() + delay_of(met->second.fault), one});
        meets_.erase(met);
      }
      if (!is_late) landed[count++] = one;
    }
    return count;
  }

  void wake() override { under_->wake(); }
  uint64_t cpu_ns() const override { return under_->cpu_ns(); }
  std::string describe() const override { return under_->describe() + ", with faults"; }

 private:
  struct Meeting {
    Fault fault;
    Chunk chunk;
  };
  struct Late {
    Clock::time_point at;
    Landed landed;
  };

  Fault* fault_of(const Chunk& chunk) {
    for (Fault& fault : faults_) {
      const bool touches = chunk.file == fault.file && chunk.offset < fault.offset + fault.bytes &&
                           fault.offset < chunk.offset + chunk.bytes;
      if (!touches || fault.times == 0) continue;
      if (fault.times > 0) --fault.times;
      return &fault;
    }
    return nullptr;
  }

  static void spoil(const Meeting& met, Landed& landed) {
    const uint64_t at = met.fault.offset, from = met.chunk.offset;
    switch (met.fault.kind) {
      case FaultKind::error:
        landed.result = -EIO;
        break;
      case FaultKind::gone:
        landed.result = -ENOENT;
        break;
      case FaultKind::short_read:
        if (landed.result <= 0) break;
        landed.result /= 2;
        // What did not come must not be there all the same.
        memset(met.chunk.target + landed.result, 0xEE, static_cast<size_t>(landed.result));
        break;
      case FaultKind::flip:
        // The first byte of the fault that lies in this chunk.
        met.chunk.target[at > from ? at - from : 0] ^= 1;
        break;
      case FaultKind::slow:
        break;
    }
  }

  static Clock::duration delay_of(const Fault& fault) {
    return std::chrono::duration_cast<Clock::duration>(
        std::chrono::duration<double>(fault.delay_seconds));
  }

  // Chunks whose delay is over.
  int release(Landed* landed, int capacity) {
    const auto now = Clock::now();
    int count = 0;
    std::erase_if(late_, [&](const Late& late) {
      if (count == capacity || late.at > now) return false;
      landed[count++] = late.landed;
      return true;
    });
    return count;
  }

  // The wait, ended by the first delay that ends.
  int shorter(int wait_ms) const {
    for (const Late& late : late_) {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(late.at - Clock::now());
      const int ms = static_cast<int>(std::max<int64_t>(0, left.count()));
      if (wait_ms < 0 || ms < wait_ms) wait_ms = ms;
    }
    return wait_ms;
  }

  std::unique_ptr<Drive> under_;
  std::vector<Fault> faults_;
  std::unordered_map<uint64_t, Meeting> meets_;  // under way, by tag
  std::vector<Late> late_;
};

}  // namespace

std::unique_ptr<Drive> make_faulty_drive(std::unique_ptr<Drive> under, std::vector<Fault> faults) {
  return std::make_unique<FaultyDrive>(std::move(under), std::move(faults));
}

}  // namespace ring::io
