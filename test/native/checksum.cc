// Checksums of a file's extents: of any place and length they are those of the same bytes in
// memory, cut into blocks from the extent's own start; what cannot be read is told by name and
// byte.
#include "io/checksum.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "harness.h"
#include "io/crc32c.h"
#include "io/reader.h"

using namespace ring;
using namespace ring::test;

namespace {

// A file of bytes that are alike nowhere near each other, gone at the end of the case.
class File {
 public:
  explicit File(size_t bytes) : data(bytes) {
    uint32_t state = 7;
    for (uint8_t& byte : data) {
      state = state * 1664525u + 1013904223u;
      byte = static_cast<uint8_t>(state >> 24);
    }
    const char* folder = getenv("TMPDIR");
    path = std::string(folder != nullptr ? folder : P_tmpdir) + "/ring-checksum-XXXXXX";
    const int descriptor = mkstemp(path.data());
    require(descriptor >= 0, "no file in %s", path.c_str());
    const ssize_t written = write(descriptor, data.data(), data.size());
    ::close(descriptor);
    require(written == static_cast<ssize_t>(data.size()), "%s takes no data", path.c_str());
  }
  ~File() { unlink(path.c_str()); }

  std::string path;
  std::vector<uint8_t> data;
};

std::vector<uint32_t> blocks_of(const uint8_t* data, uint64_t bytes) {
  std::vector<uint32_t> sums;
  for (uint64_t at = 0; at < bytes; at += io::kChecksumBytes) {
    sums.push_back(io::crc32c(0, data + at, std::min(io::kChecksumBytes, bytes - at)));
  }
  return sums;
}

Status sums_of(const File& file, uint64_t offset, uint64_t bytes, std::vector<uint32_t>* sums) {
  sums->assign((bytes + io::kChecksumBytes - 1) / io::kChecksumBytes, 0);
  return io::checksum_extent(file.path.c_str(), offset, bytes, sums->data(), sums->size());
}

}  // namespace

RING_CASE(checksum_extents, "checksums of extents are those of their bytes, wherever they lie") {
  const File file((17 << 20) + 12345);
  const uint64_t places[] = {0, 1, 4095, 4096, 777777, 8 << 20};
  const uint64_t lengths[] = {0, 1, 600, 4096, 1 << 20, (1 << 20) + 1, (8 << 20) - 1, 9 << 20};
  for (const uint64_t place : places) {
    for (const uint64_t length : lengths) {
      std::vector<uint32_t> sums;
      const Status status = sums_of(file, place, length, &sums);
      require(!status.failed(), "%s", status.text);
      require(sums == blocks_of(file.data.data() + place, length), "%llu bytes at %llu differ",
              static_cast<unsigned long long>(length), static_cast<unsigned long long>(place));
    }
  }
  std::vector<uint32_t> sums;
  const Status status = sums_of(file, 5, file.data.size() - 5, &sums);
  require(!status.failed(), "%s", status.text);
  require(sums == blocks_of(file.data.data() + 5, file.data.size() - 5), "all but 5 bytes differ");
}

RING_CASE(checksum_copy,
          "whoever wants the bytes of an extent gets them, and nothing behind them") {
  const File file((5 << 20) + 123);
  for (const uint64_t place : {0, 1, 4095, 777777}) {
    for (const uint64_t length : {uint64_t{1}, uint64_t{4096}, uint64_t{(4 << 20) + 5}}) {
      std::vector<uint32_t> sums((length + io::kChecksumBytes - 1) / io::kChecksumBytes);
      std::vector<uint8_t> copy(length + 1, 0xab);
      const Status status = io::checksum_extent(file.path.c_str(), place, length, sums.data(),
                                                sums.size(), copy.data());
      require(!status.failed(), "%s", status.text);
      require(memcmp(copy.data(), file.data.data() + place, length) == 0 && copy[length] == 0xab,
              "%llu bytes at %llu differ", static_cast<unsigned long long>(length),
              static_cast<unsigned long long>(place));
      require(sums == blocks_of(copy.data(), length), "sums differ");
    }
  }
}

RING_CASE(checksum_end, "a file that ends before its extent is told with the byte where it ends") {
  const File file(50000);
  std::vector<uint32_t> sums;
  for (const uint64_t place : {0, 40960, 49999, 60000}) {
    const Status status = sums_of(file, place, 3 << 20, &sums);
    require(status.code == Code::cannot_read, "code %d", static_cast<int>(status.code));
    const char* said = place == 60000 ? ": ends at byte " : ": ends at byte 50000, expected";
    require(strstr(status.text, said) != nullptr, "%s", status.text);
  }
}

RING_CASE(checksum_refused,
          "what is no readable file, or has another number of blocks, is refused") {
  uint32_t sums[2] = {0, 0};
  const File file(100);
  const std::string gone = file.path + "-gone";
  const Status missing = io::checksum_extent(gone.c_str(), 0, 1, sums, 1);
  require(missing.code == Code::cannot_read, "a missing file: %s", missing.text);
  require(strstr(missing.text, "-gone: cannot be opened: No such file") != nullptr, "%s",
          missing.text);
  require(io::checksum_extent(file.path.c_str(), 0, 100, sums, 2).code == Code::bad_argument,
          "two checksums for one block");
  require(io::checksum_extent(file.path.c_str(), 0, UINT64_MAX, sums, 1).code == Code::bad_argument,
          "an extent of 2^64 bytes");
}
