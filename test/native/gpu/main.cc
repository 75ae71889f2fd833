// The program: `ring_gpu_test LIBRARY` opens a backend's library, checks its numbers, measures what
// it reaches of what the GPU can do, and prints one table last. It needs neither Node nor CUDA.
// Exit status 0: all numbers hold, whatever the speed; 1: some do not, or there is no GPU; 2: wrong
// usage.
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <string>

#include "door.h"
#include "harness.h"
#include "sections.h"

namespace {

using namespace ring;
using namespace ring::gpu;
using test::Case;
using test::Outcome;
using test::Verdict;

constexpr const char* kHelp =
    "ring_gpu_test LIBRARY [--tiny] [--only numbers|ceilings|kernels|whole] [--case TEXT]\n"
    "Checks and measures the GPU backend in LIBRARY, such as ./ring_cuda.so. --tiny: small shapes\n"
    "and few repetitions, which show that everything runs, and nothing else. --case: only numbers\n"
    "whose sentence holds the text.\n";

struct Choice {
  std::string library, only, named;
  bool is_tiny = false;

  bool wants(const char* section) const { return only.empty() || only == section; }
};

bool read_choice(int count, char** words, Choice& choice) {
  for (int i = 1; i < count; ++i) {
    const std::string word = words[i];
    const bool has_value = i + 1 < count;
    if (word == "--tiny")
      choice.is_tiny = true;
    else if (word == "--only" && has_value)
      choice.only = words[++i];
    else if (word == "--case" && has_value)
      choice.named = words[++i];
    else if (word[0] != '-' && choice.library.empty())
      choice.library = word;
    else
      return false;
  }
  const bool is_known = choice.only.empty() || choice.only == "numbers" ||
                        choice.only == "ceilings" || choice.only == "kernels" ||
                        choice.only == "whole";
  return is_known && !choice.library.empty();
}

// Seconds that a part may begin something new in; together with what was begun: six minutes.
constexpr double kCeilingSeconds = 30, kNumberSeconds = 120, kKernelSeconds = 110,
                 kWholeSeconds = 70;
// A kernel that hangs ends the program by SIGALRM.
constexpr unsigned kGraceSeconds = 60;

Effort effort_for(const Choice& choice, double seconds) {
  alarm(static_cast<unsigned>(seconds) + kGraceSeconds);
  return {choice.is_tiny, now() + seconds};
}

// The cases that concern the GPU; the program's other cases need none.
bool concerns_gpu(const Case& one) { return one.name.find("cuda") != std::string::npos; }

void check_numbers(const Choice& choice, Table& table) {
  const Effort effort = effort_for(choice, kNumberSeconds);
  int checked = 0;
  for (const Case& one : test::cases()) {
    if (!concerns_gpu(one) || one.name.find(choice.named) == std::string::npos) continue;
    if (!effort.has_time()) {
      // What was not checked does not hold.
      table.add_check(one.name, "no time left", 0, "", false);
      continue;
    }
    const Outcome outcome = test::outcome_of(one);
    if (outcome.verdict == Verdict::skipped) {
      table.leave_out(one.name, outcome.why);
      continue;
    }
    ++checked;
    const bool holds = outcome.verdict == Verdict::ok;
    char worst[40] = "", bound[40] = "";
    if (outcome.errors > 0) {
      snprintf(worst, sizeof worst, "%.2g", outcome.worst);
      snprintf(bound, sizeof bound, "%.2g", outcome.bound);
    }
    table.add_check(one.name, holds ? worst : outcome.why, outcome.errors, bound, holds);
  }
  if (checked == 0) table.add_check("numbers", "nothing was checked", 0, "", false);
}

int run(const Choice& choice) {
  Table table;
  if (choice.wants("numbers")) check_numbers(choice, table);
  Ceilings ceilings;
  const auto measure = [&](const char* name, double seconds, const auto& part) {
    const Effort effort = effort_for(choice, seconds);
    attempt(effort, table, name, [&] { part(effort); });
  };
  if (choice.only != "numbers") {
    measure("ceilings", kCeilingSeconds,
            [&](const Effort& effort) { ceilings = measure_ceilings(effort, table); });
  }
  if (choice.wants("kernels")) {
    measure("kernels", kKernelSeconds,
            [&](const Effort& effort) { measure_kernels(effort, ceilings, table); });
  }
  if (choice.wants("whole")) {
    measure("whole layers and tokens", kWholeSeconds,
            [&](const Effort& effort) { measure_whole(effort, ceilings, table); });
  }
  const BackendProbe& probe = door().probe;
  printf("%s, compute capability %d.%d, driver for CUDA %s, %.1f GB%s\n\n", probe.name,
         probe.compute_major, probe.compute_minor, probe.driver,
         static_cast<double>(probe.memory_bytes) * 1e-9,
         choice.is_tiny ? ", tiny shapes: no figure of speed means anything" : "");
  table.print(stdout);
  return table.holds() ? 0 : 1;
}

}  // namespace

int main(int count, char** words) {
  Choice choice;
  if (!read_choice(count, words, choice)) {
    fputs(kHelp, stderr);
    return 2;
  }
  const Status status = open_door(choice.library, choice.is_tiny);
  if (status.failed()) {
    fprintf(stderr, "ring_gpu_test: %s\n", status.text);
    return 1;
  }
  return run(choice);
}
