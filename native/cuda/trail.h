// What layers that run without the host between them leave behind: what their tokens chose, for the
// host to be told when they are done, and the lists by which the layer in hand computes its
// experts. Everything is allocated at open. It must not know in which order kernels come.
#pragma once
#include <algorithm>

#include "../backend.h"
#include "kernels.h"
#include "memory.h"

namespace ring::cuda {

class Trail {
 public:
  Status open(const Shape& shape, int32_t tokens_most, cudaStream_t stream);

  // Steps of more tokens leave none.
  int32_t tokens_most() const { return tokens_most_; }
  // What a layer's tokens choose, in a step of so many.
  Choices choices(int32_t moe_layer, int32_t tokens) const;
  // The lists of the layer in hand, `stopped` and a ticket; the caller adds the rest.
  Hits hits(int32_t layer) const;
  const int32_t* stopped() const { return words_.data(); }
  int32_t* ending_tickets() const { return words_.data() + 2; }

  // Puts into the stream: nothing has stopped yet.
  Status begin(cudaStream_t stream);
  // Puts into the stream: to the host with `stopped`, and with the choices of these MoE layers.
  Status fetch(int32_t first_moe_layer, int32_t end_moe_layer, int32_t tokens, cudaStream_t stream);
  // What was fetched, once the stream is done: the layer that stopped, or -1.
  int32_t fetched_stop() const;
  // What was fetched of these MoE layers, into arrays of all.
  void tell(int32_t first_moe_layer, int32_t end_moe_layer, int32_t tokens, HitRun* run) const;

  // Whether the last step that began here came so far that the next one is worth giving whole.
  bool goes_far = false;

 private:
  size_t pairs_of(int32_t tokens) const { return static_cast<size_t>(tokens) * top_k_; }
  size_t scores_of(int32_t tokens) const { return static_cast<size_t>(tokens) * experts_each_; }
  // Where a layer's part of each array is fetched to.
  uint8_t* fetched_weights(int32_t moe_layer, int32_t tokens) const;
  uint8_t* fetched_scores(int32_t moe_layer, int32_t tokens) const;
  uint8_t* fetched_experts(int32_t moe_layer, int32_t tokens) const;

  int32_t tokens_most_ = 0, layers_ = 0;
  size_t top_k_ = 0, experts_each_ = 0;
  DeviceArray<int32_t> words_;  // stopped, ticket of choices, tickets of endings
  // [MoE layer][token][top_k], of as many tokens as the step has
  DeviceArray<uint16_t> experts_;
  DeviceArray<float> weights_;
  DeviceArray<uint8_t> order_;
  DeviceArray<float> scores_;  // [MoE layer][token][experts]
  DeviceArray<Run> gated_, down_;
  DeviceArray<Tile> tiles_;
  DeviceArray<int32_t> rows_;
  PinnedArray<uint8_t> fetched_;  // stopped, weights, scores, experts
};

}  // namespace ring::cuda
