// The open files of a drive, closed with it.
#pragma once
#include <vector>

#include "drive.h"

namespace ring::io {

class OpenFiles {
 public:
  OpenFiles() = default;
  ~OpenFiles();
  OpenFiles(OpenFiles&& other) noexcept;
  OpenFiles& operator=(OpenFiles&&) = delete;

  // Opens every copy of every source, past the page cache if wanted. `refused`: the reason is that
  // a file system has no such way of reading.
  Status open(const std::vector<Source>& sources, bool is_direct, bool* refused);

  int descriptor(int32_t file, int32_t copy) const {
    return descriptors_[first_[static_cast<size_t>(file)] + static_cast<size_t>(copy)];
  }
  // Index over all descriptors, for registering them.
  int index(int32_t file, int32_t copy) const {
    return static_cast<int>(first_[static_cast<size_t>(file)]) + copy;
  }
  const std::vector<int>& all() const { return descriptors_; }

 private:
  std::vector<int> descriptors_;
  std::vector<size_t> first_;  // [file] index of its first copy
};

}  // namespace ring::io
