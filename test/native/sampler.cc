// Drawing a token: what each knob allows and forbids, that draws follow the probabilities, and that
// a draw depends on its own seed and tokens only. Logits are chosen so that the answer is plain.
#include "cpu/sampler.h"
#include "harness.h"
#include "reference.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <string>
#include <vector>

using namespace ring;
using namespace ring::cpu;
using namespace ring::test;

namespace {

// Changes nothing: temperature 1 over all that is not padding.
Sampling neutral() {
  Sampling sampling{};
  sampling.temperature = 1;
  sampling.top_p = 1;
  sampling.repetition = 1;
  return sampling;
}

Sampling greedy() {
  Sampling sampling = neutral();
  sampling.temperature = 0;
  return sampling;
}

int32_t draw_one(const std::vector<float>& logits, const Sampling& sampling) {
  DrawScratch scratch;
  const auto count = static_cast<int32_t>(logits.size());
  return draw(logits.data(), count, count, sampling, scratch);
}

// How often each token is drawn over consecutive positions of one seed.
std::map<int32_t, int> tally(const std::vector<float>& logits, Sampling sampling, int draws) {
  DrawScratch scratch;
  const auto count = static_cast<int32_t>(logits.size());
  std::map<int32_t, int> drawn;
  for (int i = 0; i < draws; ++i) {
    sampling.position = static_cast<uint64_t>(i);
    ++drawn[draw(logits.data(), count, count, sampling, scratch)];
  }
  return drawn;
}

std::set<int32_t> support(const std::vector<float>& logits, const Sampling& sampling) {
  std::set<int32_t> ids;
  for (const auto& [id, times] : tally(logits, sampling, 4000)) ids.insert(id);
  return ids;
}

void require_support(const std::vector<float>& logits, const Sampling& sampling,
                     const std::set<int32_t>& expected) {
  const std::set<int32_t> found = support(logits, sampling);
  std::string text;
  for (const int32_t id : found) text += std::to_string(id) + " ";
  require(found == expected, "drawn: %s", text.c_str());
}

std::vector<float> logits_of(const std::vector<double>& probabilities) {
  std::vector<float> logits;
  for (const double probability : probabilities) {
    logits.push_back(static_cast<float>(std::log(probability)));
  }
  return logits;
}

void require_greedy(const std::vector<float>& logits, const Sampling& sampling, int32_t expected) {
  const int32_t found = draw_one(logits, sampling);
  require(found == expected, "drew %d, expected %d", found, expected);
}

// The history of `greedy()` with penalties; the vectors must outlive the sampling.
Sampling with_history(const std::vector<int32_t>& history, int32_t prompt_count) {
  Sampling sampling = greedy();
  sampling.history = history.data();
  sampling.history_count = static_cast<int32_t>(history.size());
  sampling.prompt_count = prompt_count;
  return sampling;
}

void require_binomial(int times, int draws, double probability, const char* what) {
  const double sigma = std::sqrt(draws * probability * (1 - probability));
  require(std::fabs(times - draws * probability) <= 5 * sigma,
          "%s: %d of %d draws, expected %.0f +- %.0f", what, times, draws, draws * probability,
          sigma);
}

// Philox 4x32-10 as its paper states it (Salmon et al., SC 2011, §3.3 and table 2).
void philox(uint32_t counter[4], uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t left = uint64_t{0xD2511F53} * counter[0];
    const uint64_t right = uint64_t{0xCD9E8D57} * counter[2];
    const uint32_t second = counter[1], fourth = counter[3];
    counter[0] = static_cast<uint32_t>(right >> 32) ^ second ^ key0;
    counter[1] = static_cast<uint32_t>(right);
    counter[2] = static_cast<uint32_t>(left >> 32) ^ fourth ^ key1;
    counter[3] = static_cast<uint32_t>(left);
    key0 += 0x9E3779B9;
    key1 += 0xBB67AE85;
  }
}

double fraction(uint32_t high, uint32_t low) {
  return static_cast<double>((uint64_t{high} << 32 | low) >> 11) * 0x1p-53;
}

}  // namespace

