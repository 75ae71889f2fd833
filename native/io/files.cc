// See files.h.
#include "files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace ring::io {
namespace {

// Some file systems let a file be opened with O_DIRECT and then refuse to read it so.
bool refuses_direct(int descriptor) {
  alignas(kBlockBytes) uint8_t block[kBlockBytes];
  return pread(descriptor, block, sizeof block, 0) < 0 && errno == EINVAL;
}

dev_t file_system_of(int descriptor) {
  struct stat facts {};
  return fstat(descriptor, &facts) == 0 ? facts.st_dev : 0;
}

}  // namespace

OpenFiles::~OpenFiles() {
  for (const int descriptor : descriptors_) close(descriptor);
}

OpenFiles::OpenFiles(OpenFiles&& other) noexcept
    : descriptors_(std::exchange(other.descriptors_, {})),
      first_(std::exchange(other.first_, {})) {}

Status OpenFiles::open(const std::vector<Source>& sources, bool is_direct, bool* refused) {
  *refused = false;
  std::vector<dev_t> tried;
  for (const Source& source : sources) {
    first_.push_back(descriptors_.size());
    for (const std::string& path : source.paths) {
      const int descriptor =
          ::open(path.c_str(), O_RDONLY | O_CLOEXEC | (is_direct ? O_DIRECT : 0));
      if (descriptor < 0) {
        *refused = is_direct && errno == EINVAL;
        return failure(Code::cannot_read, "%s: cannot be opened%s: %s", path.c_str(),
                       *refused ? " past the page cache" : "", strerror(errno));
      }
      descriptors_.push_back(descriptor);
      if (!is_direct) {
        // Chunks are read here and there, and what is read ahead of them would be read in vain.
        posix_fadvise(descriptor, 0, 0, POSIX_FADV_RANDOM);
        continue;
      }
      const dev_t where = file_system_of(descriptor);
      if (std::find(tried.begin(), tried.end(), where) != tried.end()) continue;
      tried.push_back(where);
      *refused = refuses_direct(descriptor);
      if (*refused)
        return failure(Code::cannot_read, "%s: cannot be read past the page cache", path.c_str());
    }
  }
  return {};
}

}  // namespace ring::io
