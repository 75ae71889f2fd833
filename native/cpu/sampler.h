// Drawing one token from logits. A pure function: the result depends on the logits, the sampling
// record and the sequence's own tokens, and on nothing else, so a sequence draws the same tokens
// alone or among others.
#pragma once
#include <vector>

#include "../backend.h"

namespace ring::cpu {

struct Candidate {
  int32_t id;
  float logit;
};

// Scratch that is kept from draw to draw.
struct DrawScratch {
  std::vector<float> adjusted;                      // [vocabulary]
  std::vector<int32_t> prompt_count, output_count;  // [vocabulary], zero between draws
  std::vector<Candidate> candidates;
  std::vector<double> shares;
};

// Order: bias and mask, penalties, temperature, top-k, top-p, min-p, draw. Ids from `sampleable`
// on are padding and never drawn. Temperature 0 is greedy, the lowest id winning a tie.
// Returns -1 when nothing is allowed.
int32_t draw(const float* logits, int32_t vocabulary, int32_t sampleable, const Sampling& sampling,
             DrawScratch& scratch);

// log of the sum of exponentials over the whole vocabulary; log-probability = logit - this.
double log_sum_exp(const float* logits, int32_t vocabulary);

// The `count` largest logits, falling, the lower id first among equals.
void top_candidates(const float* logits, int32_t vocabulary, int32_t count,
                    std::vector<Candidate>& out);

// Uniform in [0, 1) with 53 bits, from a counter-based generator (Philox 4x32-10; Salmon et al.,
// "Parallel random numbers: as easy as 1, 2, 3", SC 2011): the n-th draw of a seed needs no state.
double uniform(uint64_t seed, uint64_t position);

}  // namespace ring::cpu
