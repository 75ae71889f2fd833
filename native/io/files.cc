// See files.h.
#include "files.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace ring::io {

OpenFiles::~OpenFiles() {
  for (const int descriptor : descriptors_) close(descriptor);
}

OpenFiles::OpenFiles(OpenFiles&& other) noexcept
    : descriptors_(std::exchange(other.descriptors_, {})),
      first_(std::exchange(other.first_, {})) {}

Status OpenFiles::open(const std::vector<Source>& sources, bool is_direct, bool* refused) {
  *refused = false;
  for (const Source& source : sources) {
    first_.push_back(descriptors_.size());
    for (const std::string& path : source.paths) {
      const int descriptor =
          ::open(path.c_str(), O_RDONLY | O_CLOEXEC | (is_direct ? O_DIRECT : 0));
      if (descriptor < 0) {
        *refused = is_direct && errno == EINVAL;
        return failure(Code::cannot_read, "%s: cannot be opened%s: %s", path.c_str(),
                       is_direct ? " with O_DIRECT" : "", strerror(errno));
      }
      descriptors_.push_back(descriptor);
    }
  }
  return {};
}

}  // namespace ring::io
