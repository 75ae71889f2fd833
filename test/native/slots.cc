// Slots in the memory of a backend, which is the one with delays: every order ends in one event,
// the bytes of what has arrived are those of the checkpoint, and rooms on the way are never lost.
#include "slots.h"

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#include "delayed/delayed.h"
#include "drives.h"
#include "harness.h"

using namespace ring;
using namespace ring::test;

namespace {

constexpr int32_t kExperts = 24;
constexpr int32_t kRows = 20, kColumns = 333;
constexpr uint64_t kMatrixBytes = 2 * kRows * kColumns;  // BF16
constexpr uint64_t kStride = kMatrixBytes + 1001;        // so that each begins at another byte

uint64_t offset_of(int32_t expert, int matrix) {
  return 7 + (static_cast<uint64_t>(expert) * expert_tensor::count + matrix) * kStride;
}

void set_environment(const char* name, const char* value) {
  if (value == nullptr)
    unsetenv(name);
  else
    setenv(name, value, 1);
}

void require_ok(const Status& status) { require(!status.failed(), "%s", status.text); }

// Slots over a model of known bytes, and all that they stand on.
class Over {
 public:
  // `wrap` may put something between the reader and the drive.
  Over(int32_t slots, int32_t rooms, const char* delay_us,
       const std::function<std::unique_ptr<io::Drive>(std::unique_ptr<io::Drive>)>& wrap = {}) {
    model_.shape.layers = model_.shape.heads = model_.shape.kv_heads = model_.shape.head_dim = 1;
    model_.shape.hidden = kColumns;
    model_.shape.experts = kExperts;
    Mlp expert;
    for (Matrix* matrix : {&expert.gate, &expert.up, &expert.down}) {
      matrix->rows = kRows;
      matrix->columns = kColumns;
      matrix->dtype = Dtype::bf16;
    }
    model_.experts.assign(kExperts, expert);
    extents_.resize(kExperts);
    for (int32_t e = 0; e < kExperts; ++e) {
      for (int matrix = 0; matrix < expert_tensor::count; ++matrix)
        extents_[e].of[matrix] = {0, offset_of(e, matrix), kMatrixBytes, nullptr};
    }
    const uint64_t bytes = offset_of(kExperts, 0);
    const auto sources = one_file(folder_.write("file", bytes), bytes);
    std::unique_ptr<io::Drive> drive;
    require_ok(io::open_drive(sources, {Rung::threads, 4}, &drive));
    if (wrap) drive = wrap(std::move(drive));
    reader_ = std::make_unique<io::Reader>();
    require_ok(reader_->open(std::move(drive), sources, small_chunks()));
    Limits limits{};
    limits.kv_blocks = limits.kv_block_tokens = limits.threads = 1;
    limits.kv_dtype = Dtype::bf16;
    set_environment("RING_DELAY_US", delay_us);
    const Status opened = backend_->open(&model_, &limits, &compute_);
    set_environment("RING_DELAY_US", nullptr);
    require_ok(opened);
    require_ok(slots_.open_over(backend_, compute_, slots, rooms, model_, extents_, reader_.get()));
    require_ok(slots_.settle());
    // All slots may be used at once.
    std::vector<int32_t> touched(static_cast<size_t>(slots) * event_field::count);
    require(slots_.take_events(touched.data(), slots) == slots && slots_.touched() == slots,
            "not all slots may be used");
  }
  // As the device ends: copies, then reads, then their memory.
  ~Over() {
    if (compute_ != nullptr) backend_->close(compute_);
    slots_.stop();
    reader_.reset();
  }

  Slots* operator->() { return &slots_; }
  const Backend* backend() const { return backend_; }
  void* compute() const { return compute_; }

  Status order(int32_t expert, int32_t slot, Urgency urgency) {
    const int32_t order[order_field::count] = {
        expert, -1, static_cast<int32_t>(Tier::gpu) << limit::slot_bits | slot,
        static_cast<int32_t>(urgency)};
    return slots_.stage(order, 1);
  }

