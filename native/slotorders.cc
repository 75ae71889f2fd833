// Which orders slots refuse; see slots.h. A batch is checked whole before any of it is obeyed.
#include <algorithm>

#include "slots.h"

namespace ring {
namespace {

constexpr int32_t kSlotMask = (1 << limit::slot_bits) - 1;

bool has(const std::vector<int32_t>& list, int32_t value) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

}  // namespace

void Slots::forget_plans() {
  planned_slot_.clear();
  planned_expert_.clear();
  planned_source_.clear();
  if (below_ != nullptr) below_->forget_plans();
}

Slots* Slots::parse(const int32_t* record, Order* order) {
  const int32_t from = record[order_field::from], to = record[order_field::to];
  const int32_t urgency = record[order_field::urgency];
  const auto in = [](int32_t place, Tier tier) {
    return place >= 0 && place >> limit::slot_bits == static_cast<int32_t>(tier);
  };
  *order = {record[order_field::expert], from < 0 ? -1 : from & kSlotMask, to & kSlotMask,
            static_cast<Urgency>(urgency)};
  Slots* tier = in(to, this->tier())                          ? this
                : below_ != nullptr && in(to, below_->tier()) ? below_.get()
                                                              : nullptr;
  const bool is_good = tier != nullptr && order->slot < tier->count() && order->expert >= 0 &&
                       order->expert < static_cast<int32_t>(slot_of_.size()) && urgency >= 0 &&
                       urgency <= static_cast<int32_t>(Urgency::cancel) &&
                       (from == -1 || (tier->below_ != nullptr && in(from, tier->below_->tier()) &&
                                       order->source < tier->below_->count()));
  return is_good ? tier : nullptr;
}

// Later orders of a batch see what earlier ones do. Nobody reads an expert twice at once.
Status Slots::check(const int32_t* orders, size_t count) {
  forget_plans();
  for (size_t i = 0; i < count; ++i) {
    Order order;
    Slots* tier = parse(orders + i * order_field::count, &order);
    if (tier == nullptr)
      return failure(Code::bad_order, "order %zu names no expert, slot or urgency of this device",
                     i);
    if (tier->is_loading(order.slot, order.expert)) continue;  // raised, or cancelled
    RING_TRY(tier->check_order(i, order));
    if (order.source >= 0) {
      RING_TRY(below_->check_source(i, order));
    } else if (below_ != nullptr && (tier == this ? below_.get() : this)->may_read(order.expert)) {
      return failure(Code::bad_order, "order %zu: expert %d is being read already", i,
                     order.expert);
    }
  }
  return {};
}

Status Slots::check_order(size_t index, const Order& order) {
  const auto& [expert, source, slot, urgency] = order;
  const bool is_taken = has(planned_slot_, slot) || has(planned_expert_, expert);
  Status status;
  if (urgency == Urgency::cancel) {
    status = failure(Code::bad_order, "order %zu cancels expert %d, which is not loading", index,
                     expert);
  } else if (slots_[slot].state == State::cold) {
    status = failure(Code::bad_order, "order %zu: slot %d has not been touched yet", index, slot);
  } else if (slots_[slot].state == State::loading || is_taken) {
    status = failure(Code::bad_order, "order %zu: slot %d is loading another expert", index, slot);
  } else if (slots_[slot].copies > 0 || has(planned_source_, slot)) {
    status = failure(Code::bad_order, "order %zu: slot %d is being copied from", index, slot);
  } else if (slot_of_[expert] >= 0 && !has(planned_slot_, slot_of_[expert])) {
    status = failure(Code::bad_order, "order %zu: expert %d lies in slot %d already", index, expert,
                     slot_of_[expert]);
  }
  planned_slot_.push_back(slot);
  planned_expert_.push_back(expert);
  return status;
}

// Of the tier below: whether the expert lies in the slot, or will by what is ordered before.
Status Slots::check_source(size_t index, const Order& order) {
  const auto planned = std::find(planned_slot_.begin(), planned_slot_.end(), order.source);
  const int32_t holds = planned == planned_slot_.end()
                            ? slots_[order.source].expert
                            : planned_expert_[static_cast<size_t>(planned - planned_slot_.begin())];
  planned_source_.push_back(order.source);
  if (holds == order.expert) return {};
  return failure(Code::bad_order, "order %zu copies expert %d from slot %d, which holds %d", index,
                 order.expert, order.source, holds);
}

bool Slots::may_read(int32_t expert) const { return reads(expert) || has(planned_expert_, expert); }

}  // namespace ring
