// Slots of experts in memory of the GPU and the copies that fill them, on a stream of their own.
// A slot is written only after all work that was given to the compute stream while it held an
// expert: the copy waits for it there, the caller does not. Which expert lies where is the caller's
// business; that a slot holds what is computed with is checked.
#pragma once
#include <vector>

#include "weights.h"

namespace ring::cuda {

class Slots {
 public:
  Slots() = default;
  ~Slots();
  Slots(const Slots&) = delete;
  Slots& operator=(const Slots&) = delete;

  Status open(const Model& model, int32_t count);
  Status fill(int32_t slot, int32_t expert, const Mlp& host, cudaStream_t compute,
              uint64_t* ticket);
  Status filled(uint64_t* ticket);
  // The expert's matrices in its slot. Failure: the slot does not hold it, or not yet.
  Status find(int32_t slot, int32_t expert, const Weights& weights, Mlp* out);
  // The slot is read by what is given to the compute stream now.
  void note_use(int32_t slot) { held_[static_cast<size_t>(slot)].read_in = era_; }
  // All that was given to the compute stream is done.
  void note_compute_done() { ++era_; }

 private:
  struct Held {
    int32_t expert = -1;
    uint64_t ticket = 0;  // of its last fill
    uint64_t read_in = 0;
  };

  const Model* model_ = nullptr;
  DeviceArray<uint8_t> memory_;
  size_t slot_bytes_ = 0, up_at_ = 0, down_at_ = 0;
  std::vector<Held> held_;
  cudaStream_t copy_ = nullptr;
  cudaEvent_t computed_ = nullptr;
  std::vector<cudaEvent_t> copied_;  // of ticket t at t % count
  uint64_t last_ticket_ = 0, last_filled_ = 0;
  uint64_t era_ = 1;  // rises when the compute stream is done: what was read before is read
};

}  // namespace ring::cuda
