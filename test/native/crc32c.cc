// The checksum of blocks: published values, then agreement of the processor's instruction and the
// tables with a sum made bit by bit, over every short length, every alignment and every cut. The
// long stretches that are summed side by side begin at 384 and at 12,288 bytes.
#include "io/crc32c.h"

#include <string>
#include <vector>

#include "harness.h"

using namespace ring;
using namespace ring::test;

namespace {

using Sum = uint32_t (*)(uint32_t, const uint8_t*, size_t);
constexpr Sum kSums[] = {io::crc32c, io::crc32c_portable};

// The definition: one bit after the other.
uint32_t by_bits(const uint8_t* data, size_t bytes) {
  uint32_t sum = ~0u;
  for (size_t i = 0; i < bytes; ++i) {
    sum ^= data[i];
    for (int bit = 0; bit < 8; ++bit) sum = (sum >> 1) ^ ((sum & 1) != 0 ? 0x82F63B78u : 0u);
  }
  return ~sum;
}

std::vector<uint8_t> some_bytes(size_t count) {
  std::vector<uint8_t> bytes(count);
  uint32_t state = 20261124;
  for (uint8_t& byte : bytes) {
    state = state * 1664525u + 1013904223u;
    byte = static_cast<uint8_t>(state >> 24);
  }
  return bytes;
}

void require_sum(const std::vector<uint8_t>& bytes, uint32_t expected, const char* name) {
  for (const Sum sum : kSums) {
    const uint32_t found = sum(0, bytes.data(), bytes.size());
    require(found == expected, "%s gives %08x", name, found);
  }
}

}  // namespace

RING_CASE(crc_known, "CRC32C has its published values") {
  const std::string digits = "123456789";
  require_sum({digits.begin(), digits.end()}, 0xE3069283, "123456789");
  require_sum(std::vector<uint8_t>(32, 0), 0x8A9136AA, "32 zeros");
  require_sum(std::vector<uint8_t>(32, 0xff), 0x62A8AB43, "32 bytes of ones");
  std::vector<uint8_t> rising(32);
  for (size_t i = 0; i < rising.size(); ++i) rising[i] = static_cast<uint8_t>(i);
  require_sum(rising, 0x46DD794E, "0 to 31");
  require_sum({}, 0, "nothing");
}

RING_CASE(crc_short,
          "CRC32C of every length from 0 to 600 at every alignment is the definition's") {
  const std::vector<uint8_t> bytes = some_bytes(700);
  for (size_t start = 0; start < 16; ++start) {
    for (size_t length = 0; length <= 600; ++length) {
      const uint32_t expected = by_bits(bytes.data() + start, length);
      for (const Sum sum : kSums) {
        const uint32_t found = sum(0, bytes.data() + start, length);
        require(found == expected, "%zu bytes from %zu: %08x, not %08x", length, start, found,
                expected);
      }
    }
  }
}

RING_CASE(crc_long, "CRC32C of lengths around the long stretches is the definition's") {
  const std::vector<uint8_t> bytes = some_bytes((1 << 20) + 64);
  const size_t edges[] = {12288 - 1, 12288, 12288 + 1, 12288 + 384 + 9, 3 * 12288, 1 << 20};
  for (const size_t length : edges) {
    for (const size_t start : {size_t{0}, size_t{3}, size_t{8}}) {
      const uint32_t expected = by_bits(bytes.data() + start, length);
      for (const Sum sum : kSums) {
        require(sum(0, bytes.data() + start, length) == expected, "%zu bytes from %zu", length,
                start);
      }
    }
  }
}

RING_CASE(crc_continued, "CRC32C goes on over any cut") {
  const std::vector<uint8_t> bytes = some_bytes(13000);
  const uint32_t whole = io::crc32c(0, bytes.data(), bytes.size());
  for (const Sum sum : kSums) {
    for (size_t cut = 0; cut <= bytes.size(); cut += cut < 600 ? 1 : 401) {
      const uint32_t first = sum(0, bytes.data(), cut);
      require(sum(first, bytes.data() + cut, bytes.size() - cut) == whole, "cut at %zu", cut);
    }
  }
}

RING_CASE(crc_flip, "CRC32C of a block changes with any one of its bits") {
  std::vector<uint8_t> bytes = some_bytes(1 << 20);
  const uint32_t whole = io::crc32c(0, bytes.data(), bytes.size());
  for (size_t place = 0; place < bytes.size(); place += 8191) {
    bytes[place] ^= static_cast<uint8_t>(1u << (place % 8));
    require(io::crc32c(0, bytes.data(), bytes.size()) != whole, "a bit of byte %zu", place);
    bytes[place] ^= static_cast<uint8_t>(1u << (place % 8));
  }
}
