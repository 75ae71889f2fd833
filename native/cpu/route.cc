// The router: which experts a token wants, and with what weight. F32 from end to end: sigmoid
// scores, a bias that only chooses, groups of which the best are kept, and weights normalised over
// the chosen (DeepSeek-V3 routing, arXiv 2412.19437 §2.1.2; epsilon 1e-20 as in the published
// BailingMoeV2 code).
#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu.h"

namespace ring::cpu {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

// Index of the largest value that is not `taken`; the lower index wins a tie, NaN never wins but
// against nothing, so that a damaged weight still gives valid indices (and is reported elsewhere).
int best_of(const float* values, const uint8_t* taken, int count) {
  int best = -1;
  for (int i = 0; i < count; ++i) {
    if (taken[i]) continue;
    if (best < 0 || values[i] > values[best] ||
        (std::isnan(values[best]) && !std::isnan(values[i]))) {
      best = i;
    }
  }
  return best;
}

struct Choice {
  std::vector<float> scores, choice, group_scores;
  std::vector<uint8_t> taken;
};

// A group's score is the sum of its two best choice scores.
float score_group(const float* choice, int count) {
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

void keep_best_groups(const Shape& s, Choice& c) {
  const int group_size = s.experts / s.groups;
  c.group_scores.resize(s.groups);
  for (int g = 0; g < s.groups; ++g) {
    c.group_scores[g] = score_group(&c.choice[g * group_size], group_size);
  }
  std::vector<uint8_t>& kept = c.taken;
  kept.assign(s.groups, 0);
  for (int n = 0; n < s.groups_kept; ++n)
    kept[best_of(c.group_scores.data(), kept.data(), s.groups)] = 1;
  for (int e = 0; e < s.experts; ++e) {
    if (!kept[e / group_size]) c.choice[e] = kNever;
  }
}

void choose(const Shape& s, const float* logits, const Vector& bias, Choice& c, uint16_t* experts,
            float* weights) {
  c.scores.resize(s.experts);
  c.choice.resize(s.experts);
  for (int e = 0; e < s.experts; ++e) {
    c.scores[e] = 1.0f / (1.0f + std::exp(-logits[e]));
    c.choice[e] = bias.empty() ? c.scores[e] : c.scores[e] + bias[e];
  }
  if (s.groups > 1 && s.groups_kept < s.groups) keep_best_groups(s, c);
  c.taken.assign(s.experts, 0);
  float total = 0;
  for (int k = 0; k < s.top_k; ++k) {
    const int best = best_of(c.choice.data(), c.taken.data(), s.experts);
    c.taken[best] = 1;
    experts[k] = static_cast<uint16_t>(best);
    weights[k] = c.scores[best];
    total += weights[k];
  }
  for (int k = 0; k < s.top_k; ++k) {
    if (s.top_k > 1) weights[k] /= total + 1e-20f;
    weights[k] *= s.routed_scale;
  }
}

}  // namespace

Status route(Cpu& cpu, StepState& step, int32_t layer, uint16_t* experts, float* weights,
             float* scores) {
  const Shape& s = cpu.shape;
  const LayerWeights& w = cpu.model.layers[layer];
  cpu.linear_f32(w.router, step.normed.data(), step.tokens, step.router_logits.data());
  cpu.pool.run(step.tokens, [&](int token, int) {
    thread_local Choice choice;
    const size_t at = static_cast<size_t>(token) * s.top_k;
    choose(s, &step.router_logits[static_cast<size_t>(token) * s.experts], w.router_bias, choice,
           &step.experts[at], &step.weights[at]);
    if (scores != nullptr)
      std::copy(choice.scores.begin(), choice.scores.end(),
                scores + static_cast<size_t>(token) * s.experts);
  });
  const size_t pairs = static_cast<size_t>(step.tokens) * s.top_k;
  std::copy_n(step.experts.begin(), pairs, experts);
  std::copy_n(step.weights.begin(), pairs, weights);
  std::fill_n(step.routed.begin(), static_cast<size_t>(step.tokens) * s.hidden, 0.0f);
  std::fill_n(step.pair_known.begin(), pairs, uint8_t{0});
  return {};
}

void choose_early(Cpu& cpu, const Vector& bias, int tokens, uint16_t* experts, float* scores) {
  const Shape& s = cpu.shape;
  Choice choice;
  std::vector<float> weights(s.top_k);
  for (int token = 0; token < tokens; ++token) {
    float* of_token = scores + static_cast<size_t>(token) * s.experts;
    choose(s, of_token, bias, choice, experts + static_cast<size_t>(token) * s.top_k,
           weights.data());
    std::copy(choice.scores.begin(), choice.scores.end(), of_token);
  }
}

}  // namespace ring::cpu
