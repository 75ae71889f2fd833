// A read while it is being done: how it is cut into chunks, what of it is still to be read, and
// which checksum blocks are complete. Plain bookkeeping; the reader's thread owns all of it.
#pragma once
#include <memory>

#include "copies.h"
#include "reader.h"

namespace ring::io {

struct Job;

// A chunk on its way, or about to be tried again.
struct Piece {
  Job* job = nullptr;
  size_t part = 0;
  Chunk chunk;
  uint64_t begin = 0, end = 0;  // of the file, as it was cut: short reads move the chunk
  int tries = 0;
  CopySet refused = 0;  // copies that failed to deliver it
  // The one checksum block that this piece reads once more, beside its place: the blocks before and
  // after it share pages with it and may be good already.
  int64_t block = -1;
  std::shared_ptr<uint8_t> beside;
  int rereads = 0;        // of that block
  bool is_ahead = false;  // when it was sent
  int64_t sent_ns = 0;
  uint64_t queued = 0;  // see Copies::send

  // Forgets what was delivered of a block that is read once more.
  void restart();
};

struct Part {
  uint64_t next = 0, end = 0;  // of the file, in whole blocks: what is not cut yet
  uint64_t step = 0;           // bytes of a chunk
  // For every checksum block, how many chunks it still waits for; empty without checksums.
  std::vector<uint16_t> waits;
};

struct Job {
  Job(Read asked, uint64_t chunk_bytes);

  // Whether there is anything to send: chunks to try again or chunks not cut yet.
  bool has_more() const { return !again.empty() || part < parts.size(); }
  // The next of it. What is tried again goes first.
  Piece next();
  // Bytes of the piece's part that the piece must deliver from its chunk's offset on.
  uint64_t needed(const Piece& piece) const;
  // Checksum blocks of which this was the last chunk, each once.
  std::vector<uint64_t> complete_blocks(const Piece& piece);
  bool block_is_good(size_t part_index, uint64_t block) const;
  // Reads a checksum block once more; null memory where there is none.
  Piece reread(size_t part_index, uint64_t block);
  // Puts a block that was read once more into its place if it is good now.
  bool mend(const Piece& piece) const;
  // Bytes of the file that a checksum block covers, and where they lie in memory.
  uint64_t block_begin(size_t part_index, uint64_t block) const;
  uint64_t block_end(size_t part_index, uint64_t block) const;
  uint8_t* block_data(size_t part_index, uint64_t block) const;

  Read read;
  uint64_t landed_bytes = 0;
  std::vector<Part> parts;
  size_t part = 0;  // that chunks are cut from; parts.size(): all are cut
  std::vector<Piece> again;
  int under_way = 0;
  bool is_queued = false;
  bool is_cancelled = false;
  bool has_gaps = false;  // some of it was given up
  Status why;

 private:
  Piece cut();
  void skip_empty();
};

}  // namespace ring::io
