// See copies.h.
#include "copies.h"

#include <sys/stat.h>

#include <algorithm>
#include <bit>

namespace ring::io {
namespace {

constexpr int64_t kAvoidNs = 5'000'000'000;
// A landing moves the measured rate by this share.
constexpr double kWeight = 1.0 / 8;

// Status has room for so much of a path beside the sentence.
constexpr size_t kPathBytes = 140;

const char* end_of(const std::string& path) {
  return path.c_str() + (path.size() > kPathBytes ? path.size() - kPathBytes : 0);
}

}  // namespace

Status Copies::open(const std::vector<Source>& sources) {
  for (const Source& source : sources) {
    if (source.paths.empty() || source.paths.size() > kCopiesMax)
      return failure(Code::bad_argument, "a file has %zu copies, 1 to %zu are possible",
                     source.paths.size(), kCopiesMax);
    File file;
    file.bytes = source.bytes;
    for (const std::string& path : source.paths) file.copies.push_back({path, volume_of(path), 0});
    files_.push_back(std::move(file));
  }
  return {};
}

size_t Copies::volume_of(const std::string& path) {
  struct stat facts {};
  const dev_t id = stat(path.c_str(), &facts) == 0 ? facts.st_dev : 0;
  const auto known = std::find_if(volumes_.begin(), volumes_.end(),
                                  [id](const Volume& volume) { return volume.id == id; });
  if (known != volumes_.end()) return static_cast<size_t>(known - volumes_.begin());
  volumes_.push_back({id, 0, 1});
  return volumes_.size() - 1;
}

int32_t Copies::choose(int32_t file, uint64_t bytes, CopySet refused, int64_t now_ns) const {
  const std::vector<Copy>& copies = files_[static_cast<size_t>(file)].copies;
  // How much is against a copy; the least of it wins, then the shortest wait.
  int32_t best = 0;
  int best_faults = 4;
  double best_ns = 0;
  for (size_t i = 0; i < copies.size(); ++i) {
    const Volume& volume = volumes_[copies[i].volume];
    const int faults =
        ((refused >> i & 1) != 0 ? 2 : 0) + (copies[i].avoid_until_ns > now_ns ? 1 : 0);
    const double ns = static_cast<double>(volume.under_way + bytes) / volume.bytes_per_ns;
    if (faults > best_faults || (faults == best_faults && ns >= best_ns)) continue;
    best = static_cast<int32_t>(i);
    best_faults = faults;
    best_ns = ns;
  }
  return best;
}

void Copies::refuse(const Chunk& chunk, CopySet* refused) const {
  const CopySet last = CopySet{1} << chunk.copy;
  *refused |= last;
  if (std::popcount(*refused) == copies(chunk.file)) *refused = last;
}

uint64_t Copies::send(const Chunk& chunk) {
  return volumes_[copy_of(chunk).volume].under_way += chunk.bytes;
}

void Copies::landed(const Chunk& chunk, uint64_t queued, int64_t took_ns) {
  Volume& volume = volumes_[copy_of(chunk).volume];
  volume.under_way -= chunk.bytes;
  const double rate =
      static_cast<double>(queued) / static_cast<double>(std::max<int64_t>(1, took_ns));
  volume.bytes_per_ns += (rate - volume.bytes_per_ns) * kWeight;
}

void Copies::failed(const Chunk& chunk, int64_t now_ns) {
  Copy& copy = copy_of(chunk);
  volumes_[copy.volume].under_way -= chunk.bytes;
  copy.avoid_until_ns = now_ns + kAvoidNs;
}

Copies::Copy& Copies::copy_of(const Chunk& chunk) {
  return files_[static_cast<size_t>(chunk.file)].copies[static_cast<size_t>(chunk.copy)];
}

const char* Copies::path(const Chunk& chunk) const {
  return end_of(
      files_[static_cast<size_t>(chunk.file)].copies[static_cast<size_t>(chunk.copy)].path);
}

const char* Copies::first_path(int32_t file) const {
  return end_of(files_[static_cast<size_t>(file)].copies.front().path);
}

}  // namespace ring::io
