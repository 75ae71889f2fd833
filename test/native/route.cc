// The router, through the table of each backend (the GPU's on its emulation). The model is made so
// that logits are given exactly: token t embeds to a vector that normalises to the t-th unit
// vector, attention adds zeros, and column t of the router holds token t's logits. Choices are
// compared with a float64 reference.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "backend.h"
#include "harness.h"
#include "reference.h"

using namespace ring;
using namespace ring::test;

namespace {

// Tokens and hidden width; a power of four, so that its square root and all that follows is exact.
constexpr int kTokens = 64;
constexpr float kRootOfTokens = 8;
// A choice may differ from float64's only where that one was closer than this.
constexpr double kNearTie = 1e-6;

extern "C" const Backend* ring_backend();

// The backend of the case that runs.
const Backend* tested = nullptr;

struct RouterRegistration {
  RouterRegistration(const char* name, void (*body)()) {
    const std::string named = name;
    cases().push_back({named + " [cpu]", [body] { run(cpu_backend(), body); }});
    cases().push_back({named + " [cuda]", [body] { run(ring_backend(), body); }});
  }
  static void run(const Backend* backend, void (*body)()) {
    tested = backend;
    body();
  }
};

// RING_ROUTER_CASE(identifier, "what holds") { ... }
#define RING_ROUTER_CASE(identifier, name)                       \
  void identifier();                                             \
  const RouterRegistration identifier##_cases(name, identifier); \
  void identifier()

struct Gates {
  int experts, groups, groups_kept, top_k;
  float routed_scale;
  std::vector<float> logits;  // [kTokens][experts]
  std::vector<float> bias;    // [experts], may be empty
};

struct Routed {
  std::vector<uint16_t> experts;  // [tokens][top_k]
  std::vector<float> weights;
};

Matrix f32_matrix(const std::vector<float>& values, int rows, int columns) {
  Matrix matrix;
  matrix.data = reinterpret_cast<const uint8_t*>(values.data());
  matrix.dtype = Dtype::f32;
  matrix.rows = rows;
  matrix.columns = columns;
  return matrix;
}

// One MoE layer with one head of attention that adds nothing.
struct RouterModel {
  static constexpr int kHeadDim = 2;
  std::vector<float> embedding, zeros, router;
  Model model;

