// The parts of the measurement, each with a time of its own: what each needs beside its effort.
#pragma once
#include <string>

#include "table.h"
#include "timing.h"

namespace ring::gpu {

// Runs what adds rows, unless there is no time left for it. What cannot go on ends nothing else:
// for want of memory it is left out, else something is wrong.
template <typename Body>
void attempt(const Effort& effort, Table& table, const std::string& what, const Body& body) {
  if (!effort.has_time()) return table.leave_out(what, "no time left");
  const test::Outcome outcome = test::outcome_of({what, body});
  if (outcome.verdict == test::Verdict::ok) return;
  const auto says = [&](const char* words) { return outcome.why.find(words) != std::string::npos; };
  if (says("out of memory") || says("GB left"))
    table.leave_out(what, outcome.why);
  else
    table.add_check(what, outcome.why, 0, "", false);
}

// What the GPU can do at most, as this run found it; per second.
struct Ceilings {
  double read_bytes = 0, products = 0;
};

// ceilings.cc
Ceilings measure_ceilings(const Effort& effort, Table& table);
// kernels.cc: products, experts, attention, router, head, by themselves.
void measure_kernels(const Effort& effort, const Ceilings& ceilings, Table& table);
// whole.cc: layers and tokens, through the backend's table.
void measure_whole(const Effort& effort, const Ceilings& ceilings, Table& table);

}  // namespace ring::gpu
