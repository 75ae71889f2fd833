// The few instructions that C++ has no word for, each with its twin for the emulation: the product
// of a warp on tensor cores, FP8 codes as F16, and loads of what is read once. It must not know
// what is multiplied.
#pragma once
#include "gpu.h"
#include "stored.h"

namespace ring::cuda {

// From compute capability 8.9 on an instruction turns two E4M3 codes into two F16 numbers. Before,
// bits are shifted into place: exact too, but 2^8 too small, and NaN codes come out as numbers, so
// they must be looked for.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
constexpr bool kShiftsCodes = false;
#else
constexpr bool kShiftsCodes = true;
#endif
constexpr float kShiftedUp = 256.0f;

// Products take four columns at a time, the bytes of a word. Shifting pairs the first with the
// third; this is where the activation of such a column therefore lies within its four.
__device__ inline int place_of_column(int column) {
  if (!kShiftsCodes) return column;
  const int within = column & 3;
  return within == 1 ? column + 1 : within == 2 ? column - 1 : column;
}

// Four codes as two pairs of F16, in the order of place_of_column.
__device__ inline void halves_of_codes(uint32_t codes, uint32_t& first, uint32_t& second) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  asm("{\n\t.reg .b16 low, high;\n\t"
      "mov.b32 {low, high}, %2;\n\t"
      "cvt.rn.f16x2.e4m3x2 %0, low;\n\t"
      "cvt.rn.f16x2.e4m3x2 %1, high;\n\t}"
      : "=r"(first), "=r"(second)
      : "r"(codes));
#else
  const uint32_t even = codes << 8;
  first = (even & 0x80008000u) | (even & 0x7f007f00u) >> 1;
  second = (codes & 0x80008000u) | (codes & 0x7f007f00u) >> 1;
#endif
}

// Sets the upper bit of some byte where one of the codes is NaN; other bits mean nothing.
__device__ inline uint32_t nan_mark(uint32_t codes) {
  return kShiftsCodes ? (codes & 0x7f7f7f7fu) + 0x01010101u : 0u;
}
__device__ inline bool is_nan_marked(uint32_t marks) { return (marks & 0x80808080u) != 0; }

// sums += a b, m16n8k16: a are weights [16 rows][16 columns], b activations [16 columns][8 tokens].
// Lane 4g + t holds of a, rows g and g + 8: columns 2t, 2t + 1 (a[0], a[1]), 2t + 8, 2t + 9 (a[2],
// a[3]); of b the same columns for token g; of the sums rows g (0, 1) and g + 8 (2, 3) for tokens
// 2t, 2t + 1.
__device__ inline void multiply_fragments(float (&sums)[4], const uint32_t (&a)[4],
                                          const uint32_t (&b)[2]) {
#if defined(RING_EMULATED)
  emulated::multiply_fragments(sums, a, b);
#else
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// The same of BF16 numbers.
__device__ inline void multiply_bf16_fragments(float (&sums)[4], const uint32_t (&a)[4],
                                               const uint32_t (&b)[2]) {
#if defined(RING_EMULATED)
  emulated::multiply_bf16_fragments(sums, a, b);
#else
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// Two numbers as a pair of BF16, and what that leaves of them as another.
__device__ inline void split_pair(float first, float second, uint32_t& high, uint32_t& low) {
#if defined(RING_EMULATED)
  const auto pair = [](float a, float b) {
    return static_cast<uint32_t>(bf16_of(a)) | static_cast<uint32_t>(bf16_of(b)) << 16;
  };
#else
  const auto pair = [](float a, float b) {
    uint32_t both;
    asm("cvt.rn.bf16x2.f32 %0, %2, %1;" : "=r"(both) : "f"(a), "f"(b));
    return both;
  };
#endif
  high = pair(first, second);
  low = pair(first - __uint_as_float(high << 16), second - __uint_as_float(high & 0xffff0000u));
}

// 16 bytes at an aligned place that nobody reads again soon.
__device__ inline uint4 load_once(const uint8_t* from) {
#if defined(RING_EMULATED)
  return *reinterpret_cast<const uint4*>(from);
#else
  uint4 value;
  asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
      : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
      : "l"(from));
  return value;
#endif
}

__device__ inline uint16_t half_of(float value) {
#if defined(RING_EMULATED)
  return emulated::half_nearest(value);
#else
  return __half_as_ushort(__float2half_rn(value));
#endif
}

}  // namespace ring::cuda
