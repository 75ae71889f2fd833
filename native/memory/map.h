// Read-only maps of whole checkpoint files, with 64-bit offsets. A page that cannot be read (the
// drive failed, or somebody cut the file short) would kill the process by SIGBUS; here it becomes a
// page of zeros and a mark on the map, which the device looks at after every layer and answers with
// "lost". So a dead drive costs the requests in flight, not the process. Which pages lie in memory
// is the system's business; it can be asked, within limits.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

#include "../status.h"

namespace ring {

class FileMap {
 public:
  FileMap() = default;
  ~FileMap();
  FileMap(FileMap&& other) noexcept;
  FileMap(const FileMap&) = delete;
  FileMap& operator=(const FileMap&) = delete;

  // Maps the file, which must have exactly this many bytes: the headers were checked against them.
  Status open(const std::string& path, uint64_t bytes);

  const uint8_t* data() const { return data_; }
  uint64_t bytes() const { return bytes_; }
  const std::string& path() const { return path_; }

  // Offset of the first page that could not be read since open, or -1. Cheap enough for every
  // layer.
  int64_t unreadable() const;

  // The file's size now, which is less than bytes() when somebody cut it: within the last page that
  // is left the system hands out zeros without a signal. One system call.
  int64_t size_now() const;

  // Whether the system tells which pages of this file lie in memory. It tells those who own the
  // file or may write it; to others it says that all do.
  bool tells_residency() const { return tells_residency_; }

 private:
  std::string path_;
  const uint8_t* data_ = nullptr;
  uint64_t bytes_ = 0;
  int descriptor_ = -1;
  int guard_ = -1;  // index in the table of guarded ranges
  bool tells_residency_ = false;
};

// Whether a range of a map lies in memory. Of more than a few pages only `most`, evenly spread, are
// looked at, with a system call each.
bool is_in_memory(const uint8_t* data, uint64_t bytes, int most);

}  // namespace ring
