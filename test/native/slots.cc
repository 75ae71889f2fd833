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

constexpr auto kDemand = Urgency::demand, kAhead = Urgency::ahead, kCancel = Urgency::cancel;

int32_t kind_of(const std::vector<int32_t>& event) { return event[event_field::kind]; }

int32_t place_of(Tier tier, int32_t slot) {
  return static_cast<int32_t>(tier) << limit::slot_bits | slot;
}

// Slots over a model of known bytes, and all that they stand on.
class Over {
 public:
  // `wrap` may put something between the reader and the drive.
  Over(int32_t slots, int32_t rooms, const char* delay_us,
       const std::function<std::unique_ptr<io::Drive>(std::unique_ptr<io::Drive>)>& wrap = {},
       int32_t below = 0) {
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
    require_ok(
        slots_.open_over(backend_, compute_, slots, rooms, below, model_, extents_, reader_.get()));
    require_ok(slots_.settle());
    // All slots may be used at once.
    std::vector<int32_t> touched(static_cast<size_t>(slots) * event_field::count);
    require(slots_.take_events(touched.data(), slots) == slots && slots_.touched() == slots,
            "not all slots may be used");
    for (int32_t heard = 0; heard < below; ++heard)
      require(kind_of(next()) == static_cast<int32_t>(EventKind::touched),
              "told of something else");
  }
  // As the device ends: what touches memory, copies, reads, and then the memory.
  ~Over() {
    slots_.stop();
    if (compute_ != nullptr) backend_->close(compute_);
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

  // An order for the tier below, or from there; `from` -1: the drive.
  Status order_between(int32_t expert, int32_t from, int32_t to, Urgency urgency) {
    const int32_t order[order_field::count] = {expert, from, to, static_cast<int32_t>(urgency)};
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

  // What lies in a slot below is what the checkpoint holds of the expert.
  void require_bytes_below(int32_t expert) {
    const ReadyExpert found = slots_.below()->find(expert, expert);
    require(found.weights != nullptr && found.slot == -1, "expert %d is not below", expert);
    const Matrix* matrices[] = {&found.weights->gate, &found.weights->up, &found.weights->down};
    for (int matrix = 0; matrix < expert_tensor::count; ++matrix) {
      for (uint64_t i = 0; i < kMatrixBytes; ++i)
        require(matrices[matrix]->data[i] == byte_at(offset_of(expert, matrix) + i, 0),
                "expert %d differs below at byte %llu of matrix %d", expert,
                static_cast<unsigned long long>(i), matrix);
    }
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

RING_CASE(slots_over_below, "slots over RAM and a backend hold the right bytes after any orders") {
  constexpr int32_t kTiers = 2, kAbove = 1;
  constexpr Tier kTierOf[kTiers] = {Tier::ram, Tier::gpu};
  struct Slot {
    int32_t expert = -1, source = -1;
    bool is_loading = false, is_ahead = false, is_cancelled = false;
  };
  Over over(6, 2, "300", {}, 7);
  std::mt19937 dice(17);
  const auto below = [&](size_t most) { return static_cast<int32_t>(dice() % most); };
  std::vector<Slot> tiers[kTiers] = {std::vector<Slot>(7), std::vector<Slot>(6)};
  int loads = 0, reads = 0, copies = 0, refusals = 0;
  const auto slot_of = [&](int tier, int32_t expert) {
    for (Slot& slot : tiers[tier])
      if (slot.expert == expert) return &slot;
    return static_cast<Slot*>(nullptr);
  };
  const auto index_of = [&](int tier, const Slot& slot) {
    return static_cast<int32_t>(&slot - tiers[tier].data());
  };
  const auto is_lent = [&](int32_t at) {
    return std::any_of(tiers[kAbove].begin(), tiers[kAbove].end(),
                       [at](const Slot& slot) { return slot.is_loading && slot.source == at; });
  };
  const auto hear = [&] {
    const std::vector<int32_t> event = over.next();
    const int tier = event[event_field::to] >> limit::slot_bits == static_cast<int32_t>(Tier::gpu);
    Slot& slot = tiers[tier][event[event_field::to] & ((1 << limit::slot_bits) - 1)];
    require(slot.is_loading && slot.expert == event[event_field::expert], "told of %d",
            event[event_field::expert]);
    slot.is_loading = false;
    if (kind_of(event) == static_cast<int32_t>(EventKind::arrived)) {
      ++(tier == kAbove ? copies : reads);
      if (tier == kAbove)
        over.require_bytes_of(slot.expert, index_of(tier, slot));
      else
        over.require_bytes_below(slot.expert);
    } else {
      require(slot.is_cancelled, "expert %d did not arrive", slot.expert);
      slot.expert = -1;
    }
  };
  for (int round = 0; round < 1500; ++round) {
    while (over->has_events()) hear();
    const int tier = below(kTiers);
    Slot& slot = tiers[tier][static_cast<size_t>(below(tiers[tier].size()))];
    const int32_t at = index_of(tier, slot), expert = below(kExperts);
    const Slot* source = slot_of(0, expert);
    const Slot* above = slot_of(kAbove, expert);
    const bool is_ahead = below(2) == 0;
    if (slot.is_loading && slot.is_ahead && !slot.is_cancelled && below(3) == 0) {
      const bool cancels = below(2) == 0;
      require_ok(over.order_between(slot.expert, -1, place_of(kTierOf[tier], at),
                                    cancels ? kCancel : kDemand));
      slot.is_ahead = cancels;
      slot.is_cancelled = cancels;
      // What was to be copied from it comes to nothing too.
      for (Slot& other : tiers[kAbove])
        if (cancels && tier != kAbove && other.is_loading && other.source == at)
          other.is_cancelled = true;
    } else if (slot.is_loading) {
      if (below(2) == 0) hear();
    } else if (tier != kAbove && is_lent(at)) {
      if (source != nullptr || above != nullptr) continue;
      require(
          over.order_between(expert, -1, place_of(Tier::ram, at), kDemand).code == Code::bad_order,
          "what is copied from was given up");
      ++refusals;
    } else if (tier != kAbove && source == nullptr && (above == nullptr || !above->is_loading)) {
      require_ok(
          over.order_between(expert, -1, place_of(Tier::ram, at), is_ahead ? kAhead : kDemand));
      slot = {expert, -1, true, is_ahead, false};
      ++loads;
    } else if (tier == kAbove && above == nullptr && (source == nullptr || !source->is_cancelled)) {
      const int32_t from = source == nullptr ? -1 : index_of(0, *source);
      require_ok(over.order_between(expert, from < 0 ? -1 : place_of(Tier::ram, from),
                                    place_of(Tier::gpu, at), is_ahead ? kAhead : kDemand));
      slot = {expert, from, true, is_ahead, false};
      ++loads;
    }
  }
  for (const std::vector<Slot>& slots : tiers)
    while (std::any_of(slots.begin(), slots.end(), [](const Slot& s) { return s.is_loading; }))
      hear();
  require(reads > 100 && copies > 100 && refusals > 10, "%d reads, %d copies, %d refusals of %d",
          reads, copies, refusals, loads);
  require(over->demanded() == 0 && !over->awaits_reads() && !over->awaits_copies_only(),
          "something is still awaited");
  require(over->bytes_copied() == static_cast<uint64_t>(copies) * 3 * kMatrixBytes,
          "%llu bytes were copied", static_cast<unsigned long long>(over->bytes_copied()));
}

RING_CASE(slots_over_below_fault, "slots over RAM: a read that fails fails the copy behind it") {
  const auto faulty = [](std::unique_ptr<io::Drive> under) {
    io::Fault fault;
    fault.kind = FaultKind::error;
    fault.offset = offset_of(5, 1) + 100;
    fault.bytes = 1;
    fault.times = -1;
    return io::make_faulty_drive(std::move(under), {fault});
  };
  Over over(2, 1, "0", faulty, 2);
  const int32_t ram = place_of(Tier::ram, 1), gpu = place_of(Tier::gpu, 0);
  for (int round = 0; round < 3; ++round) {
    for (const int32_t expert : {5, 6}) {
      const EventKind kind = expert == 5 ? EventKind::failed : EventKind::arrived;
      const int32_t orders[] = {expert, -1, ram, 0, expert, ram, gpu, 0};
      require_ok(over->stage(orders, 2));
      for (const int32_t place : {ram, gpu}) {
        const std::vector<int32_t> event = over.next();
        require(event[event_field::to] == place && kind_of(event) == static_cast<int32_t>(kind),
                "expert %d: kind %d of place %d", expert, kind_of(event), event[event_field::to]);
      }
    }
    require(over->failure_of(5).code == Code::cannot_read, "said: %s", over->failure_of(5).text);
    over.require_bytes_of(6, 0);
  }
}

RING_CASE(slots_over_below_orders, "slots over RAM refuse to copy what does not lie there") {
  Over over(2, 1, "0", {}, 2);
  const int32_t ram = place_of(Tier::ram, 0), gpu = place_of(Tier::gpu, 0);
  const auto refused = [&](std::vector<int32_t> orders) {
    require(over->stage(orders.data(), orders.size() / order_field::count).code == Code::bad_order,
            "it was obeyed");
  };
  refused({3, ram, gpu, 0});
  refused({3, ram, gpu, 0, 3, -1, ram, 0});
  refused({3, -1, ram, 0, 4, ram, gpu, 0});
  refused({3, -1, ram, 0, 3, ram, gpu, 0, 4, -1, ram, 0});
  refused({3, -1, gpu, 0, 3, -1, ram, 0});
  refused({3, -1, ram, 0, 3, -1, gpu, 0});
  refused({3, gpu, ram, 0});
  refused({3, place_of(Tier::ram, 2), gpu, 0});
  require_ok(over.order_between(3, -1, ram, kDemand));
  require(kind_of(over.next()) == static_cast<int32_t>(EventKind::arrived), "it did not arrive");
  refused({4, ram, gpu, 0});
  require_ok(over.order_between(3, ram, gpu, kDemand));
  require(kind_of(over.next()) == static_cast<int32_t>(EventKind::arrived), "it did not arrive");
  over.require_bytes_of(3, 0);
}

RING_CASE(slots_over_pinned, "slots over RAM lend it to the backend, which need not take it") {
  for (const bool pins : {true, false}) {
    set_environment("RING_DELAY_PINS_NOTHING", pins ? nullptr : "1");
    Over over(2, 1, "0", {}, 3);
    // Two pieces of memory, each of whole huge pages: for the room, and for the slots below.
    const auto is_lent = [&] { return over->bytes_pinned() == 2 * uint64_t{2 << 20}; };
    for (int patience = 2'000; patience > 0 && pins && !is_lent(); --patience) over->wait(1);
    require(pins ? is_lent() : over->bytes_pinned() == 0, "%llu bytes are pinned",
            static_cast<unsigned long long>(over->bytes_pinned()));
    require(delayed_lent(over.compute()) == over->bytes_pinned(), "others were lent");
    require_ok(over.order_between(3, -1, place_of(Tier::ram, 0), kDemand));
    require_ok(over.order_between(3, place_of(Tier::ram, 0), place_of(Tier::gpu, 0), kDemand));
    over.next();
    over.next();
    over.require_bytes_of(3, 0);
  }
  set_environment("RING_DELAY_PINS_NOTHING", nullptr);
}

RING_CASE(slots_over_tier, "slots over a backend take no orders for slots in RAM") {
  Over over(2, 1, "0");
  const int32_t order[order_field::count] = {
      0, -1, static_cast<int32_t>(Tier::ram) << limit::slot_bits, 0};
  require(over->stage(order, 1).code == Code::bad_order, "it was obeyed");
}