  explicit RouterModel(const Gates& gates)
      : embedding(kTokens * kTokens),
        zeros(3 * kHeadDim * kTokens),
        router(gates.experts * kTokens) {
    for (int t = 0; t < kTokens; ++t) embedding[t * kTokens + t] = kRootOfTokens;
    for (int t = 0; t < kTokens; ++t) {
      for (int e = 0; e < gates.experts; ++e) {
        router[e * kTokens + t] = gates.logits[t * gates.experts + e];
      }
    }
    model.shape = {};
    Shape& s = model.shape;
    s.layers = 1;
    s.hidden = s.vocabulary = s.sampleable = kTokens;
    s.heads = s.kv_heads = 1;
    s.head_dim = s.rotary_dim = kHeadDim;
    s.experts = gates.experts;
    s.top_k = gates.top_k;
    s.groups = gates.groups;
    s.groups_kept = gates.groups_kept;
    s.routed_scale = gates.routed_scale;
    s.rope_magnitude = 1;
    model.embedding = model.head = f32_matrix(embedding, kTokens, kTokens);
    model.final_norm = Vector(kTokens, 1.0f);
    model.rope_inverse = Vector(kHeadDim / 2, 1.0f);
    model.layers.resize(1);
    LayerWeights& layer = model.layers[0];
    layer.input_norm = Vector(kTokens, 1.0f);
    layer.post_norm = Vector(kTokens, 1 / kRootOfTokens);
    layer.router_bias = gates.bias;
    layer.qkv = f32_matrix(zeros, 3 * kHeadDim, kTokens);
    layer.attention_out = f32_matrix(zeros, kTokens, kHeadDim);
    layer.router = f32_matrix(router, gates.experts, kTokens);
    Mlp expert;
    expert.gate = expert.up = f32_matrix(zeros, 1, kTokens);
    expert.down = f32_matrix(zeros, kTokens, 1);
    model.experts.assign(gates.experts, expert);
  }
};

void require_ok(const Status& status) { require(!status.failed(), "%s", status.text); }

// Routes tokens [first, first + count) of the gates in one step.
Routed route(const Gates& gates, int first = 0, int count = kTokens) {
  const RouterModel router(gates);
  Limits limits{};
  limits.step_tokens = limits.context = limits.kv_block_tokens = kTokens;
  limits.parts = limits.kv_blocks = 1;
  limits.kv_dtype = Dtype::f32;
  limits.threads = 2;
  const Backend* backend = tested;
  void* self = nullptr;
  require_ok(backend->open(&router.model, &limits, &self));
  std::vector<int32_t> ids(count);
  std::iota(ids.begin(), ids.end(), first);
  const int32_t block = 0;
  Part part{};
  part.tokens = count;
  part.target = -1;
  part.blocks = &block;
  const StepInput input = {count, 1, ids.data(), &part};
  const int pairs = count * gates.top_k;
  Routed routed{std::vector<uint16_t>(pairs), std::vector<float>(pairs)};
  Status status = backend->begin(self, 0, &input);
  if (!status.failed()) status = backend->attend(self, 0, 0);
  if (!status.failed()) {
    status = backend->route(self, 0, 0, routed.experts.data(), routed.weights.data(), nullptr);
  }
  backend->close(self);
  require_ok(status);
  return routed;
}

// What one token's logits choose, in float64.
struct Expected {
  std::vector<int> experts;
  std::vector<double> weights;
  double margin;  // smallest difference on which a choice or an order hung
};

// Indices by falling score; the lower one first among equals.
std::vector<int> ranking(const std::vector<double>& scores) {
  std::vector<int> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return scores[a] > scores[b]; });
  return order;
}

Expected reference(const Gates& gates, const float* logits) {
  std::vector<double> scores(gates.experts), choice(gates.experts);
  for (int e = 0; e < gates.experts; ++e) {
    scores[e] = 1 / (1 + std::exp(-static_cast<double>(logits[e])));
    choice[e] = scores[e] + (gates.bias.empty() ? 0 : gates.bias[e]);
  }
  Expected expected{{}, {}, INFINITY};
  const int size = gates.experts / gates.groups;
  std::vector<double> group_scores(gates.groups);
  for (int g = 0; g < gates.groups; ++g) {
    std::vector<double> members(choice.begin() + g * size, choice.begin() + (g + 1) * size);
    std::sort(members.rbegin(), members.rend());
    group_scores[g] = size > 1 ? members[0] + members[1] : members[0];
  }
  const std::vector<int> groups = ranking(group_scores);
  if (gates.groups_kept < gates.groups) {
    const int last_kept = groups[gates.groups_kept - 1], first_dropped = groups[gates.groups_kept];
    expected.margin = group_scores[last_kept] - group_scores[first_dropped];
  }
  for (int n = gates.groups_kept; n < gates.groups; ++n) {
    std::fill_n(choice.begin() + groups[n] * size, size, -INFINITY);
  }
  const std::vector<int> order = ranking(choice);
  double total = 0;
  for (int k = 0; k < gates.top_k; ++k) {
    expected.experts.push_back(order[k]);
    expected.margin = std::min(expected.margin, choice[order[k]] - choice[order[k + 1]]);
    total += scores[order[k]];
  }
  for (const int e : expected.experts) {
    const double share = gates.top_k > 1 ? scores[e] / (total + 1e-20) : scores[e];
    expected.weights.push_back(share * gates.routed_scale);
  }
  return expected;
}

