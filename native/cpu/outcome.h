// What is wanted of the rows that asked for logits: which rows they are, and of each the drawn
// token, its log-probability and the best candidates. A pure function of logits that lie in memory,
// whoever computed them.
#pragma once
#include <vector>

#include "../backend.h"

namespace ring::cpu {

struct LogitRow {
  int token;  // in the step
  int part;
  bool last;  // of its part
};

void list_rows(const std::vector<Part>& parts, std::vector<LogitRow>& rows);

// Row `index` of the outcome, from logits [vocabulary]. ids: of the step's tokens.
void finish_row(const Shape& shape, const Part& part, const int32_t* ids, const LogitRow& row,
                const float* logits, const Sampling* sampling, const HeadOutput& out, int index);

// Why a step ends whose values are not finite from `layer` on; shape.layers: the logits.
Status not_a_number(const Shape& shape, int layer);

}  // namespace ring::cpu
