// See job.h.
#include "job.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "crc32c.h"

namespace ring::io {
namespace {

uint64_t block_floor(uint64_t value) { return value / kBlockBytes * kBlockBytes; }
uint64_t block_ceiling(uint64_t value) { return block_floor(value + kBlockBytes - 1); }

// Chunks of a part are of one size, near to what is wanted: a part that is a block longer than a
// whole number of chunks shall not end with a chunk of a block.
uint64_t even_step(uint64_t bytes, uint64_t chunk_bytes) {
  const uint64_t chunks = std::max<uint64_t>(1, (bytes + chunk_bytes / 2) / chunk_bytes);
  return block_ceiling((bytes + chunks - 1) / chunks);
}

}  // namespace

void Piece::restart() {
  chunk.offset = begin;
  chunk.bytes = end - begin;
  chunk.target = beside.get();
}

Job::Job(Read asked, uint64_t chunk_bytes) : read(std::move(asked)) {
  for (const ReadPart& wanted : read.parts) {
    Part made;
    made.next = block_floor(wanted.offset);
    made.end = wanted.bytes == 0 ? made.next : block_ceiling(wanted.offset + wanted.bytes);
    made.step = even_step(made.end - made.next, chunk_bytes);
    if (wanted.checksums != nullptr) {
      made.waits.assign((wanted.bytes + kChecksumBytes - 1) / kChecksumBytes, 0);
      for (uint64_t at = made.next; at < made.end; at += made.step) {
        const uint64_t from = std::max(at, wanted.offset) - wanted.offset;
        const uint64_t to = std::min(at + made.step - wanted.offset, wanted.bytes);
        for (uint64_t block = from / kChecksumBytes; block * kChecksumBytes < to; ++block)
          ++made.waits[block];
      }
    }
    parts.push_back(std::move(made));
  }
  skip_empty();
}

void Job::skip_empty() {
  while (part < parts.size() && parts[part].next >= parts[part].end) ++part;
}

Piece Job::next() {
  if (again.empty()) return cut();
  Piece piece = again.back();
  again.pop_back();
  return piece;
}

Piece Job::cut() {
  Part& from = parts[part];
  const ReadPart& wanted = read.parts[part];
  Piece piece;
  piece.job = this;
  piece.part = part;
  piece.begin = from.next;
  piece.end = std::min(from.end, from.next + from.step);
  piece.chunk.file = wanted.file;
  piece.chunk.offset = piece.begin;
  piece.chunk.bytes = piece.end - piece.begin;
  piece.chunk.target = wanted.target + (piece.begin - block_floor(wanted.offset));
  from.next = piece.end;
  skip_empty();
  return piece;
}

uint64_t Job::needed(const Piece& piece) const {
  const ReadPart& wanted = read.parts[piece.part];
  return std::min(piece.chunk.offset + piece.chunk.bytes, wanted.offset + wanted.bytes) -
         piece.chunk.offset;
}

std::vector<uint64_t> Job::complete_blocks(const Piece& piece) {
  std::vector<uint64_t> complete;
  const ReadPart& wanted = read.parts[piece.part];
  std::vector<uint16_t>& waits = parts[piece.part].waits;
  const uint64_t from = std::max(piece.begin, wanted.offset) - wanted.offset;
  const uint64_t to = std::min(piece.end - wanted.offset, wanted.bytes);
  for (uint64_t block = from / kChecksumBytes; block * kChecksumBytes < to; ++block)
    if (--waits[block] == 0) complete.push_back(block);
  return complete;
}

bool Job::block_is_good(size_t part_index, uint64_t block) const {
  return crc32c(0, block_data(part_index, block),
                block_end(part_index, block) - block_begin(part_index, block)) ==
         read.parts[part_index].checksums[block];
}

Piece Job::reread(size_t part_index, uint64_t block) {
  Piece piece;
  piece.job = this;
  piece.part = part_index;
  piece.block = static_cast<int64_t>(block);
  piece.begin = block_floor(block_begin(part_index, block));
  piece.end = block_ceiling(block_end(part_index, block));
  piece.chunk.file = read.parts[part_index].file;
  piece.beside.reset(static_cast<uint8_t*>(aligned_alloc(kBlockBytes, piece.end - piece.begin)),
                     free);
  piece.restart();
  return piece;
}

bool Job::mend(const Piece& piece) const {
  const auto block = static_cast<uint64_t>(piece.block);
  const uint64_t first = block_begin(piece.part, block);
  const uint64_t bytes = block_end(piece.part, block) - first;
  const uint8_t* data = piece.beside.get() + (first - piece.begin);
  if (crc32c(0, data, bytes) != read.parts[piece.part].checksums[block]) return false;
  memcpy(block_data(piece.part, block), data, bytes);
  return true;
}

uint64_t Job::block_begin(size_t part_index, uint64_t block) const {
  return read.parts[part_index].offset + block * kChecksumBytes;
}

uint64_t Job::block_end(size_t part_index, uint64_t block) const {
  const ReadPart& wanted = read.parts[part_index];
  return wanted.offset + std::min(wanted.bytes, (block + 1) * kChecksumBytes);
}

uint8_t* Job::block_data(size_t part_index, uint64_t block) const {
  const ReadPart& wanted = read.parts[part_index];
  return wanted.target + wanted.offset % kBlockBytes + block * kChecksumBytes;
}

}  // namespace ring::io