// Experts in order and weights of all tokens; `may_tie` tokens of them may be near ties.
void require_routes(const Gates& gates, int may_tie) {
  const Routed routed = route(gates);
  int ties = 0;
  for (int t = 0; t < kTokens; ++t) {
    const Expected expected = reference(gates, &gates.logits[t * gates.experts]);
    if (expected.margin < kNearTie && ++ties <= may_tie) continue;
    for (int k = 0; k < gates.top_k; ++k) {
      const int expert = routed.experts[t * gates.top_k + k];
      const double weight = routed.weights[t * gates.top_k + k];
      require(expert == expected.experts[k],
              "token %d rank %d: expert %d, expected %d (margin %.2g)", t, k, expert,
              expected.experts[k], expected.margin);
      require(std::fabs(weight - expected.weights[k]) <= 1e-6 * expected.weights[k],
              "token %d rank %d: weight %.9g, expected %.9g", t, k, weight, expected.weights[k]);
    }
  }
  require(ties <= may_tie, "%d near ties, at most %d were expected of these logits", ties, may_tie);
}

Gates random_gates(uint64_t seed, int experts, int groups, int groups_kept, int top_k) {
  Gates gates{experts, groups, groups_kept, top_k, 2.5f, std::vector<float>(kTokens * experts), {}};
  Dice dice(seed);
  for (float& logit : gates.logits) logit = static_cast<float>(1.5 * dice.gaussian() - 1);
  return gates;
}

void add_bias(Gates& gates, double mean, double deviation) {
  Dice dice(50);
  for (int e = 0; e < gates.experts; ++e) {
    gates.bias.push_back(static_cast<float>(mean + deviation * dice.gaussian()));
  }
}

void require_experts(const Routed& routed, int token, const std::vector<int>& expected) {
  for (size_t k = 0; k < expected.size(); ++k) {
    const int found = routed.experts[token * expected.size() + k];
    require(found == expected[k], "rank %zu: expert %d, expected %d", k, found, expected[k]);
  }
}

}  // namespace

RING_ROUTER_CASE(route_grouped,
                 "routes 256 experts in 8 groups, of which 4 are kept, as float64 does") {
  for (uint64_t seed = 51; seed < 55; ++seed) {
    Gates gates = random_gates(seed, 256, 8, 4, 8);
    require_routes(gates, 2);
    add_bias(gates, 0, 0.05);
    require_routes(gates, 2);
  }
}

RING_ROUTER_CASE(route_one_group, "routes without groups as float64 does") {
  Gates gates = random_gates(56, 64, 1, 1, 6);
  require_routes(gates, 1);
  add_bias(gates, 0.1, 0.1);
  require_routes(gates, 1);
}

RING_ROUTER_CASE(route_all_groups, "keeping all groups is like having none") {
  Gates gates = random_gates(57, 32, 4, 4, 5);
  add_bias(gates, 0, 0.1);
  const Routed grouped = route(gates);
  gates.groups = gates.groups_kept = 1;
  const Routed plain = route(gates);
  require(grouped.experts == plain.experts && grouped.weights == plain.weights, "they differ");
}

RING_ROUTER_CASE(route_top_1, "a single expert's weight is its score, not one") {
  Gates gates = random_gates(58, 16, 1, 1, 1);
  require_routes(gates, 1);
  gates.groups = 4;
  gates.groups_kept = 2;
  require_routes(gates, 1);
}

// With every choice score below zero, an expert of a dropped group must still not be preferred.
RING_ROUTER_CASE(route_negative,
                 "biases around -3 choose as float64 does, and leave weights alone") {
  Gates gates = random_gates(59, 256, 8, 4, 8);
  add_bias(gates, -3, 0.05);
  require_routes(gates, 2);
}

