// Which copy of a file a chunk is read from: the one whose drive is expected to be done first, by
// what it has delivered of late and what it still has to deliver. A copy that failed is left alone
// for a while, unless there is no other. Files that lie on one drive share its measure.
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "drive.h"

namespace ring::io {

// A set of copies, as bits.
using CopySet = uint64_t;
constexpr size_t kCopiesMax = 64;

class Copies {
 public:
  Status open(const std::vector<Source>& sources);

  // For a chunk that all of `refused` have failed to deliver.
  int32_t choose(int32_t file, uint64_t bytes, CopySet refused, int64_t now_ns) const;
  // The chunk's copy has failed to deliver it. When all have, all but the last are asked again.
  void refuse(const Chunk& chunk, CopySet* refused) const;
  // A chunk goes to its copy: returns the bytes under way on that drive, its own included.
  uint64_t send(const Chunk& chunk);
  // It came back: with its bytes, for which `queued` bytes had to be read (what send returned), ...
  void landed(const Chunk& chunk, uint64_t queued, int64_t took_ns);
  // ... or without.
  void failed(const Chunk& chunk, int64_t now_ns);

  // For messages, which are short: of a long path the end.
  const char* path(const Chunk& chunk) const;
  const char* first_path(int32_t file) const;
  uint64_t file_bytes(int32_t file) const { return files_[static_cast<size_t>(file)].bytes; }
  int32_t files() const { return static_cast<int32_t>(files_.size()); }
  int copies(int32_t file) const {
    return static_cast<int>(files_[static_cast<size_t>(file)].copies.size());
  }

 private:
  struct Volume {
    dev_t id = 0;
    uint64_t under_way = 0;
    double bytes_per_ns = 1;
  };
  struct Copy {
    std::string path;
    size_t volume = 0;
    int64_t avoid_until_ns = 0;
  };
  struct File {
    uint64_t bytes = 0;
    std::vector<Copy> copies;
  };

  Copy& copy_of(const Chunk& chunk);
  size_t volume_of(const std::string& path);

  std::vector<File> files_;
  std::vector<Volume> volumes_;
};

}  // namespace ring::io
