// Figures of a device where other threads can see them, after every step: what its reader and its
// slots have counted, and what the backend's memory has left. It changes nothing else.
#include "device.h"
#include "timed.h"

namespace ring {
namespace {

constexpr double kMemoryEverySeconds = 1;

}  // namespace

// What the reader has counted, where others can see it.
void Device::publish_reader() {
  if (reader_ == nullptr) return;
  const io::ReaderCounters& c = reader_->counters();
  const auto set = [this](int32_t counter, double value) { counters_[counter] = value; };
  set(counter::bytes_wanted, static_cast<double>(c.bytes_wanted.load()));
  set(counter::bytes_landed, static_cast<double>(c.bytes_landed.load()));
  set(counter::bytes_ahead, static_cast<double>(c.bytes_ahead.load()));
  set(counter::bytes_cancelled, static_cast<double>(c.bytes_cancelled.load()));
  set(counter::drive_busy_s, static_cast<double>(c.busy_ns.load()) * 1e-9);
  set(counter::drive_depth_s, static_cast<double>(c.depth_ns.load()) * 1e-9);
  set(counter::reader_cpu_s, static_cast<double>(c.cpu_ns.load()) * 1e-9);
  set(counter::checksum_s, static_cast<double>(c.checksum_ns.load()) * 1e-9);
  set(counter::retries, static_cast<double>(c.retries.load()));
  set(counter::failures, static_cast<double>(c.failures.load()));
  set(counter::mismatches, static_cast<double>(c.mismatches.load()));
  set(counter::slots_touched, slots_->touched());
  set(counter::slots_locked, slots_->locked());
  set(counter::bytes_copied, static_cast<double>(slots_->bytes_copied()));
  set(counter::copy_busy_s, static_cast<double>(slots_->copy_busy_ns()) * 1e-9);
  set(counter::bytes_pinned, static_cast<double>(slots_->bytes_pinned()));
  set(counter::pin_s, static_cast<double>(slots_->pin_ns()) * 1e-9);
  set(counter::bytes_lent, static_cast<double>(slots_->bytes_lent()));
}

// What the backend's memory has left, for whoever watches it; asking takes its time.
void Device::publish_memory() {
  if (backend_->free_memory == nullptr) return;
  if (memory_asked_s_ != 0 && now() - memory_asked_s_ < kMemoryEverySeconds) return;
  memory_asked_s_ = now();
  uint64_t bytes = 0;
  if (backend_->free_memory(compute_, &bytes).failed()) return;  // whoever computes next says why
  counters_[counter::gpu_free_bytes] = static_cast<double>(bytes);
}

}  // namespace ring
