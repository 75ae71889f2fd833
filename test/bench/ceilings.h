// What the machine can do, for shares of it: loops that only multiply and add in registers, with the
// instruction of the products that are measured. Loops that only read are in cpu/bandwidth.h.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace ring::bench {

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
