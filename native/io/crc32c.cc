// Three forms of one checksum. The processor's instruction takes 8 bytes at a time but gives its
// result three cycles later, so three stretches of the data are summed side by side and joined:
// a sum moves over the bytes that follow it by one multiplication with a power of x. Without the
// instruction, eight tables take 8 bytes at a time. Polynomials are kept reflected, as the
// instruction has them: bit 31 of a word is x^0, bit 0 is x^31.
#include "io/crc32c.h"

#include <array>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#define RING_CRC_TARGET __attribute__((target("sse4.2,pclmul")))
#elif defined(__aarch64__) && defined(__linux__)
#include <arm_acle.h>
#include <asm/hwcap.h>
#include <sys/auxv.h>
#if defined(__clang__)
#define RING_CRC_TARGET __attribute__((target("crc")))
#else
#define RING_CRC_TARGET __attribute__((target("+crc")))
#endif
#endif

namespace ring::io {
namespace {

constexpr uint32_t kPolynomial = 0x82F63B78;
constexpr uint32_t kOne = 0x80000000;

constexpr uint32_t times_x(uint32_t value) {
  return (value >> 1) ^ ((value & 1) != 0 ? kPolynomial : 0);
}

constexpr uint32_t times(uint32_t left, uint32_t right) {
  uint32_t product = 0;
  for (uint32_t bit = kOne; bit != 0; bit >>= 1) {
    if ((left & bit) != 0) product ^= right;
    right = times_x(right);
  }
  return product;
}

// x^exponent modulo the polynomial.
constexpr uint32_t power_of_x(uint64_t exponent) {
  uint32_t result = kOne;
  for (uint32_t square = times_x(kOne); exponent != 0; exponent >>= 1) {
    if ((exponent & 1) != 0) result = times(result, square);
    square = times(square, square);
  }
  return result;
}

using Tables = std::array<std::array<uint32_t, 256>, 8>;

// tables[n][b]: what byte b does to the sum n bytes after it.
constexpr Tables make_tables() {
  Tables tables{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t value = byte;
    for (int bit = 0; bit < 8; ++bit) value = times_x(value);
    tables[0][byte] = value;
  }
  for (size_t n = 1; n < tables.size(); ++n) {
    for (uint32_t byte = 0; byte < 256; ++byte) {
      const uint32_t before = tables[n - 1][byte];
      tables[n][byte] = (before >> 8) ^ tables[0][before & 0xff];
    }
  }
  return tables;
}

constexpr Tables kTables = make_tables();

uint64_t word_at(const uint8_t* data) {
  uint64_t word = 0;
  memcpy(&word, data, sizeof word);
  return word;
}

// The sum without the inversion at both ends.
uint32_t by_tables(uint32_t sum, const uint8_t* data, size_t bytes) {
  for (; bytes >= 8; data += 8, bytes -= 8) {
    uint64_t word = 0;
    for (int i = 0; i < 8; ++i) word |= static_cast<uint64_t>(data[i]) << (8 * i);
    word ^= sum;
    sum = 0;
    for (int i = 0; i < 8; ++i) sum ^= kTables[7 - i][(word >> (8 * i)) & 0xff];
  }
  for (; bytes > 0; ++data, --bytes) sum = (sum >> 8) ^ kTables[0][(sum ^ *data) & 0xff];
  return sum;
}

#if defined(RING_CRC_TARGET)

#if defined(__x86_64__)

bool has_instruction() {
  return __builtin_cpu_supports("sse4.2") != 0 && __builtin_cpu_supports("pclmul") != 0;
}

RING_CRC_TARGET inline uint32_t add_byte(uint32_t sum, uint8_t byte) {
  return _mm_crc32_u8(sum, byte);
}

RING_CRC_TARGET inline uint32_t add_word(uint32_t sum, uint64_t word) {
  return static_cast<uint32_t>(_mm_crc32_u64(sum, word));
}

// The product of two words has 63 bits; summing it as data reduces it and multiplies it by x^33,
// which `kBytes` makes good for.
template <size_t kBytes>
RING_CRC_TARGET inline uint32_t move_over(uint32_t sum) {
  constexpr uint32_t kFactor = power_of_x(8 * kBytes - 33);
  const __m128i product = _mm_clmulepi64_si128(_mm_cvtsi32_si128(static_cast<int>(sum)),
                                               _mm_cvtsi32_si128(static_cast<int>(kFactor)), 0);
  return add_word(0, static_cast<uint64_t>(_mm_cvtsi128_si64(product)));
}

#else

bool has_instruction() { return (getauxval(AT_HWCAP) & HWCAP_CRC32) != 0; }

RING_CRC_TARGET inline uint32_t add_byte(uint32_t sum, uint8_t byte) {
  return __crc32cb(sum, byte);
}

RING_CRC_TARGET inline uint32_t add_word(uint32_t sum, uint64_t word) {
  return __crc32cd(sum, word);
}

template <size_t kBytes>
RING_CRC_TARGET inline uint32_t move_over(uint32_t sum) {
  constexpr uint32_t kFactor = power_of_x(8 * kBytes);
  return times(sum, kFactor);
}

#endif

// Sums as many triples of stretches as fit; moves the reading place on.
template <size_t kStretch>
RING_CRC_TARGET uint32_t by_triples(uint32_t sum, const uint8_t*& data, size_t& bytes) {
  static_assert(kStretch % 8 == 0);
  for (; bytes >= 3 * kStretch; data += 3 * kStretch, bytes -= 3 * kStretch) {
    uint32_t second = 0, third = 0;
    for (size_t i = 0; i < kStretch; i += 8) {
      // The next triple is fetched meanwhile: three streams through cold memory outrun the
      // processor's own foresight, which ends at every page. Past the end it does nothing.
      if (i % 64 == 0) {
        __builtin_prefetch(data + 3 * kStretch + i);
        __builtin_prefetch(data + 4 * kStretch + i);
        __builtin_prefetch(data + 5 * kStretch + i);
      }
      sum = add_word(sum, word_at(data + i));
      second = add_word(second, word_at(data + kStretch + i));
      third = add_word(third, word_at(data + 2 * kStretch + i));
    }
    sum = move_over<2 * kStretch>(sum) ^ move_over<kStretch>(second) ^ third;
  }
  return sum;
}

RING_CRC_TARGET uint32_t by_instruction(uint32_t sum, const uint8_t* data, size_t bytes) {
  sum = by_triples<4096>(sum, data, bytes);
  sum = by_triples<128>(sum, data, bytes);
  for (; bytes >= 8; data += 8, bytes -= 8) sum = add_word(sum, word_at(data));
  for (; bytes > 0; ++data, --bytes) sum = add_byte(sum, *data);
  return sum;
}

#else

bool has_instruction() { return false; }
uint32_t by_instruction(uint32_t sum, const uint8_t* data, size_t bytes) {
  return by_tables(sum, data, bytes);
}

#endif

}  // namespace

uint32_t crc32c(uint32_t crc, const uint8_t* data, size_t bytes) {
  static const bool is_quick = has_instruction();
  return is_quick ? ~by_instruction(~crc, data, bytes) : ~by_tables(~crc, data, bytes);
}

uint32_t crc32c_portable(uint32_t crc, const uint8_t* data, size_t bytes) {
  return ~by_tables(~crc, data, bytes);
}

}  // namespace ring::io
