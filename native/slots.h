// Slots of one size, each of which holds one expert: in RAM as it lies in the checkpoint, its three
// matrices widened to the drive's blocks, at whatever byte they begin; or in the memory of a
// backend, filled from RAM (uploads.h): from slots of a tier below, or from rooms on the way
// (staging.h). Slots obey orders and tell what became of them; which expert goes where is decided
// above. A slot is cold until its memory may be used, then free, loading or ready. All calls come
// from the device's thread; the bytes of a loading slot are written by the reader or the backend,
// those of a ready one by nobody, and by nobody while a copy is made from them.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "backend.h"
#include "io/reader.h"
#include "model.h"
#include "slotmemory.h"
#include "staging.h"
#include "uploads.h"

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

  // Slots in RAM: reserves the memory and begins to touch it. `model`, `extents` and `reader`
  // outlive the slots.
  Status open(int32_t count, const Model& model, const std::vector<ExpertExtents>& extents,
              io::Reader* reader);
  // Slots in the memory of a backend that is open and outlives them, reached through so many rooms
  // in RAM; and `below` slots in RAM, from which they are filled as well; 0: none.
  Status open_over(const Backend* backend, void* compute, int32_t count, int32_t rooms,
                   int32_t below, const Model& model, const std::vector<ExpertExtents>& extents,
                   io::Reader* reader);

  // Ends the touching, which uses the reader. The reader must be gone before the slots are.
  void stop();

  int32_t count() const { return static_cast<int32_t>(slots_.size()); }
  Tier tier() const { return staging_ == nullptr ? Tier::ram : Tier::gpu; }
  bool is_there(int32_t expert) const;
  // An expert as a backend takes it, under `index`; without weights where it does not lie ready.
  ReadyExpert find(int32_t expert, int32_t index) const;
  bool is_ready(int32_t slot, int32_t expert) const;
  bool is_loading(int32_t slot, int32_t expert) const;
  // The ticket of the copy that is filling the slot, once the backend has been given it: from then
  // on the expert may be computed with, the backend waits for the copy by itself. 0: it has not.
  uint64_t coming(int32_t slot, int32_t expert) const {
    return uploads_ != nullptr && is_loading(slot, expert) ? uploads_->ticket_of(slot) : 0;
  }
  // An expert that is coming, as `find`.
  ReadyExpert find_coming(int32_t slot, int32_t index) const {
    return {index, &slots_[slot].weights, slot};
  }
  // Whether the copy with this ticket is still under way.
  bool is_copying(uint64_t ticket) const {
    return uploads_ != nullptr && uploads_->is_under_way(ticket);
  }
  // Whether the expert lies in a slot or is on its way into one.
  bool holds(int32_t expert) const { return slot_of_[expert] >= 0; }
  // Whether it does so here or in the tier below.
  bool holds_anywhere(int32_t expert) const {
    return holds(expert) || (below_ != nullptr && below_->holds(expert));
  }
  // Whether all experts of the model do, here.
  bool holds_all() const;
  // Whether any of so many experts is on its way as look-ahead.
  bool is_any_ahead(int32_t first, int32_t count) const;
  // Slots that are being filled for somebody who waits.
  int32_t demanded() const { return demanded_; }
  // Whether something that is waited for has not been read yet.
  bool awaits_reads() const;
  // Whether all that is waited for has been read, and is being copied.
  bool awaits_copies_only() const;
  uint64_t bytes_copied() const { return uploads_ == nullptr ? 0 : uploads_->bytes_copied(); }
  uint64_t copy_busy_ns() const { return uploads_ == nullptr ? 0 : uploads_->busy_ns(); }
  // Of the memory that is copied from, here and below: what is pinned, of what was to be, and how
  // long that took.
  uint64_t bytes_pinned() const {
    return memory_.bytes_pinned() + (below_ == nullptr ? 0 : below_->bytes_pinned());
  }
  uint64_t bytes_lent() const {
    return memory_.bytes_lent() + (below_ == nullptr ? 0 : below_->bytes_lent());
  }
  uint64_t pin_ns() const { return memory_.pin_ns() + (below_ == nullptr ? 0 : below_->pin_ns()); }

  // Orders [n][order_field::count], of this tier and the one below; all are checked before any is
  // obeyed.
  Status stage(const int32_t* orders, size_t count);
  // Takes in what has been read, copied and touched. Fails, then and ever after, where the memory
  // of the slots is lost.
  const Status& settle();
  const Status& trouble() const { return trouble_; }
  // Until something can be settled or the time is over.
  void wait(int wait_ms);
  // Events since the last call, [n][event_field::count].
  int32_t take_events(int32_t* events, int32_t capacity);
  bool has_events() const {
    return !events_.empty() || (below_ != nullptr && below_->has_events());
  }
  // Why the last read of this expert failed.
  const Status& failure_of(int32_t expert) const;
  // Slots that may be used, and of the memory in RAM those that are locked.
  int32_t touched() const { return touched_; }
  int32_t locked() const { return memory_.locked(); }
  // Null: there is no tier below.
  const Slots* below() const { return below_.get(); }

 private:
  enum class State : uint8_t { cold, free, loading, ready };
  struct Slot {
    State state = State::cold;
    bool is_ahead = false;
    int32_t expert = -1;
    int32_t source = -1;  // while loading: the slot below that it is copied from; -1: it is read
    int32_t copies = 0;   // that are or will be made from it
    Mlp weights;          // their bytes while they lie in RAM
  };
  struct Order {
    int32_t expert, source, slot;  // source: a slot below, or -1
    Urgency urgency;
  };
  struct Event {
    EventKind kind;
    int32_t expert, slot;
    Code code;
  };

  Status open_common(int32_t count, const Model& model, const std::vector<ExpertExtents>& extents,
                     io::Reader* reader, int32_t rooms, SlotMemory::Pin pin);
  // slotorders.cc
  Status check(const int32_t* orders, size_t count);
  // The order of a record, and the tier that it is for; null: it names nothing of this device.
  Slots* parse(const int32_t* record, Order* order);
  Status check_order(size_t index, const Order& order);
  Status check_source(size_t index, const Order& order);
  bool reads(int32_t expert) const;
  bool may_read(int32_t expert) const;
  void forget_plans();
  void obey(const Order& order);
  void load(const Order& order);
  void read(int32_t slot, uint8_t* target);
  void read_staged();
  void upload(int32_t slot, const Mlp& from);
  void raise(int32_t slot);
  void cancel(int32_t slot);
  void land(const io::Arrival& arrival);
  void land_below(const io::Arrival& arrival);
  void end(int32_t slot, const io::Arrival& arrival);
  void arrive(int32_t slot);
  void drop(int32_t slot, EventKind kind, Code code);
  void let_go(int32_t slot);
  void tell_touched();
  Status settle_uploads();
  bool is_touching() const;

  const Model* model_ = nullptr;
  const std::vector<ExpertExtents>* extents_ = nullptr;
  io::Reader* reader_ = nullptr;
  SlotMemory memory_;                 // the slots, or the rooms on the way to them
  std::unique_ptr<Staging> staging_;  // null, like the next: slots lie in RAM
  std::unique_ptr<Uploads> uploads_;
  std::unique_ptr<Slots> below_;  // null: there is no tier below
  int32_t touched_ = 0;
  int32_t demanded_ = 0;
  std::vector<Slot> slots_;
  std::vector<int32_t> slot_of_;  // [expert] slot that holds or loads it, or -1
  std::vector<Event> events_;
  Status trouble_;
  Status last_failure_;
  int32_t last_failed_expert_ = -1;
  // Scratch of check: what the orders before this one would do, and what they would copy from.
  std::vector<int32_t> planned_slot_, planned_expert_, planned_source_;
  std::vector<int32_t> filled_;  // scratch of settle
};

// Bytes of a slot that holds any of these experts.
uint64_t slot_bytes(const std::vector<ExpertExtents>& extents);

}  // namespace ring
