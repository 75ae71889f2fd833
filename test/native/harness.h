// The harness of the C++ tests: named cases, and what became of one. A case fails by the first
// claim that does not hold and is skipped by saying why; either leaves it by an exception, so a
// case must not state claims on threads of its own. It knows nothing of what is tested. The
// surprise: a program runs all cases in one process unless one is named, so a case must leave
// nothing behind.
#pragma once
#include <functional>
#include <string>
#include <vector>

namespace ring::test {

struct Case {
  std::string name;
  std::function<void()> body;
};

// All cases of the program, in the order in which the linker lined up their files.
std::vector<Case>& cases();

enum class Verdict { ok, failed, skipped };
struct Outcome {
  Verdict verdict = Verdict::ok;
  std::string why;
  // Of all errors that the case noted the one nearest to its bound, or farthest beyond.
  int errors = 0;
  double worst = 0, bound = 0;
};
Outcome outcome_of(const Case& one);

// Ends the case as failed unless the claim holds; the text says what was found instead.
__attribute__((format(printf, 2, 3))) void require(bool holds, const char* format, ...);

// Fails the case where an error is larger than it may be, or no number; else only keeps it.
void require_error(double error, double bound, const char* what);

// Ends the case as skipped; the text says what is absent.
[[noreturn]] __attribute__((format(printf, 1, 2))) void skip(const char* format, ...);

struct Registration {
  Registration(const char* name, void (*body)()) { cases().push_back({name, body}); }
};

}  // namespace ring::test

// RING_CASE(identifier, "what holds") { ... }
#define RING_CASE(identifier, name)                                           \
  static void identifier();                                                   \
  static const ring::test::Registration identifier##_case(name, identifier); \
  static void identifier()
