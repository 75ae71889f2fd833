// The extent is widened to the blocks that reading past the page cache asks for, and read piece by
// piece into memory of the thread's own. Where the file system wants the page cache, the pages of a
// piece are given back after it, so that checking a large model does not push everything else out
// of memory.
#include "io/checksum.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "io/crc32c.h"
#include "io/drive.h"
#include "io/reader.h"

namespace ring::io {
namespace {

// Stays in the processor's second cache until it is summed.
constexpr uint64_t kPieceBytes = 2 << 20;
static_assert(kPieceBytes % kBlockBytes == 0);

struct Free {
  void operator()(void* memory) const { free(memory); }
};

// Room for a piece, kept as long as the thread: fresh memory costs several times what the checksum
// costs, because the system clears every page of it.
uint8_t* piece_of_thread() {
  static thread_local std::unique_ptr<uint8_t, Free> piece;
  if (piece == nullptr) {
    piece.reset(static_cast<uint8_t*>(aligned_alloc(kBlockBytes, kPieceBytes)));
  }
  return piece.get();
}

// A file open for reading, past the page cache until that is refused.
class File {
 public:
  ~File() {
    if (descriptor_ >= 0) close(descriptor_);
  }

  Status open(const char* path) {
    path_ = path;
    // O_NONBLOCK: opening a pipe that nobody writes to would wait for ever.
    constexpr int kFlags = O_RDONLY | O_CLOEXEC | O_NONBLOCK;
    descriptor_ = ::open(path, kFlags | O_DIRECT);
    is_direct_ = descriptor_ >= 0;
    if (!is_direct_ && errno == EINVAL) descriptor_ = ::open(path, kFlags);
    if (descriptor_ >= 0) return {};
    return failure(Code::cannot_read, "%s: cannot be opened: %s", name(), strerror(errno));
  }

  // Reads at a block's place, at most `room` bytes and at least `wanted` of them.
  Status read(uint8_t* target, uint64_t room, uint64_t wanted, uint64_t offset) {
    for (uint64_t have = 0; have < wanted;) {
      // What came short ends inside a block; such a read begins again at the block's start.
      const uint64_t kept = have / kBlockBytes * kBlockBytes;
      const ssize_t got =
          pread(descriptor_, target + kept, room - kept, static_cast<off_t>(offset + kept));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0 && errno == EINVAL && is_direct_ && reads_buffered()) continue;
      if (got < 0) {
        return failure(Code::cannot_read, "%s: cannot be read at byte %llu: %s", name(),
                       static_cast<unsigned long long>(offset + kept), strerror(errno));
      }
      if (kept + static_cast<uint64_t>(got) <= have) {
        return failure(Code::cannot_read, "%s: ends at byte %llu, expected at least %llu bytes",
                       name(), static_cast<unsigned long long>(offset + have),
                       static_cast<unsigned long long>(offset + wanted));
      }
      have = kept + static_cast<uint64_t>(got);
    }
    if (!is_direct_) {
      posix_fadvise(descriptor_, static_cast<off_t>(offset), static_cast<off_t>(room),
                    POSIX_FADV_DONTNEED);
    }
    return {};
  }

 private:
  bool reads_buffered() {
    is_direct_ = false;
    const int flags = fcntl(descriptor_, F_GETFL);
    return flags >= 0 && fcntl(descriptor_, F_SETFL, flags & ~O_DIRECT) == 0;
  }

  const char* name() const {
    const char* slash = strrchr(path_, '/');
    return slash == nullptr ? path_ : slash + 1;
  }

  const char* path_ = "";
  int descriptor_ = -1;
  bool is_direct_ = false;
};

// Takes an extent's bytes in order and writes a checksum for each block.
class Blocks {
 public:
  explicit Blocks(uint32_t* out) : out_(out) {}

  void take(const uint8_t* data, uint64_t bytes) {
    while (bytes > 0) {
      const uint64_t part = std::min(bytes, kChecksumBytes - filled_);
      sum_ = crc32c(sum_, data, part);
      filled_ += part;
      data += part;
      bytes -= part;
      if (filled_ == kChecksumBytes) end();
    }
  }

  void finish() {
    if (filled_ > 0) end();
  }

 private:
  void end() {
    *out_++ = sum_;
    sum_ = 0;
    filled_ = 0;
  }

  uint32_t* out_;
  uint32_t sum_ = 0;
  uint64_t filled_ = 0;
};

}  // namespace

Status checksum_extent(const char* path, uint64_t offset, uint64_t bytes, uint32_t* out,
                       size_t count, uint8_t* copy) {
  if (bytes > INT64_MAX / 2 || offset > INT64_MAX / 2) {
    return failure(Code::bad_argument, "an extent must end below 2^63");
  }
  if (count != (bytes + kChecksumBytes - 1) / kChecksumBytes) {
    return failure(Code::bad_argument, "%zu checksums do not fit an extent of %llu bytes", count,
                   static_cast<unsigned long long>(bytes));
  }
  File file;
  RING_TRY(file.open(path));
  uint8_t* const piece = piece_of_thread();
  if (piece == nullptr) return failure(Code::out_of_memory, "no memory for a piece of a file");
  Blocks blocks(out);
  const uint64_t end = offset + bytes;
  for (uint64_t place = offset; place < end;) {
    const uint64_t start = place / kBlockBytes * kBlockBytes;
    const uint64_t stop = std::min(end, start + kPieceBytes);
    const uint64_t widened = (stop - start + kBlockBytes - 1) / kBlockBytes * kBlockBytes;
    RING_TRY(file.read(piece, widened, stop - start, start));
    blocks.take(piece + (place - start), stop - place);
    if (copy != nullptr) memcpy(copy + (place - offset), piece + (place - start), stop - place);
    place = stop;
  }
  blocks.finish();
  return {};
}

}  // namespace ring::io