RING_CASE(greedy_highest, "greedy takes the highest logit, and the lowest id among equals") {
  require_greedy({1, 3, 2}, greedy(), 1);
  require_greedy({1, 3, 2, 3, 3}, greedy(), 1);
  require_greedy({-5, -5}, greedy(), 0);
}

RING_CASE(padding, "padding ids are never drawn, however high their logits") {
  const std::vector<float> logits = {1, 2, 1, 900, 900};
  DrawScratch scratch;
  require(draw(logits.data(), 5, 3, greedy(), scratch) == 1, "greedy drew padding");
  Sampling sampling = neutral();
  for (int i = 0; i < 2000; ++i) {
    sampling.position = static_cast<uint64_t>(i);
    const int32_t id = draw(logits.data(), 5, 3, sampling, scratch);
    require(id >= 0 && id < 3, "drew %d", id);
  }
  const int32_t biased = 4;
  const float much = 1e6f;
  sampling.bias_ids = &biased;
  sampling.bias_values = &much;
  sampling.bias_count = 1;
  require(draw(logits.data(), 5, 3, sampling, scratch) < 3, "a bias reached padding");
  const uint32_t padding_only = 1u << 3;
  sampling.mask = &padding_only;
  require(draw(logits.data(), 5, 3, sampling, scratch) == -1, "a mask reached padding");
}

RING_CASE(mask, "a mask allows what its bits name, across words") {
  std::vector<float> logits(70, 0);
  logits[5] = 100;
  const uint32_t mask[3] = {1u << 0 | 1u << 31, 1u << 0 | 1u << 31, 1u << 5};
  Sampling sampling = neutral();
  sampling.mask = mask;
  require_support(logits, sampling, {0, 31, 32, 63, 69});
  sampling.temperature = 0;
  require_greedy(logits, sampling, 0);
}

RING_CASE(nothing_allowed, "nothing is drawn when nothing is allowed") {
  const uint32_t none = 0;
  for (const float temperature : {0.0f, 1.0f}) {
    Sampling sampling = neutral();
    sampling.temperature = temperature;
    sampling.mask = &none;
    require_greedy({1, 2, 3}, sampling, -1);
  }
}

RING_CASE(bias, "a bias moves a logit, and one of minus infinity forbids it") {
  const int32_t ids[] = {0, 2, 2};
  Sampling sampling = greedy();
  sampling.bias_ids = ids;
  sampling.bias_count = 3;
  const float small[] = {0, 0.5f, 0.6f};  // listed twice: both count
  sampling.bias_values = small;
  require_greedy({0, 1, 0}, sampling, 2);
  const float forbidding[] = {-INFINITY, -INFINITY, 5};
  sampling.bias_values = forbidding;
  require_greedy({9, 1, 9}, sampling, 1);
  sampling.temperature = 1;
  require_support({9, 1, 9}, sampling, {1});
  const float all_but[] = {-3e38f, -3e38f, -3e38f};  // two of them overflow to minus infinity
  sampling.bias_values = all_but;
  require_support({9, 1, 9}, sampling, {1});
}

// Infinities reach the sampler by sums that overflow, whatever the door lets in.
RING_CASE(bias_infinite, "a bias of plus infinity forces a token, and both infinities forbid it") {
  const int32_t ids[] = {0, 0, 2, 3};
  const float forcing[] = {INFINITY, -INFINITY, INFINITY, INFINITY};
  Sampling sampling = neutral();
  sampling.bias_ids = ids;
  sampling.bias_values = forcing;
  sampling.bias_count = 4;
  require_support({5, 1, 1, 2}, sampling, {2, 3});
  sampling.top_p = 0.9f;
  sampling.min_p = 0.1f;
  require_support({5, 1, 1, 2}, sampling, {2, 3});
  sampling.bias_count = 2;
  require_support({5, 1, 1, 2}, sampling, {1, 2, 3});
  sampling.temperature = 0;
  require_greedy({5, 1, 1, 2}, sampling, 3);
}

