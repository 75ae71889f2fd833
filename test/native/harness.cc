// See harness.h.
#include "harness.h"

#include <cstdarg>
#include <cstdio>

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

// What the running case has noted.
Outcome noted;

}  // namespace

std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}

Outcome outcome_of(const Case& one) {
  // A case may run another one.
  const Outcome outer = noted;
  noted = Outcome{};
  try {
    one.body();
  } catch (const Skipped& skipped) {
    noted.verdict = Verdict::skipped;
    noted.why = skipped.why;
  } catch (const Failed& failed) {
    noted.verdict = Verdict::failed;
    noted.why = failed.why;
  }
  const Outcome outcome = noted;
  noted = outer;
  return outcome;
}

void require(bool holds, const char* format, ...) {
  if (holds) return;
  va_list arguments;
  va_start(arguments, format);
  const Failed failed{formatted(format, arguments)};
  va_end(arguments);
  throw failed;
}

void require_error(double error, double bound, const char* what) {
  // Written so that NaN is the worst there is.
  const bool is_worst = noted.errors == 0 || !(error / bound <= noted.worst / noted.bound);
  ++noted.errors;
  if (is_worst) {
    noted.worst = error;
    noted.bound = bound;
  }
  require(error <= bound, "%s: off by %.3g, at most %.3g", what, error, bound);
}

void skip(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  const Skipped skipped{formatted(format, arguments)};
  va_end(arguments);
  throw skipped;
}

}  // namespace ring::test