  // The next event, [event_field::count].
  std::vector<int32_t> next() {
    std::vector<int32_t> event(event_field::count);
    for (int patience = 20'000; patience > 0; --patience) {
      require_ok(slots_.settle());
      if (slots_.take_events(event.data(), 1) == 1) return event;
      slots_.wait(1);
    }
    require(false, "nothing has happened");
    return event;
  }

  // What the backend holds in a slot is what the checkpoint holds of the expert.
  void require_bytes_of(int32_t expert, int32_t slot) {
    const ReadyExpert found = slots_.find(expert, expert);
    require(found.weights != nullptr && found.slot == slot, "expert %d is in slot %d, found in %d",
            expert, slot, found.slot);
    require(found.weights->gate.data == nullptr, "expert %d has bytes in RAM", expert);
    for (int matrix = 0; matrix < expert_tensor::count; ++matrix) {
      const uint8_t* bytes = delayed_bytes(compute_, slot, matrix);
      for (uint64_t i = 0; i < kMatrixBytes; ++i)
        require(bytes[i] == byte_at(offset_of(expert, matrix) + i, 0),
                "slot %d differs from expert %d at byte %llu of matrix %d", slot, expert,
                static_cast<unsigned long long>(i), matrix);
    }
  }

 private:
  const Backend* backend_ = delayed_backend();
  Folder folder_;
  Model model_;
  std::vector<ExpertExtents> extents_;
  void* compute_ = nullptr;
  Slots slots_;
  std::unique_ptr<io::Reader> reader_;
};

constexpr auto kDemand = Urgency::demand, kAhead = Urgency::ahead, kCancel = Urgency::cancel;

int32_t kind_of(const std::vector<int32_t>& event) { return event[event_field::kind]; }

}  // namespace

RING_CASE(slots_over_random, "slots over a backend hold the right bytes after any orders") {
  constexpr int32_t kSlots = 9;
  struct Slot {
    int32_t expert = -1;
    bool is_loading = false, is_ahead = false, is_cancelled = false;
  };
  for (const int32_t rooms : {1, 2, 5}) {
    Over over(kSlots, rooms, "300");
    std::mt19937 dice(static_cast<unsigned>(rooms));
    const auto below = [&](int32_t most) { return static_cast<int32_t>(dice() % most); };
    std::vector<Slot> slots(kSlots);
    int loads = 0, arrivals = 0;
    const auto hear = [&] {
      const std::vector<int32_t> event = over.next();
      Slot& slot = slots[event[event_field::to] & ((1 << limit::slot_bits) - 1)];
      const auto at = static_cast<int32_t>(&slot - slots.data());
      require(slot.is_loading && slot.expert == event[event_field::expert],
              "slot %d was loading %d, told of %d", at, slot.expert, event[event_field::expert]);
      slot.is_loading = false;
      if (kind_of(event) == static_cast<int32_t>(EventKind::arrived)) {
        ++arrivals;
        over.require_bytes_of(slot.expert, at);
      } else {
        require(slot.is_cancelled, "expert %d did not arrive", slot.expert);
        slot.expert = -1;
      }
    };
    const auto is_held = [&](int32_t expert) {
      return std::any_of(slots.begin(), slots.end(),
                         [&](const Slot& slot) { return slot.expert == expert; });
    };
    for (int round = 0; round < 600; ++round) {
      while (over->has_events()) hear();
      const int32_t at = below(kSlots), expert = below(kExperts);
      Slot& slot = slots[at];
      if (!slot.is_loading && !is_held(expert)) {
        const bool is_ahead = below(2) == 0;
        require_ok(over.order(expert, at, is_ahead ? kAhead : kDemand));
        slot = {expert, true, is_ahead, false};
        ++loads;
      } else if (slot.is_loading && slot.is_ahead && !slot.is_cancelled) {
        const bool cancels = below(2) == 0;
        require_ok(over.order(slot.expert, at, cancels ? kCancel : kDemand));
        slot.is_ahead = cancels;
        slot.is_cancelled = cancels;
      } else if (slot.is_loading) {
        hear();
      }
    }
    while (std::any_of(slots.begin(), slots.end(), [](const Slot& s) { return s.is_loading; }))
      hear();
    require(loads > 100 && arrivals > loads / 3, "%d loads, %d arrivals", loads, arrivals);
    require(over->demanded() == 0 && !over->awaits_copies_only(), "something is still awaited");
    require(over->bytes_copied() == static_cast<uint64_t>(arrivals) * 3 * kMatrixBytes,
            "%llu bytes were copied", static_cast<unsigned long long>(over->bytes_copied()));
  }
}

