// CRC32C (Castagnoli, polynomial 0x1EDC6F41), with the processor's instruction where it has one.
#pragma once
#include <cstddef>
#include <cstdint>

namespace ring::io {

// Continues `crc` (0 to begin with) over the bytes.
uint32_t crc32c(uint32_t crc, const uint8_t* data, size_t bytes);

// The same without the instruction, whatever the processor has: what tests compare with.
uint32_t crc32c_portable(uint32_t crc, const uint8_t* data, size_t bytes);

}  // namespace ring::io
