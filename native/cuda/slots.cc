// See slots.h.
#include "slots.h"

#include <algorithm>

namespace ring::cuda {

Slots::~Slots() {
  // Copies that are under way write into memory that is about to go.
  if (copy_ != nullptr) cudaStreamSynchronize(copy_);
  for (const cudaEvent_t event : copied_) cudaEventDestroy(event);
  for (const cudaEvent_t event : gated_) cudaEventDestroy(event);
  if (computed_ != nullptr) cudaEventDestroy(computed_);
  if (copy_ != nullptr) cudaStreamDestroy(copy_);
}

Status Slots::open(const Model& model, const Weights& weights, int32_t count,
                   cudaStream_t compute) {
  if (model_ != nullptr) return failure(Code::already_open, "the slots are open already");
  if (count < 1) return failure(Code::bad_argument, "%d slots hold no expert", count);
  size_t gate = 0, up = 0, down = 0;
  for (const Mlp& expert : model.experts) {
    gate = std::max(gate, room_of(expert.gate));
    up = std::max(up, room_of(expert.up));
    down = std::max(down, room_of(expert.down));
  }
  up_at_ = gate;
  down_at_ = gate + up;
  slot_bytes_ = gate + up + down;
  RING_TRY(memory_.open(slot_bytes_ * static_cast<size_t>(count), "the slots of experts"));
  RING_GPU(cudaStreamCreateWithFlags(&copy_, cudaStreamNonBlocking));
  RING_GPU(cudaEventCreateWithFlags(&computed_, cudaEventDisableTiming));
  for (int32_t slot = 0; slot < count; ++slot) {
    for (std::vector<cudaEvent_t>* events : {&gated_, &copied_}) {
      cudaEvent_t event = nullptr;
      RING_GPU(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
      events->push_back(event);
    }
  }
  held_.resize(static_cast<size_t>(count));
  slot_of_ticket_.resize(static_cast<size_t>(count));
  RING_TRY(open_table(model, weights, compute));
  model_ = &model;
  return {};
}

Status Slots::open_table(const Model& model, const Weights& weights, cudaStream_t compute) {
  const size_t experts = model.experts.size();
  constexpr const char* kWhat = "the table of slots";
  RING_TRY(slot_of_.open(experts));
  RING_TRY(published_.open(experts, kWhat));
  RING_TRY(experts_.open(experts, kWhat));
  std::fill_n(slot_of_.data(), experts, -1);
  changed_to_ = static_cast<int32_t>(experts);
  std::vector<Mlp> like;
  for (const Mlp& expert : model.experts) {
    like.push_back({weights.placed(expert.gate, nullptr), weights.placed(expert.up, nullptr),
                    weights.placed(expert.down, nullptr)});
  }
  RING_GPU(cudaMemcpyAsync(experts_.data(), like.data(), experts * sizeof(Mlp),
                           cudaMemcpyHostToDevice, compute));
  RING_GPU(cudaStreamSynchronize(compute));
  return {};
}

void Slots::enter(int32_t expert, int32_t slot) {
  slot_of_.data()[expert] = slot;
  const bool is_first = changed_from_ == changed_to_;
  changed_from_ = is_first ? expert : std::min(changed_from_, expert);
  changed_to_ = is_first ? expert + 1 : std::max(changed_to_, expert + 1);
}

void Slots::give_up(int32_t slot) {
  const int32_t expert = held_[static_cast<size_t>(slot)].expert;
  if (expert >= 0 && slot_of_.data()[expert] == slot) enter(expert, -1);
}

Status Slots::publish(cudaStream_t compute) {
  const size_t bytes = static_cast<size_t>(changed_to_ - changed_from_) * sizeof(int32_t);
  if (bytes == 0) return {};
  RING_GPU(cudaMemcpyAsync(published_.data() + changed_from_, slot_of_.data() + changed_from_,
                           bytes, cudaMemcpyHostToDevice, compute));
  changed_from_ = changed_to_ = 0;
  return {};
}

SlotTable Slots::table_of(int32_t first_expert) const {
  return {published_.data() + first_expert,
          experts_.data() + first_expert,
          memory_.data(),
          static_cast<int64_t>(slot_bytes_),
          static_cast<int64_t>(up_at_),
          static_cast<int64_t>(down_at_)};
}

Status Slots::fill(int32_t slot, int32_t expert, const Mlp& host, cudaStream_t compute,
                   uint64_t* ticket) {
  if (slot < 0 || static_cast<size_t>(slot) >= held_.size() || expert < 0 ||
      static_cast<size_t>(expert) >= model_->experts.size()) {
    return failure(Code::bad_order, "slot %d or expert %d is not there", slot, expert);
  }
  Held& held = held_[static_cast<size_t>(slot)];
  uint64_t done = 0;
  RING_TRY(filled(&done));
  // So many copies are under way at most as there are slots, and as there are events.
  if (held.ticket > done) return failure(Code::bad_order, "slot %d is being filled", slot);
  if (held.read_in == era_) {
    RING_GPU(cudaEventRecord(computed_, compute));
    RING_GPU(cudaStreamWaitEvent(copy_, computed_, 0));
  }
  const Mlp& like = model_->experts[static_cast<size_t>(expert)];
  uint8_t* to = memory_.data() + slot_bytes_ * static_cast<size_t>(slot);
  const auto copy = [&](size_t at, const Matrix& from, const Matrix& shape) {
    return cudaMemcpyAsync(to + at, from.data, bytes_of(shape), cudaMemcpyHostToDevice, copy_);
  };
  give_up(slot);
  held = {expert, last_ticket_ + 1, 0};
  slot_of_ticket_[held.ticket % copied_.size()] = slot;
  RING_GPU(copy(0, host.gate, like.gate));
  RING_GPU(copy(up_at_, host.up, like.up));
  RING_GPU(cudaEventRecord(gated_[held.ticket % gated_.size()], copy_));
  RING_GPU(copy(down_at_, host.down, like.down));
  RING_GPU(cudaEventRecord(copied_[held.ticket % copied_.size()], copy_));
  *ticket = ++last_ticket_;
  return {};
}

Status Slots::filled(uint64_t* ticket) {
  while (last_filled_ < last_ticket_) {
    const cudaError_t state = cudaEventQuery(copied_[(last_filled_ + 1) % copied_.size()]);
    if (state == cudaErrorNotReady) {
      cudaGetLastError();  // else the next launch would report it
      break;
    }
    RING_GPU(state);
    ++last_filled_;
    const int32_t slot = slot_of_ticket_[last_filled_ % copied_.size()];
    enter(held_[static_cast<size_t>(slot)].expert, slot);
  }
  *ticket = last_filled_;
  return {};
}

Status Slots::await(int32_t slot, Part part, cudaStream_t compute) const {
  if (!is_coming(slot)) return {};
  const uint64_t ticket = held_[static_cast<size_t>(slot)].ticket;
  const std::vector<cudaEvent_t>& events = part == Part::all ? copied_ : gated_;
  RING_GPU(cudaStreamWaitEvent(compute, events[ticket % events.size()], 0));
  return {};
}

Status Slots::find(int32_t slot, int32_t expert, const Weights& weights, Mlp* out) {
  const bool is_there = slot >= 0 && static_cast<size_t>(slot) < held_.size() &&
                        held_[static_cast<size_t>(slot)].expert == expert;
  if (!is_there) {
    return failure(Code::bad_argument, "expert %d of the model does not lie in slot %d of the GPU",
                   expert, slot);
  }
  const Mlp& like = model_->experts[static_cast<size_t>(expert)];
  const uint8_t* at = memory_.data() + slot_bytes_ * static_cast<size_t>(slot);
  *out = {weights.placed(like.gate, at), weights.placed(like.up, at + up_at_),
          weights.placed(like.down, at + down_at_)};
  return {};
}

}  // namespace ring::cuda
