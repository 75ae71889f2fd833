// How native code says that something went wrong: a code for the program and one sentence for a
// person. Plain data, so that it crosses the backend table of a shared library; nothing in native
// throws, only addon.cc turns a status into a JavaScript error.
#pragma once
#include <cstdarg>
#include <cstdio>

#include "contract.h"

namespace ring {

struct [[nodiscard]] Status {
  Code code = Code::ok;
  // Row of the tensor table the error is about (experts follow the dense rows), -1 if none. The
  // engine knows tensors by name; native only by row.
  int64_t tensor = -1;
  char text[240] = {0};

  bool failed() const { return code != Code::ok; }
};

__attribute__((format(printf, 2, 3))) inline Status failure(Code code, const char* format, ...) {
  Status status;
  status.code = code;
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(status.text, sizeof status.text, format, arguments);
  va_end(arguments);
  return status;
}

}  // namespace ring

// Returns from the enclosing function when the expression failed.
#define RING_TRY(expression)               \
  do {                                     \
    ::ring::Status status_ = (expression); \
    if (status_.failed()) return status_;  \
  } while (0)
