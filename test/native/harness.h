// The harness of the C++ tests: named cases, each judged by one line. A case fails by the first
// claim that does not hold and is skipped by saying why; either leaves it by an exception, so a
// case must not state claims on threads of its own. It knows nothing of what is tested. The
// surprise: the program runs all cases in one process unless one is named, so a case must leave
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

// Ends the case as failed unless the claim holds; the text says what was found instead.
__attribute__((format(printf, 2, 3))) void require(bool holds, const char* format, ...);

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
