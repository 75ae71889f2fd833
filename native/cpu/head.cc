// The end of a step: final norm, lm_head and sampling, for the rows that asked for logits, a few
// rows at a time so that a long prompt scored at every position needs no [tokens][vocabulary].
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "cpu.h"
#include "sampler.h"

namespace ring::cpu {
namespace {

constexpr int kRowsAtATime = 8;

struct Row {
  int token;  // in the step
  int part;
  bool last;  // of its part
};

void list_rows(const StepState& step, std::vector<Row>& rows) {
  rows.clear();
  for (size_t index = 0; index < step.parts.size(); ++index) {
    const Part& part = step.parts[index];
    const int end = part.first_token + part.tokens;
    const int begin = part.rows == Rows::all    ? part.first_token
                      : part.rows == Rows::last ? end - 1
                                                : end;
    for (int token = begin; token < end; ++token)
      rows.push_back({token, static_cast<int>(index), token == end - 1});
  }
}

// Everything that is wanted of one row of logits.
void finish_row(const Cpu& cpu, const StepState& step, const Row& row, const float* logits,
                const Sampling* sampling, const HeadOutput& out, int index) {
  thread_local DrawScratch scratch;
  const Shape& s = cpu.shape;
  const Part& part = step.parts[row.part];
  const double normaliser = log_sum_exp(logits, s.vocabulary);
  int32_t drawn = -1;
  if (row.last && part.sampled) {
    drawn = draw(logits, s.vocabulary, s.sampleable, sampling[row.part], scratch);
  }
  const int32_t following = row.last ? part.target : step.ids[row.token + 1];
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

Status not_a_number(const Cpu& cpu, int layer) {
  if (layer >= cpu.shape.layers) {
    return failure(Code::not_a_number,
                   "the logits are not finite numbers: a weight of the output head is damaged");
  }
  return failure(Code::not_a_number,
                 "values that are not finite numbers reached layer %d: a weight in or before it is "
                 "damaged (FP8 NaN code, or a scale out of range)",
                 layer);
}

}  // namespace

Status sample(Cpu& cpu, StepState& step, const Sampling* sampling, const HeadOutput& out) {
  const Shape& s = cpu.shape;
  std::vector<Row> rows;
  list_rows(step, rows);
  if (static_cast<int>(rows.size()) > out.rows) {
    return failure(Code::bad_argument,
                   "the step has %d rows of logits, but the outcome has room for %d",
                   static_cast<int>(rows.size()), out.rows);
  }
  cpu.normalise(step, cpu.model.final_norm, s.layers);
  if (step.bad_layer.load() >= 0) return not_a_number(cpu, step.bad_layer.load());
  cpu.row_logits.resize(static_cast<size_t>(kRowsAtATime) * s.vocabulary);
  std::vector<float>& gathered = step.delta;  // free by now
  for (size_t first = 0; first < rows.size(); first += kRowsAtATime) {
    const int count = static_cast<int>(std::min<size_t>(kRowsAtATime, rows.size() - first));
    for (int r = 0; r < count; ++r) {
      memcpy(&gathered[static_cast<size_t>(r) * s.hidden],
             &step.normed[static_cast<size_t>(rows[first + r].token) * s.hidden],
             static_cast<size_t>(s.hidden) * sizeof(float));
    }
    cpu.linear(cpu.model.head, gathered.data(), count, cpu.row_logits.data());
    for (size_t i = 0; i < static_cast<size_t>(count) * s.vocabulary; ++i) {
      if (!std::isfinite(cpu.row_logits[i])) return not_a_number(cpu, s.layers);
    }
    cpu.pool.run(count, [&](int r, int) {
      finish_row(cpu, step, rows[first + r], &cpu.row_logits[static_cast<size_t>(r) * s.vocabulary],
                 sampling, out, static_cast<int>(first) + r);
    });
  }
  return {};
}

}  // namespace ring::cpu
