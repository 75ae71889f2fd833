// Slots of one size in RAM, each of which holds one expert as it lies in the checkpoint: its three
// matrices, widened to the drive's blocks, at whatever byte they begin. Slots obey orders and tell
// what became of them; which expert goes where is decided above. A slot is cold until its memory
// has been touched, then free, loading or ready. All calls come from the device's thread; the bytes
// of a loading slot are written by the reader, those of a ready one by nobody.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "io/reader.h"
#include "memory/slab.h"
#include "model.h"

namespace ring {

// Where one matrix of an expert lies in the checkpoint.
struct Extent {
  int32_t file = -1;
  uint64_t offset = 0, bytes = 0;
  const uint32_t* checksums = nullptr;
};

struct ExpertExtents {
  Extent of[expert_tensor::count];
};

class Slots {
 public:
  ~Slots();

  // Reserves the memory and begins to touch it. `model`, `extents` and `reader` outlive the slots.
  Status open(int32_t count, const Model& model, const std::vector<ExpertExtents>& extents,
              io::Reader* reader);

  // Ends the touching, which uses the reader. The reader must be gone before the slots are.
  void stop();

  int32_t count() const { return static_cast<int32_t>(slots_.size()); }
  // The expert's weights when it lies ready in a slot, else null.
  const Mlp* find(int32_t expert) const;
  bool is_ready(int32_t slot, int32_t expert) const;
  bool is_loading(int32_t slot, int32_t expert) const;
  // Whether the expert lies in a slot or is being read into one.
  bool holds(int32_t expert) const { return slot_of_[expert] >= 0; }
  // Whether any of so many experts is being read as look-ahead.
  bool is_any_ahead(int32_t first, int32_t count) const;
  // Slots that are being read for somebody who waits.
  int32_t demanded() const { return demanded_; }

  // Orders [n][order_field::count]; all are checked before any is obeyed.
  Status stage(const int32_t* orders, size_t count);
  // Takes in what the reader has finished and the toucher has touched.
  void settle();
  // Until something can be settled or the time is over.
  void wait(int wait_ms);
  // Events since the last call, [n][event_field::count].
  int32_t take_events(int32_t* events, int32_t capacity);
  bool has_events() const { return !events_.empty(); }
  // Why the last read of this expert failed.
  const Status& failure_of(int32_t expert) const;
  int32_t touched() const { return touched_; }
  int32_t locked() const;

 private:
  enum class State : uint8_t { cold, free, loading, ready };
  struct Slot {
    State state = State::cold;
    bool is_ahead = false;
    int32_t expert = -1;
    uint8_t* data = nullptr;
    Mlp weights;
  };
  struct Event {
    EventKind kind;
    int32_t expert, slot;
    Code code;
  };

  Status check(const int32_t* orders, size_t count);
  void load(int32_t slot, int32_t expert, bool is_ahead);
  void land(const io::Arrival& arrival);

  const Model* model_ = nullptr;
  const std::vector<ExpertExtents>* extents_ = nullptr;
  io::Reader* reader_ = nullptr;
  uint64_t slot_bytes_ = 0;
  int32_t slots_per_slab_ = 1;
  std::vector<Slab> slabs_;
  Toucher toucher_;
  int32_t touched_ = 0;
  int32_t demanded_ = 0;
  std::vector<Slot> slots_;
  std::vector<int32_t> slot_of_;  // [expert] slot that holds or loads it, or -1
  std::vector<Event> events_;
  Status last_failure_;
  int32_t last_failed_expert_ = -1;
  // Scratch of check: what the orders before this one would do.
  std::vector<int32_t> planned_slot_, planned_expert_;
};

// Bytes of a slot that holds any of these experts.
uint64_t slot_bytes(const std::vector<ExpertExtents>& extents);

}  // namespace ring