RING_CASE(slots_over_demand, "slots over a backend: demand gets a room while look-ahead waits") {
  GatedDrive* gate = nullptr;
  Over over(4, 2, "0", [&](std::unique_ptr<io::Drive> under) {
    auto gated = std::make_unique<GatedDrive>(std::move(under), 16);
    gate = gated.get();
    return gated;
  });
  const auto begins = [&](int32_t expert) {
    const std::vector<io::Chunk> sent = gate->sent();
    return std::any_of(sent.begin(), sent.end(), [&](const io::Chunk& chunk) {
      return chunk.offset == offset_of(expert, 0) / io::kBlockBytes * io::kBlockBytes;
    });
  };
  const auto await = [&](int32_t expert) {
    for (int patience = 5'000; patience > 0 && !begins(expert); --patience) {
      require_ok(over->settle());
      over->wait(1);
    }
    require(begins(expert), "expert %d is not being read", expert);
  };
  for (const int32_t slot : {0, 1, 2}) require_ok(over.order(slot, slot, kAhead));
  await(0);
  require_ok(over.order(3, 3, kDemand));
  await(3);
  require(!begins(1) && !begins(2), "look-ahead has all rooms");
  require(over->demanded() == 1 && !over->awaits_copies_only(), "the demand is not awaited");
  // One that has no room yet is withdrawn at once.
  require_ok(over.order(2, 2, kCancel));
  require(kind_of(over.next()) == static_cast<int32_t>(EventKind::cancelled) && !over->holds(2),
          "it was not cancelled");
  gate->open();
  for (int i = 0; i < 3; ++i)
    require(kind_of(over.next()) == static_cast<int32_t>(EventKind::arrived), "it did not arrive");
}

RING_CASE(slots_over_fault, "slots over a backend: a read that fails gives slot and room back") {
  Over over(3, 1, "0", [](std::unique_ptr<io::Drive> under) {
    io::Fault fault;
    fault.kind = FaultKind::error;
    fault.offset = offset_of(5, 1) + 100;
    fault.bytes = 1;
    fault.times = -1;
    return io::make_faulty_drive(std::move(under), {fault});
  });
  for (int round = 0; round < 3; ++round) {
    require_ok(over.order(5, 1, kDemand));
    const std::vector<int32_t> failed = over.next();
    require(kind_of(failed) == static_cast<int32_t>(EventKind::failed), "it was read");
    require(over->failure_of(5).code == Code::cannot_read, "said: %s", over->failure_of(5).text);
    require(over.order(6, 1, kDemand).code == Code::ok, "the slot is not free");
    over.next();
    over.require_bytes_of(6, 1);
  }
}

RING_CASE(slots_over_lost, "slots over a backend that is lost fail, and go on failing") {
  set_environment("RING_DELAY_LOST_AT", "1");
  Over over(2, 1, "0");
  set_environment("RING_DELAY_LOST_AT", nullptr);
  require_ok(over.order(0, 0, kDemand));
  over.next();
  require(over.backend()->mix(over.compute(), 0, 0, nullptr, 0).code == Code::lost, "it is there");
  require_ok(over.order(1, 1, kDemand));
  for (int patience = 20'000; patience > 0 && !over->settle().failed(); --patience) over->wait(1);
  require(over->settle().code == Code::lost && over->trouble().code == Code::lost, "it is there");
}

RING_CASE(slots_over_tier, "slots over a backend take no orders for slots in RAM") {
  Over over(2, 1, "0");
  const int32_t order[order_field::count] = {
      0, -1, static_cast<int32_t>(Tier::ram) << limit::slot_bits, 0};
  require(over->stage(order, 1).code == Code::bad_order, "it was obeyed");
}
