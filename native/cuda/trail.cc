// See trail.h.
#include "trail.h"

namespace ring::cuda {
namespace {

// Of what is fetched, where the arrays begin.
constexpr size_t kWordBytes = 16;

}  // namespace

Status Trail::open(const Shape& s, int32_t tokens_most, cudaStream_t stream) {
  tokens_most_ = tokens_most;
  layers_ = s.moe_layers();
  top_k_ = static_cast<size_t>(s.top_k);
  experts_each_ = static_cast<size_t>(s.experts);
  constexpr const char* kWhat = "layers that run by themselves";
  const size_t pairs = pairs_of(tokens_most), scores = scores_of(tokens_most);
  const auto layers = static_cast<size_t>(layers_);
  const auto tickets = static_cast<size_t>((s.hidden + kEndingColumns - 1) / kEndingColumns) + 1;
  RING_TRY(words_.open(1 + tickets, kWhat));
  RING_GPU(cudaMemsetAsync(words_.data() + 1, 0, tickets * sizeof(int32_t), stream));
  RING_TRY(experts_.open(layers * pairs, kWhat));
  RING_TRY(weights_.open(layers * pairs, kWhat));
  RING_TRY(order_.open(layers * pairs, kWhat));
  RING_TRY(scores_.open(layers * scores, kWhat));
  RING_TRY(gated_.open(pairs + 1, kWhat));
  RING_TRY(down_.open(pairs + 1, kWhat));
  RING_TRY(tiles_.open(pairs + 1, kWhat));
  RING_TRY(rows_.open(2 * (pairs + static_cast<size_t>(tokens_most)), kWhat));
  return fetched_.open(
      kWordBytes + layers * (pairs * (sizeof(float) + sizeof(uint16_t)) + scores * sizeof(float)));
}

Choices Trail::choices(int32_t moe_layer, int32_t tokens) const {
  const size_t at = static_cast<size_t>(moe_layer) * pairs_of(tokens);
  return {experts_.data() + at, weights_.data() + at, order_.data() + at,
          scores_.data() + static_cast<size_t>(moe_layer) * scores_of(tokens)};
}

Hits Trail::hits(int32_t layer) const {
  Hits hits;
  hits.lists = {gated_.data(), down_.data(), tiles_.data(), rows_.data(),
                rows_.data() + rows_.count() / 2};
  hits.stopped = words_.data();
  hits.ticket = words_.data() + 1;
  hits.layer = layer;
  return hits;
}

Status Trail::begin(cudaStream_t stream) {
  RING_GPU(cudaMemsetAsync(words_.data(), 0xff, sizeof(int32_t), stream));
  return {};
}

uint8_t* Trail::fetched_weights(int32_t moe_layer, int32_t tokens) const {
  return fetched_.data() + kWordBytes +
         static_cast<size_t>(moe_layer) * pairs_of(tokens) * sizeof(float);
}
uint8_t* Trail::fetched_scores(int32_t moe_layer, int32_t tokens) const {
  return fetched_weights(layers_, tokens) +
         static_cast<size_t>(moe_layer) * scores_of(tokens) * sizeof(float);
}
uint8_t* Trail::fetched_experts(int32_t moe_layer, int32_t tokens) const {
  return fetched_scores(layers_, tokens) +
         static_cast<size_t>(moe_layer) * pairs_of(tokens) * sizeof(uint16_t);
}

Status Trail::fetch(int32_t first, int32_t end, int32_t tokens, cudaStream_t stream) {
  const auto fetch = [stream](void* to, const void* from, size_t bytes) {
    return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream);
  };
  RING_GPU(fetch(fetched_.data(), words_.data(), sizeof(int32_t)));
  if (first >= end) return {};
  const auto layers = static_cast<size_t>(end - first);
  const size_t pairs = layers * pairs_of(tokens), scores = layers * scores_of(tokens);
  const Choices from = choices(first, tokens);
  RING_GPU(fetch(fetched_weights(first, tokens), from.weights, pairs * sizeof(float)));
  RING_GPU(fetch(fetched_scores(first, tokens), from.scores, scores * sizeof(float)));
  RING_GPU(fetch(fetched_experts(first, tokens), from.experts, pairs * sizeof(uint16_t)));
  return {};
}

int32_t Trail::fetched_stop() const {
  int32_t stopped = -1;
  memcpy(&stopped, fetched_.data(), sizeof stopped);
  return stopped;
}

void Trail::tell(int32_t first, int32_t end, int32_t tokens, HitRun* run) const {
  if (first >= end) return;
  const auto layers = static_cast<size_t>(end - first);
  const size_t pairs = pairs_of(tokens), scores = scores_of(tokens);
  const size_t at = static_cast<size_t>(first) * pairs;
  memcpy(run->experts + at, fetched_experts(first, tokens), layers * pairs * sizeof(uint16_t));
  memcpy(run->weights + at, fetched_weights(first, tokens), layers * pairs * sizeof(float));
  if (run->scores == nullptr) return;
  memcpy(run->scores + static_cast<size_t>(first) * scores, fetched_scores(first, tokens),
         layers * scores * sizeof(float));
}

}  // namespace ring::cuda
