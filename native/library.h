// A compute backend that lives in a shared library: opened at run time by its path, asked whether
// it can be used here, and checked to be of this program's version. Nothing of ours is linked
// against what such a library needs, so a machine without it only gets a sentence that says what is
// missing.
#pragma once
#include <string>

#include "backend.h"

namespace ring {

// The library's table, and what it would compute on. It stays open as long as the process lives.
Status open_library(const std::string& path, const Backend** backend, BackendProbe* probe);

}  // namespace ring
