// Checksums of bytes as they lie on the drive, for a manifest: the file is read past the page cache
// where that can be done. Blocks, and may be called by any thread; the device and its
// reader have no part in it.
#pragma once
#include <cstddef>
#include <cstdint>

#include "status.h"

namespace ring::io {

// CRC32C of every kChecksumBytes (reader.h) of the extent, the last may be shorter: as a reader
// checks them. `count` must be exactly as many as the extent has. `copy`, where it is given, gets
// the bytes themselves, for whoever makes another checksum of them.
Status checksum_extent(const char* path, uint64_t offset, uint64_t bytes, uint32_t* out,
                       size_t count, uint8_t* copy = nullptr);

}  // namespace ring::io
