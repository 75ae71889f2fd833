// The end of a step: final norm, lm_head and sampling, for the rows that asked for logits, a few
// rows at a time so that a long prompt scored at every position needs no [tokens][vocabulary].
#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu.h"
#include "outcome.h"

namespace ring::cpu {
namespace {

constexpr int kRowsAtATime = 8;

}  // namespace

Status sample(Cpu& cpu, StepState& step, const Sampling* sampling, const HeadOutput& out) {
  const Shape& s = cpu.shape;
  std::vector<LogitRow> rows;
  list_rows(step.parts, rows);
  if (static_cast<int>(rows.size()) > out.rows) {
    return failure(Code::bad_argument,
                   "the step has %d rows of logits, but the outcome has room for %d",
                   static_cast<int>(rows.size()), out.rows);
  }
  cpu.normalise(step, cpu.model.final_norm, s.layers);
  if (step.bad_layer.load() >= 0) return not_a_number(cpu.shape, step.bad_layer.load());
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
      if (!std::isfinite(cpu.row_logits[i])) return not_a_number(cpu.shape, s.layers);
    }
    cpu.pool.run(count, [&](int r, int) {
      const LogitRow& row = rows[first + r];
      finish_row(s, step.parts[row.part], step.ids.data(), row,
                 &cpu.row_logits[static_cast<size_t>(r) * s.vocabulary], sampling, out,
                 static_cast<int>(first) + r);
    });
  }
  return {};
}

}  // namespace ring::cpu
