// A drive on which things go wrong where somebody said they should: for tests of everything above
// it.
#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>
#include <unordered_map>

#include "drive.h"

namespace ring::io {
namespace {

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
    const int count = under_->reap(landed, capacity, wait_ms);
    for (int i = 0; i < count; ++i) {
      const auto met = meets_.find(landed[i].tag);
      if (met == meets_.end()) continue;
      spoil(met->second.fault, met->second.chunk, landed[i]);
      meets_.erase(met);
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

  static void spoil(const Fault& fault, const Chunk& chunk, Landed& landed) {
    switch (fault.kind) {
      case FaultKind::error:
        landed.result = -EIO;
        break;
      case FaultKind::gone:
        landed.result = -ENOENT;
        break;
      case FaultKind::short_read:
        if (landed.result > 0) landed.result /= 2;
        break;
      case FaultKind::slow:
        std::this_thread::sleep_for(std::chrono::duration<double>(fault.delay_seconds));
        break;
      case FaultKind::flip:
        // The first byte of the fault that lies in this chunk.
        chunk.target[fault.offset > chunk.offset ? fault.offset - chunk.offset : 0] ^= 1;
        break;
    }
  }

  std::unique_ptr<Drive> under_;
  std::vector<Fault> faults_;
  std::unordered_map<uint64_t, Meeting> meets_;
};

}  // namespace

std::unique_ptr<Drive> make_faulty_drive(std::unique_ptr<Drive> under, std::vector<Fault> faults) {
  return std::make_unique<FaultyDrive>(std::move(under), std::move(faults));
}

}  // namespace ring::io