RING_CASE(repetition, "repetition divides positive and multiplies negative logits") {
  const std::vector<int32_t> history = {0, 1, 1, 1};
  Sampling sampling = with_history(history, 1);
  sampling.repetition = 2;
  require_greedy({4, 3, 1.9f}, sampling, 0);     // 2, 1.5, 1.9
  require_greedy({4, 3, 2.1f}, sampling, 2);     // 2, 1.5, 2.1
  require_greedy({-4, 3, 1.4f}, sampling, 1);    // met three times, yet divided once
  require_greedy({-4, -3, -5.9f}, sampling, 2);  // -8, -6, -5.9
  require_greedy({-4, -3, -6.1f}, sampling, 1);  // -8, -6, -6.1
}

RING_CASE(presence, "presence is taken once from what was generated, not from the prompt") {
  const std::vector<int32_t> history = {0, 1, 1, 1};
  Sampling sampling = with_history(history, 1);
  sampling.presence = 1;
  require_greedy({0, 0.9f, -0.2f}, sampling, 0);
  require_greedy({-5, 0.9f, -0.2f}, sampling, 1);
  require_greedy({-5, 0.9f, 0}, sampling, 2);
  sampling.presence = -1;
  require_greedy({0.5f, 0, 0.9f}, sampling, 1);
}

RING_CASE(frequency, "frequency is taken for each time a token was generated") {
  const std::vector<int32_t> history = {1, 0, 0, 1, 1, 1};
  Sampling sampling = with_history(history, 3);
  sampling.frequency = 1;
  require_greedy({0, 2.9f, -0.2f}, sampling, 0);  // 0, -0.1, -0.2
  require_greedy({0, 3.1f, -0.2f}, sampling, 1);  // 0, 0.1, -0.2
}

RING_CASE(bias_first, "bias comes before the penalties") {
  const std::vector<int32_t> history = {1};
  Sampling sampling = with_history(history, 1);
  sampling.repetition = 2;
  const int32_t id = 1;
  const float value = 2;
  sampling.bias_ids = &id;
  sampling.bias_values = &value;
  sampling.bias_count = 1;
  require_greedy({1.1f, 0}, sampling, 0);  // (0 + 2) / 2 = 1
}

RING_CASE(top_k, "top-k keeps the k highest, the lower id among equals") {
  Sampling sampling = neutral();
  sampling.top_k = 2;
  require_support({0, 2, 1, 1, 1}, sampling, {1, 2});
  sampling.top_k = 1;
  require_support({0, 1, 1}, sampling, {1});
  sampling.top_k = 99;
  require_support({0, 1, 1}, sampling, {0, 1, 2});
}

RING_CASE(top_p, "top-p keeps the smallest set that reaches p, and always one") {
  const std::vector<float> logits = logits_of({0.1, 0.4, 0.2, 0.3});
  Sampling sampling = neutral();
  sampling.top_p = 0.39f;
  require_support(logits, sampling, {1});
  sampling.top_p = 0.41f;
  require_support(logits, sampling, {1, 3});
  sampling.top_p = 0.75f;
  require_support(logits, sampling, {1, 2, 3});
  sampling.top_p = 0.95f;
  require_support(logits, sampling, {0, 1, 2, 3});
  sampling.top_p = 1e-9f;
  require_support(logits, sampling, {1});
  sampling.top_p = 0.5f;
  require_support({0, 0, 0, 0}, sampling, {0, 1});  // two of four reach one half exactly
}

RING_CASE(min_p, "min-p drops what is less likely than its share of the most likely") {
  const std::vector<float> logits = logits_of({0.4, 0.3, 0.19, 0.11});
  Sampling sampling = neutral();
  sampling.min_p = 0.5f;
  require_support(logits, sampling, {0, 1});
  sampling.min_p = 0.25f;
  require_support(logits, sampling, {0, 1, 2, 3});
  sampling.min_p = 1;
  require_support({3, 1, 3}, sampling, {0, 2});
}

RING_CASE(narrowed_together, "top-k, then top-p of what is left, then min-p") {
  const std::vector<float> logits = logits_of({0.4, 0.3, 0.2, 0.1});
  Sampling sampling = neutral();
  sampling.top_k = 2;
  sampling.top_p = 0.56f;  // 0.4 of 0.7 is 0.571, of the whole it would be 0.4
  require_support(logits, sampling, {0});
  sampling.top_p = 0.6f;
  require_support(logits, sampling, {0, 1});
  sampling.min_p = 0.8f;
  require_support(logits, sampling, {0});
}

