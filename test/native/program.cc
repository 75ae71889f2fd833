// The program: `ring_tests` runs every case, `ring_tests NAME` one, `ring_tests --list` prints the
// names, and `ring_tests --canary` runs a case that must fail. Each case prints one line, `ok
// NAME`, `not ok NAME: why` or `skip NAME: why`. Exit status 0: none failed, 1: some failed, 2:
// wrong usage.
#include <unistd.h>

#include <cstdio>
#include <cstring>

#include "harness.h"

namespace ring::test {
namespace {

// A case that hangs ends the program by SIGALRM instead of holding up whoever waits for it.
constexpr unsigned kCaseSecondsMax = 60;

bool passes(const Case& one) {
  alarm(kCaseSecondsMax);
  const Outcome outcome = outcome_of(one);
  const char* name = one.name.c_str();
  if (outcome.verdict == Verdict::ok) printf("ok %s\n", name);
  if (outcome.verdict == Verdict::failed) printf("not ok %s: %s\n", name, outcome.why.c_str());
  if (outcome.verdict == Verdict::skipped) printf("skip %s: %s\n", name, outcome.why.c_str());
  // Before the next case, which may end the process.
  fflush(stdout);
  return outcome.verdict != Verdict::failed;
}

int run_cases(const char* name) {
  int run = 0, failed = 0;
  for (const Case& one : cases()) {
    if (name != nullptr && one.name != name) continue;
    ++run;
    if (!passes(one)) ++failed;
  }
  if (run == 0) {
    fprintf(stderr, "no case is named %s\n", name == nullptr ? "anything" : name);
    return 2;
  }
  return failed > 0 ? 1 : 0;
}

}  // namespace
}  // namespace ring::test

int main(int count, char** arguments) {
  using namespace ring::test;
  if (count > 2) {
    fprintf(stderr, "usage: ring_tests [--list | --canary | NAME]\n");
    return 2;
  }
  const char* argument = count == 2 ? arguments[1] : nullptr;
  if (argument != nullptr && strcmp(argument, "--list") == 0) {
    for (const Case& one : cases()) printf("%s\n", one.name.c_str());
    return 0;
  }
  if (argument != nullptr && strcmp(argument, "--canary") == 0) {
    const Case canary{"canary", [] { require(1 + 1 == 3, "1 + 1 is %d", 1 + 1); }};
    return passes(canary) ? 0 : 1;
  }
  return run_cases(argument);
}
