// The program: `ring_tests` runs every case, `ring_tests NAME` one, `ring_tests --list` prints the
// names, and `ring_tests --canary` runs a case that must fail. Each case prints one line, `ok
// NAME`, `not ok NAME: why` or `skip NAME: why`. Exit status 0: none failed, 1: some failed, 2:
// wrong usage.
#include "harness.h"

#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <unistd.h>

namespace ring::test {
namespace {

struct Failed {
  std::string why;
};

struct Skipped {
  std::string why;
};

std::string formatted(const char* format, va_list arguments) {
  char text[512];
  vsnprintf(text, sizeof text, format, arguments);
  return text;
}

// A case that hangs ends the program by SIGALRM instead of holding up whoever waits for it.
constexpr unsigned kCaseSecondsMax = 60;

bool passes(const Case& one) {
  alarm(kCaseSecondsMax);
  try {
    one.body();
    printf("ok %s\n", one.name.c_str());
  } catch (const Skipped& skipped) {
    printf("skip %s: %s\n", one.name.c_str(), skipped.why.c_str());
  } catch (const Failed& failed) {
    printf("not ok %s: %s\n", one.name.c_str(), failed.why.c_str());
    fflush(stdout);
    return false;
  }
  // Before the next case, which may end the process.
  fflush(stdout);
  return true;
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

std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}

void require(bool holds, const char* format, ...) {
  if (holds) return;
  va_list arguments;
  va_start(arguments, format);
  const Failed failed{formatted(format, arguments)};
  va_end(arguments);
  throw failed;
}

void skip(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  const Skipped skipped{formatted(format, arguments)};
  va_end(arguments);
  throw skipped;
}

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