RING_CASE(temperature_limits, "a tiny temperature is greedy, and a huge one draws evenly") {
  Sampling sampling = neutral();
  sampling.temperature = 1e-30f;
  require_support({1, 1.001f, 1}, sampling, {1});
  sampling.temperature = 1e30f;
  const auto drawn = tally({-50, 0, 50, 100}, sampling, 40000);
  for (int32_t id = 0; id < 4; ++id) {
    require_binomial(drawn.at(id), 40000, 0.25, "huge temperature");
  }
}

RING_CASE(far_logits, "logits far from zero neither overflow nor vanish") {
  for (const float offset : {-3e4f, 3e4f}) {
    const auto drawn = tally({offset, offset + 1}, neutral(), 20000);
    require_binomial(drawn.at(1), 20000, 1 / (1 + std::exp(-1)), "far logits");
  }
}

RING_CASE(distribution, "200,000 draws follow the probabilities within five sigma") {
  constexpr int kDraws = 200000;
  const std::vector<float> logits = {1.5f, -2, 0, 0.3f, 2.2f, -0.7f, 1.5f, -4};
  Sampling sampling = neutral();
  sampling.seed = 42;
  sampling.temperature = 0.7f;
  double total = 0;
  for (const float logit : logits) total += std::exp(logit / 0.7);
  const auto drawn = tally(logits, sampling, kDraws);
  for (int32_t id = 0; id < 8; ++id) {
    require_binomial(drawn.at(id), kDraws, std::exp(logits[id] / 0.7) / total, "temperature 0.7");
  }
}

RING_CASE(distribution_narrowed, "draws after top-k and top-p share out what is left") {
  constexpr int kDraws = 50000;
  Sampling sampling = neutral();
  sampling.seed = 43;
  sampling.top_k = 3;
  sampling.top_p = 0.7f;  // of 0.4, 0.3, 0.2 the first two reach it
  const auto drawn = tally(logits_of({0.1, 0.4, 0.2, 0.3}), sampling, kDraws);
  require(drawn.size() == 2, "%zu tokens were drawn", drawn.size());
  require_binomial(drawn.at(1), kDraws, 4.0 / 7, "top-k and top-p");
}

RING_CASE(distribution_of_seeds, "first draws of consecutive seeds follow the probabilities too") {
  constexpr int kDraws = 50000;
  DrawScratch scratch;
  const std::vector<float> logits = logits_of({0.1, 0.6, 0.3});
  std::vector<int> drawn(3);
  Sampling sampling = neutral();
  for (int i = 0; i < kDraws; ++i) {
    sampling.seed = static_cast<uint64_t>(i);
    ++drawn.at(draw(logits.data(), 3, 3, sampling, scratch));
  }
  require_binomial(drawn[0], kDraws, 0.1, "seeds");
  require_binomial(drawn[1], kDraws, 0.6, "seeds");
}

