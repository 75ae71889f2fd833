// See uploads.h.
#include "uploads.h"

#include <algorithm>

namespace ring {

Uploads::Uploads(const Backend* backend, void* compute, int32_t slots)
    : backend_(backend), compute_(compute) {
  const auto count = static_cast<size_t>(slots);
  of_.resize(count);
  for (std::vector<int32_t>* list : {&demand_, &ahead_, &under_way_}) list->reserve(count);
}

void Uploads::want(int32_t slot, int32_t expert, const Mlp& from, uint64_t bytes, bool is_ahead) {
  of_[slot] = {expert, from, bytes, 0, is_ahead};
  (is_ahead ? ahead_ : demand_).push_back(slot);
}

void Uploads::raise(int32_t slot) {
  if (std::erase(ahead_, slot) == 0) return;
  of_[slot].is_ahead = false;
  demand_.push_back(slot);
}

bool Uploads::drop(int32_t slot) {
  return std::erase(ahead_, slot) + std::erase(demand_, slot) > 0;
}

Status Uploads::begin() {
  for (const int32_t slot : demand_) RING_TRY(hand_over(slot));
  demand_.clear();
  if (ahead_.empty() || ahead_under_way_ > 0) return {};
  const int32_t slot = ahead_.front();
  ahead_.erase(ahead_.begin());
  ++ahead_under_way_;
  return hand_over(slot);
}

Status Uploads::hand_over(int32_t slot) {
  Upload& upload = of_[slot];
  if (under_way_.empty()) busy_since_ = std::chrono::steady_clock::now();
  RING_TRY(backend_->fill(compute_, slot, upload.expert, &upload.from, &upload.ticket));
  under_way_.push_back(slot);
  return {};
}

Status Uploads::settle(std::vector<int32_t>* filled) {
  if (under_way_.empty()) return {};
  uint64_t ticket = 0;
  RING_TRY(backend_->filled(compute_, &ticket));
  count_busy();
  size_t done = 0;
  for (; done < under_way_.size() && of_[under_way_[done]].ticket <= ticket; ++done) {
    filled->push_back(under_way_[done]);
    bytes_copied_ += of_[under_way_[done]].bytes;
    if (of_[under_way_[done]].is_ahead) --ahead_under_way_;
  }
  under_way_.erase(under_way_.begin(), under_way_.begin() + static_cast<std::ptrdiff_t>(done));
  return {};
}

void Uploads::count_busy() {
  const auto now = std::chrono::steady_clock::now();
  busy_ns_ += static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(now - busy_since_).count());
  busy_since_ = now;
}

uint64_t Uploads::ticket_of(int32_t slot) const {
  const bool is_begun = std::find(under_way_.begin(), under_way_.end(), slot) != under_way_.end();
  return is_begun ? of_[slot].ticket : 0;
}

bool Uploads::is_under_way(uint64_t ticket) const {
  uint64_t done = 0;
  return !under_way_.empty() && !backend_->filled(compute_, &done).failed() && done < ticket;
}

bool Uploads::has_news() const {
  uint64_t ticket = 0;
  return !under_way_.empty() &&
         (backend_->filled(compute_, &ticket).failed() || of_[under_way_.front()].ticket <= ticket);
}

}  // namespace ring
