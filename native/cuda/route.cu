// What tokens choose: a warp for each, in F32, by the rules of the CPU's router: a bias that only
// chooses, groups of which the best are kept, the lower index winning a tie, NaN winning against
// nothing but nothing.
#include <algorithm>

#include "block.h"
#include "kernels.h"
#include "resolve.h"

namespace ring::cuda {
namespace {

constexpr float kNever = -INFINITY;

struct Candidate {
  float value;
  int index;  // -1: none
};

// Whether the first comes before the second.
__device__ inline bool is_before(const Candidate& a, const Candidate& b) {
  if (a.index < 0 || b.index < 0) return a.index >= 0;
  if (a.value > b.value) return true;
  if (b.value > a.value) return false;
  const bool a_is_nan = isnan(a.value), b_is_nan = isnan(b.value);
  if (a_is_nan != b_is_nan) return b_is_nan;
  return a.index < b.index;
}

// The best of those that are not taken, known to every lane.
__device__ Candidate best_of(const float* values, const uint8_t* taken, int count) {
  Candidate best = {0, -1};
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kLanes) {
    const Candidate candidate = {values[i], i};
    if (taken[i] == 0 && is_before(candidate, best)) best = candidate;
  }
  for (int apart = kLanes / 2; apart > 0; apart /= 2) {
    const Candidate other = {__shfl_xor_sync(kAllLanes, best.value, apart),
                             __shfl_xor_sync(kAllLanes, best.index, apart)};
    if (is_before(other, best)) best = other;
  }
  return best;
}

// A group's score is the sum of its two best choice scores.
__device__ float score_group(const float* choice, int count) {
  float first = kNever, second = kNever;
  for (int i = 0; i < count; ++i) {
    if (choice[i] > first) {
      second = first;
      first = choice[i];
    } else if (choice[i] > second) {
      second = choice[i];
    }
  }
  return count > 1 ? first + second : first;
}

__device__ void keep_best_groups(const Shape& s, float* choice, float* group_scores,
                                 uint8_t* kept) {
  const int group_size = s.experts / s.groups, lane = static_cast<int>(threadIdx.x);
  for (int g = lane; g < s.groups; g += kLanes) {
    group_scores[g] = score_group(choice + g * group_size, group_size);
    kept[g] = 0;
  }
  __syncwarp();
  for (int n = 0; n < s.groups_kept; ++n) {
    const Candidate best = best_of(group_scores, kept, s.groups);
    __syncwarp();
    if (lane == 0) kept[best.index] = 1;
    __syncwarp();
  }
  for (int e = lane; e < s.experts; e += kLanes) {
    if (kept[e / group_size] == 0) choice[e] = kNever;
  }
  __syncwarp();
}

// Ranks by rising expert; experts of a token are all different.
__device__ void put_in_order(const uint16_t* experts, int count, uint8_t* order) {
  for (int rank = static_cast<int>(threadIdx.x); rank < count; rank += kLanes) {
    int before = 0;
    for (int other = 0; other < count; ++other) before += experts[other] < experts[rank] ? 1 : 0;
    order[before] = static_cast<uint8_t>(rank);
  }
}

// Shared: choice scores [experts], scores of groups, then what is taken of either; in the end what
// resolve_hits needs.
__global__ void __launch_bounds__(kLanes)
    choose_experts(const int32_t* stopped, const Shape s, const float* logits, const float* bias,
                   const Choices out, const Hits hits) {
  if (is_stopped(stopped)) return;
  RING_DYNAMIC_SHARED(float, shared);
  float* choice = shared;
  float* group_scores = choice + s.experts;
  float* chosen = group_scores + s.groups;  // [top_k]
  uint8_t* taken = reinterpret_cast<uint8_t*>(chosen + s.top_k);
  const int64_t token = static_cast<int64_t>(blockIdx.x);
  const int lane = static_cast<int>(threadIdx.x);
  float* scores = out.scores + token * s.experts;
  for (int e = lane; e < s.experts; e += kLanes) {
    const float score = 1.0f / (1.0f + expf(-logits[token * s.experts + e]));
    scores[e] = score;
    choice[e] = bias == nullptr ? score : score + bias[e];
  }
  __syncwarp();
  if (s.groups > 1 && s.groups_kept < s.groups) keep_best_groups(s, choice, group_scores, taken);
  for (int e = lane; e < s.experts; e += kLanes) taken[e] = 0;
  __syncwarp();
  uint16_t* experts = out.experts + token * s.top_k;
  for (int k = 0; k < s.top_k; ++k) {
    const Candidate best = best_of(choice, taken, s.experts);
    __syncwarp();
    if (lane == 0) {
      taken[best.index] = 1;
      experts[k] = static_cast<uint16_t>(best.index);
      chosen[k] = scores[best.index];
    }
    __syncwarp();
  }
  if (out.order != nullptr) put_in_order(experts, s.top_k, out.order + token * s.top_k);
  float total = 0;
  for (int k = 0; k < s.top_k; ++k) total += chosen[k];
  for (int k = lane; k < s.top_k; k += kLanes) {
    const float weight = s.top_k > 1 ? chosen[k] / (total + 1e-20f) : chosen[k];
    out.weights[token * s.top_k + k] = weight * s.routed_scale;
  }
  if (hits.stopped == nullptr || !comes_last(hits.ticket, static_cast<int>(gridDim.x))) return;
  resolve_hits(s, hits, out.experts, static_cast<int>(gridDim.x),
               reinterpret_cast<int32_t*>(shared));
}

}  // namespace

cudaError_t choose(const Queue& queue, const Shape& shape, const float* logits, const float* bias,
                   int tokens, const Choices& choices, const Hits& hits) {
  size_t shared = static_cast<size_t>(shape.experts + shape.groups + shape.top_k) * sizeof(float) +
                  static_cast<size_t>(shape.experts);
  if (hits.stopped != nullptr) shared = std::max(shared, resolve_bytes(tokens * shape.top_k));
  RING_LAUNCH(choose_experts, dim3(tokens), dim3(kLanes), shared, queue.stream, queue.stopped,
              shape, logits, bias, choices, hits);
  return cudaGetLastError();
}

}  // namespace ring::cuda