// The three answers that the paper's authors publish with their code (kat_vectors of Random123).
// Ours has two zero words in its counter, so only the first is reached from outside; the others
// show that the generator written down here, to which ours is compared, is the right one.
RING_CASE(generator, "uniform is Philox 4x32-10") {
  uint32_t zeros[4] = {0, 0, 0, 0};
  philox(zeros, 0, 0);
  require(zeros[0] == 0x6627e8d5 && zeros[1] == 0xe169c58d && zeros[2] == 0xbc57ac4c &&
              zeros[3] == 0x9b00dbd8, "the reference is wrong for zeros");
  uint32_t ones[4] = {0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff};
  philox(ones, 0xffffffff, 0xffffffff);
  require(ones[0] == 0x408f276d && ones[1] == 0x41c83b0e && ones[2] == 0xa20bc7c6 &&
              ones[3] == 0x6d5451fd, "the reference is wrong for ones");
  uint32_t pi[4] = {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344};
  philox(pi, 0xa4093822, 0x299f31d0);
  require(pi[0] == 0xd16cfe09 && pi[1] == 0x94fdcceb && pi[2] == 0x5001e420 && pi[3] == 0x24126ea1,
          "the reference is wrong for pi");
  require(uniform(0, 0) == fraction(0x6627e8d5, 0xe169c58d), "of zeros: %.17g", uniform(0, 0));
  Dice dice(40);
  for (int i = 0; i < 1000; ++i) {
    const uint64_t seed = dice.bits() >> dice.below(64), position = dice.bits() >> dice.below(64);
    const auto low = static_cast<uint32_t>(position), high = static_cast<uint32_t>(position >> 32);
    uint32_t counter[4] = {low, high, 0, 0};
    philox(counter, static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
    require(uniform(seed, position) == fraction(counter[0], counter[1]), "seed %llx, position %llx",
            static_cast<unsigned long long>(seed), static_cast<unsigned long long>(position));
  }
}

RING_CASE(generator_range, "uniform stays in [0, 1) and is not stuck") {
  double lowest = 1, highest = 0, total = 0;
  for (uint64_t position = 0; position < 100000; ++position) {
    const double value = uniform(7, position);
    lowest = std::min(lowest, value);
    highest = std::max(highest, value);
    total += value;
  }
  require(lowest >= 0 && highest < 1, "from %.17g to %.17g", lowest, highest);
  const double mean = total / 100000;  // of deviation sqrt(1/12) / sqrt(100000)
  require(std::fabs(mean - 0.5) < 5 * 0.2887 / std::sqrt(100000), "mean %g", mean);
}

// Penalties count in scratch memory that is kept: another row's counts must not be left in it.
RING_CASE(scratch, "a draw does not depend on the draws before it") {
  Dice dice(41);
  DrawScratch kept;
  for (int trial = 0; trial < 400; ++trial) {
    std::vector<float> logits(20 + dice.below(100));
    for (float& logit : logits) logit = static_cast<float>(3 * dice.gaussian());
    const auto count = static_cast<int32_t>(logits.size());
    std::vector<int32_t> history(dice.below(30));
    for (int32_t& id : history) id = dice.below(count);
    Sampling sampling = with_history(history, static_cast<int32_t>(history.size()) / 2);
    sampling.temperature = trial % 3 == 0 ? 0.0f : 0.8f;
    sampling.repetition = trial % 2 == 0 ? 1.0f : 1.3f;
    sampling.frequency = trial % 5 == 0 ? 0.0f : 0.4f;
    sampling.presence = trial % 7 == 0 ? 0.0f : 0.2f;
    sampling.top_k = dice.below(10);
    sampling.top_p = trial % 4 == 0 ? 1.0f : 0.9f;
    sampling.min_p = trial % 4 == 1 ? 0.05f : 0.0f;
    sampling.seed = static_cast<uint64_t>(trial);
    DrawScratch fresh;
    const int32_t expected = draw(logits.data(), count, count, sampling, fresh);
    const int32_t found = draw(logits.data(), count, count, sampling, kept);
    require(found == expected, "trial %d: %d after others, %d alone", trial, found, expected);
  }
}

RING_CASE(log_sum, "log_sum_exp agrees with the plain sum, and far from zero too") {
  const float near[] = {0.5f, -1, 2};
  const double expected = std::log(std::exp(0.5) + std::exp(-1) + std::exp(2));
  require(std::fabs(log_sum_exp(near, 3) - expected) < 1e-12, "%.15g", log_sum_exp(near, 3));
  const float far[] = {1e4f, 1e4f, -1e4f};
  const double found = log_sum_exp(far, 3);
  require(std::fabs(found - (1e4 + std::log(2))) < 1e-9, "%.15g", found);
}

RING_CASE(top_list, "the most likely tokens are listed falling, lower ids first among equals") {
  const float logits[] = {1, 3, 2, 3, -1};
  std::vector<Candidate> out;
  top_candidates(logits, 5, 4, out);
  const int32_t expected[] = {1, 3, 2, 0};
  require(out.size() == 4, "%zu are listed", out.size());
  for (int i = 0; i < 4; ++i) {
    require(out[i].id == expected[i], "place %d has %d", i, out[i].id);
    require(out[i].logit == logits[expected[i]], "place %d has another logit", i);
  }
  top_candidates(logits, 5, 99, out);
  require(out.size() == 5, "a vocabulary of 5 lists %zu", out.size());
}
