// See uring.cc.
#pragma once
#include <string>

#include "files.h"

namespace ring::io {

// Takes the files when it succeeds; else null, and `missing` says why in a few words.
std::unique_ptr<Drive> make_uring_drive(OpenFiles* files, int depth, bool registers,
                                        std::string* missing);

}  // namespace ring::io
