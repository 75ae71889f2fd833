// What the machine can do, for shares of it: loops that only read the bytes, and loops that only
// multiply and add in registers, with the instruction of the products that are measured.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace ring::bench {

typedef uint64_t Words __attribute__((vector_size(64)));

// Reads whole cache lines and adds them, fetching `ahead` lines on or (0) leaving that to the
// processor: what memory can deliver, whatever the phase of the weights.
__attribute__((target_clones("avx512f", "avx2", "default"))) inline uint64_t read_only(
    const uint8_t* p, size_t bytes, int ahead) {
  const auto* line = reinterpret_cast<const Words*>((reinterpret_cast<uintptr_t>(p) + 63) & ~63ull);
  const size_t lines = (bytes - 63) / 64;
  Words a = {}, b = {}, c = {}, d = {};
  for (size_t i = 0; i + 4 <= lines; i += 4) {
    if (ahead > 0) {
      for (int k = 0; k < 4; ++k) __builtin_prefetch(line + i + k + ahead);
    }
    a += line[i];
    b += line[i + 1];
    c += line[i + 2];
    d += line[i + 3];
  }
  const Words all = a + b + c + d;
  return all[0] ^ all[1] ^ all[2] ^ all[3] ^ all[4] ^ all[5] ^ all[6] ^ all[7];
}

// Each loop makes `rounds` of 12 independent multiply-adds, enough to hide the latency on every
// processor we know, and returns the operations done.
#define RING_CEILING(name, isa, lanes)                                                 \
  __attribute__((target(isa))) inline double name(int64_t rounds) {                    \
    typedef float V __attribute__((vector_size(4 * lanes)));                           \
    V s0 = {}, s1 = {}, s2 = {}, s3 = {}, s4 = {}, s5 = {};                            \
    V s6 = {}, s7 = {}, s8 = {}, s9 = {}, s10 = {}, s11 = {};                          \
    V a = s0 + 0.5f, b = s0 + 0.25f;                                                   \
    for (int64_t i = 0; i < rounds; ++i) {                                             \
      asm volatile("" : "+x"(a), "+x"(b));                                             \
      s0 = a * b + s0, s1 = a * b + s1, s2 = a * b + s2, s3 = a * b + s3;              \
      s4 = a * b + s4, s5 = a * b + s5, s6 = a * b + s6, s7 = a * b + s7;              \
      s8 = a * b + s8, s9 = a * b + s9, s10 = a * b + s10, s11 = a * b + s11;          \
      asm volatile("" : "+x"(s0), "+x"(s1), "+x"(s2), "+x"(s3), "+x"(s4), "+x"(s5));   \
      asm volatile("" : "+x"(s6), "+x"(s7), "+x"(s8), "+x"(s9), "+x"(s10), "+x"(s11)); \
    }                                                                                  \
    return 2.0 * 12 * lanes * static_cast<double>(rounds);                             \
  }

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC optimize("fp-contract=fast")
RING_CEILING(multiply_only_512, "avx512f", 16)
RING_CEILING(multiply_only_256, "avx2,fma", 8)
#pragma GCC pop_options
RING_CEILING(multiply_only_128, "sse4.2", 4)

// The same of BF16 products, two a lane.
__attribute__((target("avx512f,avx512bf16"))) inline double multiply_only_bf16(int64_t rounds) {
  __m512 sums[12];
  for (__m512& sum : sums) sum = _mm512_setzero_ps();
  __m512i a = _mm512_set1_epi32(0x3f003f00);
  for (int64_t i = 0; i < rounds; ++i) {
    asm volatile("" : "+v"(a));
#pragma GCC unroll 12
    for (__m512& sum : sums) {
      sum = _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(a));
      asm volatile("" : "+v"(sum));
    }
  }
  return 2.0 * 12 * 32 * static_cast<double>(rounds);
}
#endif

inline double multiply_only(const char* isa, bool by_bf16, int64_t rounds) {
#if defined(__x86_64__)
  if (by_bf16) return multiply_only_bf16(rounds);
  if (strncmp(isa, "avx512", 6) == 0) return multiply_only_512(rounds);
  if (strcmp(isa, "avx2") == 0) return multiply_only_256(rounds);
  return multiply_only_128(rounds);
#else
  (void)isa, (void)by_bf16, (void)rounds;
  return 0;
#endif
}

}  // namespace ring::bench
