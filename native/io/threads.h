// See threads.cc.
#pragma once
#include "files.h"

namespace ring::io {

std::unique_ptr<Drive> make_thread_drive(OpenFiles files, int depth, bool is_direct);

}  // namespace ring::io
