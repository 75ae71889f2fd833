// See sampler.h.
#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace ring::cpu {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

bool higher(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

void apply_penalties(const Sampling& sampling, DrawScratch& scratch) {
  const bool wanted =
      sampling.repetition != 1.0f || sampling.presence != 0.0f || sampling.frequency != 0.0f;
  if (!wanted) return;
  std::vector<float>& logits = scratch.adjusted;
  scratch.prompt_count.resize(logits.size(), 0);
  scratch.output_count.resize(logits.size(), 0);
  for (int32_t i = 0; i < sampling.history_count; ++i) {
    const int32_t id = sampling.history[i];
    ++(i < sampling.prompt_count ? scratch.prompt_count : scratch.output_count)[id];
  }
  for (int32_t i = 0; i < sampling.history_count; ++i) {
    const int32_t id = sampling.history[i];
    int32_t& in_prompt = scratch.prompt_count[id];
    int32_t& in_output = scratch.output_count[id];
    if (in_prompt == 0 && in_output == 0) continue;  // met before
    float& logit = logits[id];
    // Repetition over prompt and output (Keskar et al. 2019, arXiv 1909.05858 §4.1); presence and
    // frequency over the output, as the OpenAI API defines them.
    logit = logit > 0 ? logit / sampling.repetition : logit * sampling.repetition;
    if (in_output > 0) {
      logit -= sampling.presence + sampling.frequency * static_cast<float>(in_output);
    }
    in_prompt = in_output = 0;
  }
}

void adjust(const float* logits, int32_t vocabulary, int32_t sampleable, const Sampling& sampling,
            DrawScratch& scratch) {
  scratch.adjusted.assign(logits, logits + vocabulary);
  for (int32_t i = 0; i < sampling.bias_count; ++i) {
    scratch.adjusted[sampling.bias_ids[i]] += sampling.bias_values[i];
  }
  apply_penalties(sampling, scratch);
  for (int32_t id = sampleable; id < vocabulary; ++id) scratch.adjusted[id] = kNever;
  if (sampling.mask == nullptr) return;
  for (int32_t id = 0; id < sampleable; ++id) {
    if (!(sampling.mask[id >> 5] >> (id & 31) & 1u)) scratch.adjusted[id] = kNever;
  }
}

int32_t greedy(const std::vector<float>& logits) {
  int32_t best = -1;
  for (size_t id = 0; id < logits.size(); ++id) {
    if (!(logits[id] > kNever)) continue;
    if (best < 0 || logits[id] > logits[best]) best = static_cast<int32_t>(id);
  }
  return best;
}

// Keeps the most likely candidates that top-k, top-p and min-p leave; shares sum to `total`.
double narrow(const Sampling& sampling, DrawScratch& scratch) {
  std::vector<Candidate>& candidates = scratch.candidates;
  std::vector<double>& shares = scratch.shares;
  const bool narrows = sampling.top_k > 0 || sampling.top_p < 1.0f;
  if (narrows) {
    size_t keep = candidates.size();
    if (sampling.top_k > 0) keep = std::min(keep, static_cast<size_t>(sampling.top_k));
    if (keep < candidates.size()) {
      std::nth_element(candidates.begin(), candidates.begin() + static_cast<int64_t>(keep) - 1,
                       candidates.end(), higher);
      candidates.resize(keep);
    }
    std::sort(candidates.begin(), candidates.end(), higher);
  }
  const float highest = std::min_element(candidates.begin(), candidates.end(), higher)->logit;
  shares.resize(candidates.size());
  double total = 0;
  for (size_t i = 0; i < candidates.size(); ++i) {
    const float logit = candidates[i].logit;
    // Equal ones without a difference: biases may have made them infinite.
    shares[i] = logit == highest
                    ? 1.0
                    : std::exp((static_cast<double>(logit) - highest) / sampling.temperature);
    total += shares[i];
  }
  if (sampling.top_p < 1.0f) {
    double kept = 0;
    size_t count = 0;
    while (count < shares.size() && (count == 0 || kept < sampling.top_p * total))
      kept += shares[count++];
    shares.resize(count);
    candidates.resize(count);
    total = kept;
  }
  if (sampling.min_p > 0.0f) {
    // Relative to the most likely one, whose share is exp(0) = 1.
    total = 0;
    for (double& share : shares) {
      if (share < sampling.min_p) share = 0;
      total += share;
    }
  }
  return total;
}

}  // namespace

double uniform(uint64_t seed, uint64_t position) {
  uint32_t key[2] = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  uint32_t word[4] = {static_cast<uint32_t>(position), static_cast<uint32_t>(position >> 32), 0, 0};
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = static_cast<uint64_t>(word[0]) * 0xD2511F53u;
    const uint64_t b = static_cast<uint64_t>(word[2]) * 0xCD9E8D57u;
    const uint32_t next[4] = {
        static_cast<uint32_t>(b >> 32) ^ word[1] ^ key[0], static_cast<uint32_t>(b),
        static_cast<uint32_t>(a >> 32) ^ word[3] ^ key[1], static_cast<uint32_t>(a)};
    std::copy(next, next + 4, word);
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  const uint64_t bits = (static_cast<uint64_t>(word[0]) << 32 | word[1]) >> 11;
  return static_cast<double>(bits) * 0x1p-53;
}

double log_sum_exp(const float* logits, int32_t vocabulary) {
  const float highest = *std::max_element(logits, logits + vocabulary);
  double total = 0;
  for (int32_t id = 0; id < vocabulary; ++id)
    total += std::exp(static_cast<double>(logits[id]) - highest);
  return static_cast<double>(highest) + std::log(total);
}

void top_candidates(const float* logits, int32_t vocabulary, int32_t count,
                    std::vector<Candidate>& out) {
  out.resize(static_cast<size_t>(vocabulary));
  for (int32_t id = 0; id < vocabulary; ++id) out[id] = {id, logits[id]};
  count = std::min(count, vocabulary);
  std::partial_sort(out.begin(), out.begin() + count, out.end(), higher);
  out.resize(static_cast<size_t>(count));
}

int32_t draw(const float* logits, int32_t vocabulary, int32_t sampleable, const Sampling& sampling,
             DrawScratch& scratch) {
  adjust(logits, vocabulary, sampleable, sampling, scratch);
  if (sampling.temperature <= 0.0f) return greedy(scratch.adjusted);
  std::vector<Candidate>& candidates = scratch.candidates;
  candidates.clear();
  for (int32_t id = 0; id < vocabulary; ++id) {
    // Opposite infinite biases make a NaN, which no order knows: never drawn either.
    if (scratch.adjusted[id] > kNever) candidates.push_back({id, scratch.adjusted[id]});
  }
  if (candidates.empty()) return -1;
  const double total = narrow(sampling, scratch);
  const double aim = uniform(sampling.seed, sampling.position) * total;
  double reached = 0;
  int32_t last = candidates.front().id;
  for (size_t i = 0; i < candidates.size(); ++i) {
    if (scratch.shares[i] == 0) continue;
    reached += scratch.shares[i];
    last = candidates[i].id;
    if (aim < reached) break;
  }
  return last;  // rounding may leave aim at the very end: then the last candidate
}

}  // namespace ring::cpu
