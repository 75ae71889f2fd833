// See outcome.h.
#include "outcome.h"

#include <cstring>
#include <limits>

#include "sampler.h"

namespace ring::cpu {

void list_rows(const std::vector<Part>& parts, std::vector<LogitRow>& rows) {
  rows.clear();
  for (size_t index = 0; index < parts.size(); ++index) {
    const Part& part = parts[index];
    const int end = part.first_token + part.tokens;
    const int begin = part.rows == Rows::all    ? part.first_token
                      : part.rows == Rows::last ? end - 1
                                                : end;
    for (int token = begin; token < end; ++token)
      rows.push_back({token, static_cast<int>(index), token == end - 1});
  }
}

void finish_row(const Shape& s, const Part& part, const int32_t* ids, const LogitRow& row,
                const float* logits, const Sampling* sampling, const HeadOutput& out, int index) {
  thread_local DrawScratch scratch;
  const double normaliser = log_sum_exp(logits, s.vocabulary);
  int32_t drawn = -1;
  if (row.last && part.sampled) {
    drawn = draw(logits, s.vocabulary, s.sampleable, sampling[row.part], scratch);
  }
  const int32_t following = row.last ? part.target : ids[row.token + 1];
  const int32_t spoken_of = drawn >= 0 ? drawn : following;
  out.next[index] = drawn;
  out.logprobs[index] = spoken_of < 0 ? std::numeric_limits<float>::quiet_NaN()
                                      : static_cast<float>(logits[spoken_of] - normaliser);
  if (out.top_count > 0) {
    top_candidates(logits, s.vocabulary, out.top_count, scratch.candidates);
    for (size_t i = 0; i < scratch.candidates.size(); ++i) {
      const size_t at = static_cast<size_t>(index) * out.top_count + i;
      out.top_ids[at] = scratch.candidates[i].id;
      out.top_logprobs[at] = static_cast<float>(scratch.candidates[i].logit - normaliser);
    }
  }
  if (out.logits != nullptr) {
    memcpy(out.logits + static_cast<size_t>(index) * s.vocabulary, logits,
           static_cast<size_t>(s.vocabulary) * sizeof(float));
  }
}

Status not_a_number(const Shape& shape, int layer) {
  if (layer >= shape.layers) {
    return failure(Code::not_a_number,
                   "the logits are not finite numbers: a weight of the output head is damaged");
  }
  return failure(Code::not_a_number,
                 "values that are not finite numbers reached layer %d: a weight in or before it is "
                 "damaged (FP8 NaN code, or a scale out of range)",
                 layer);
}

}  // namespace ring::cpu
