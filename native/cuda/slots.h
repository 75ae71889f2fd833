// Slots of experts in memory of the GPU and the copies that fill them, on a stream of their own.
// A slot is written only after all work that was given to the compute stream while it held an
// expert: the copy waits for it there, the caller does not. Which expert lies where is the caller's
// business; that a slot holds what is computed with is checked. Who computes with one that is still
// being filled waits, on the compute stream, for gate and up first and for down later.
//
// The GPU has a table of its own of who lies where, for layers that run without the host. The host
// keeps it here: an expert enters when `filled` has found its copy done, and leaves when its slot
// is given up or filled with another. What has changed goes over by `publish`, on the compute
// stream, in front of those layers; nobody else writes there, and nobody else reads. The caller of
// `publish` waits for the stream before anything changes here again.
#pragma once
#include <vector>

#include "kernels.h"
#include "weights.h"

namespace ring::cuda {

class Slots {
 public:
  Slots() = default;
  ~Slots();
  Slots(const Slots&) = delete;
  Slots& operator=(const Slots&) = delete;

  Status open(const Model& model, const Weights& weights, int32_t count, cudaStream_t compute);
  Status fill(int32_t slot, int32_t expert, const Mlp& host, cudaStream_t compute,
              uint64_t* ticket);
  Status filled(uint64_t* ticket);
  void give_up(int32_t slot);
  Status publish(cudaStream_t compute);
  bool is_open() const { return model_ != nullptr; }
  // As last published, of the layer whose first expert this is.
  SlotTable table_of(int32_t first_expert) const;
  // The expert's matrices in its slot, whole or on their way. Failure: the slot does not hold it.
  Status find(int32_t slot, int32_t expert, const Weights& weights, Mlp* out);
  // Whether the slot's copy was still under way when it was last asked; of one that is not there,
  // no.
  bool is_coming(int32_t slot) const {
    const auto at = static_cast<size_t>(slot);
    return at < held_.size() && held_[at].ticket > last_filled_;
  }
  // What is given to the compute stream from now on comes behind that part of the slot's copy.
  enum class Part { gate_and_up, all };
  Status await(int32_t slot, Part part, cudaStream_t compute) const;
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

  Status open_table(const Model& model, const Weights& weights, cudaStream_t compute);
  // In which slot the expert lies, for the GPU's table.
  void enter(int32_t expert, int32_t slot);

  const Model* model_ = nullptr;
  DeviceArray<uint8_t> memory_;
  size_t slot_bytes_ = 0, up_at_ = 0, down_at_ = 0;
  std::vector<Held> held_;
  cudaStream_t copy_ = nullptr;
  cudaEvent_t computed_ = nullptr;
  std::vector<cudaEvent_t> copied_, gated_;  // of ticket t at t % count; gated_: of gate and up
  uint64_t last_ticket_ = 0, last_filled_ = 0;
  uint64_t era_ = 1;  // rises when the compute stream is done: what was read before is read
  std::vector<int32_t> slot_of_ticket_;  // of ticket t at t % count
  // [expert of the model] in which slot it lies, -1: in none; here, and on the GPU as published.
  PinnedArray<int32_t> slot_of_;
  DeviceArray<int32_t> published_;
  int32_t changed_from_ = 0, changed_to_ = 0;  // what is yet to be published
  DeviceArray<Mlp> experts_;                   // as SlotTable has them
};

}  // namespace ring::cuda