RING_ROUTER_CASE(route_bias_only_chooses, "a bias changes who is chosen, and no weight") {
  Gates gates = random_gates(60, 16, 1, 1, 2);
  gates.bias.assign(16, 0.0f);
  gates.bias[11] = gates.bias[4] = 5;
  const Routed routed = route(gates);
  for (int t = 0; t < kTokens; ++t) {
    const float* logits = &gates.logits[t * 16];
    const bool is_11_higher = logits[11] > logits[4];
    require_experts(routed, t, is_11_higher ? std::vector<int>{11, 4} : std::vector<int>{4, 11});
    const double a = 1 / (1 + std::exp(-logits[routed.experts[2 * t]]));
    const double b = 1 / (1 + std::exp(-logits[routed.experts[2 * t + 1]]));
    require(std::fabs(routed.weights[2 * t] - 2.5 * a / (a + b)) < 1e-5, "token %d", t);
  }
}

RING_ROUTER_CASE(route_ties, "the lower index wins an exact tie, of experts and of groups") {
  Gates gates = random_gates(61, 256, 8, 4, 8);
  std::fill(gates.logits.begin(), gates.logits.end(), 0.25f);
  // Token 1: groups 2, 4, 5, 6 and 7 tie above the others, and the last of them is one too many.
  for (const int group : {2, 4, 5, 6, 7}) {
    gates.logits[256 + group * 32 + 30] = gates.logits[256 + group * 32 + 31] = 1;
  }
  const Routed routed = route(gates);
  require_experts(routed, 0, {0, 1, 2, 3, 4, 5, 6, 7});
  require_experts(routed, 1, {94, 95, 158, 159, 190, 191, 222, 223});
  for (int k = 0; k < 8; ++k) {
    require(routed.weights[k] == 2.5f / 8, "weight %d is not an eighth", k);
  }
}

// exp(-46) is 1e-20: there the epsilon of the published code weighs as much as a score.
RING_ROUTER_CASE(route_tiny, "scores near 1e-20 meet the epsilon of the normalisation") {
  Gates gates = random_gates(62, 16, 1, 1, 4);
  for (size_t i = 0; i < gates.logits.size(); ++i) {
    gates.logits[i] = -44.5f - 0.25f * static_cast<float>((i * 7) % 16);
  }
  const Routed routed = route(gates);
  for (int t = 0; t < kTokens; ++t) {
    std::vector<double> scores;
    for (int e = 0; e < 16; ++e) {
      scores.push_back(1 / (1 + std::exp(-static_cast<double>(gates.logits[t * 16 + e]))));
    }
    const std::vector<int> order = ranking(scores);
    const double total = scores[order[0]] + scores[order[1]] + scores[order[2]] + scores[order[3]];
    require(total < 2e-19, "scores are not tiny: %g", total);
    require_experts(routed, t, {order[0], order[1], order[2], order[3]});
    for (int k = 0; k < 4; ++k) {
      const double expected = 2.5 * scores[order[k]] / (total + 1e-20);
      require(std::fabs(routed.weights[t * 4 + k] - expected) <= 1e-5 * expected,
              "token %d rank %d: weight %.9g, expected %.9g", t, k,
              static_cast<double>(routed.weights[t * 4 + k]), expected);
    }
  }
}

RING_ROUTER_CASE(route_zero, "scores that vanish give weights of zero, not NaN") {
  Gates gates = random_gates(63, 16, 4, 2, 4);
  std::fill(gates.logits.begin(), gates.logits.end(), -200.0f);
  const Routed routed = route(gates);
  for (const float weight : routed.weights) {
    require(weight == 0, "a weight is %g", static_cast<double>(weight));
  }
}

RING_ROUTER_CASE(route_companions, "routes a token alone as among 63 others, bit by bit") {
  Gates gates = random_gates(64, 256, 8, 4, 8);
  add_bias(gates, 0, 0.05);
  const Routed together = route(gates);
  for (const int t : {0, 1, 7, 40, 63}) {
    const Routed alone = route(gates, t, 1);
    require(std::equal(alone.experts.begin(), alone.experts.end(), &together.experts[t * 8]) &&
                std::equal(alone.weights.begin(), alone.weights.end(), &together.weights[t * 8]),
            "token %d differs", t);
  }
}
