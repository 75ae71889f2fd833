// Copies of experts from RAM into slots that lie in a backend's own memory. What somebody waits for
// is handed over at once; what nobody waits for comes after it, one copy at a time, so that a wait
// is longer by one copy at most. Where the bytes lie and how they came there is not known here;
// they stay until `settle` has named the slot. All calls come from the device's thread.
#pragma once
#include <chrono>
#include <cstdint>
#include <vector>

#include "backend.h"

namespace ring {

class Uploads {
 public:
  // The slots of the backend are open; it outlives this.
  Uploads(const Backend* backend, void* compute, int32_t slots);

  // What the slot holds is not asked for any more.
  void give_up(int32_t slot) { backend_->give_up(compute_, slot); }
  // The slot shall hold the expert that lies at `from`, of so many bytes. `begin` makes it so.
  void want(int32_t slot, int32_t expert, const Mlp& from, uint64_t bytes, bool is_ahead);
  // Somebody waits for what was wanted ahead, if it was.
  void raise(int32_t slot);
  // The copy is not wanted any more; false: it was not wanted, or is under way.
  bool drop(int32_t slot);
  // Hands over what may be under way.
  Status begin();
  // Appends the slots that have been filled since.
  Status settle(std::vector<int32_t>* filled);

  // The ticket of the copy that fills the slot, which is under way; 0: none is.
  uint64_t ticket_of(int32_t slot) const;
  // Whether the copy with this ticket is not done yet.
  bool is_under_way(uint64_t ticket) const;
  // Whether any copy is wanted or under way.
  bool is_busy() const { return !under_way_.empty() || !demand_.empty() || !ahead_.empty(); }
  // Whether `settle` has something to tell, were it called now.
  bool has_news() const;
  uint64_t bytes_copied() const { return bytes_copied_; }
  // With a copy under way, up to when it was last looked.
  uint64_t busy_ns() const { return busy_ns_; }

 private:
  struct Upload {
    int32_t expert = -1;
    Mlp from;  // stays until the copy is done
    uint64_t bytes = 0, ticket = 0;
    bool is_ahead = false;
  };

  Status hand_over(int32_t slot);
  void count_busy();

  const Backend* backend_;
  void* compute_;
  std::vector<Upload> of_;               // [slot]
  std::vector<int32_t> demand_, ahead_;  // slots whose copies have not begun, in order
  std::vector<int32_t> under_way_;       // slots, by ticket
  int32_t ahead_under_way_ = 0;
  uint64_t bytes_copied_ = 0, busy_ns_ = 0;
  std::chrono::steady_clock::time_point busy_since_;
};

}  // namespace ring
