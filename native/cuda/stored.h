// Numbers as they are stored in weights and in KV, one at a time: what the formats mean, in F32.
#pragma once
#include "../model.h"
#include "gpu.h"

namespace ring::cuda {

__device__ inline float widen(float stored) { return stored; }

__device__ inline float widen_bf16(uint16_t stored) {
  return __uint_as_float(static_cast<uint32_t>(stored) << 16);
}

// Exponent and mantissa moved to where F32 has them, then made 2^120 larger, which is what the two
// biases differ by; subnormal ones come out right too.
__device__ inline float widen_e4m3(uint8_t code) {
  const uint32_t magnitude = code & 0x7fu;
  if (magnitude == 0x7fu) return __uint_as_float(0x7fc00000u);
  const float value = __uint_as_float(magnitude << 20) * 0x1p120f;
  return code & 0x80u ? -value : value;
}

// Nearest, ties to even; NaN stays NaN.
__device__ inline uint16_t bf16_of(float value) {
  const uint32_t bits = __float_as_uint(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

// The elements of one row, as they are stored; a row may begin at any byte.
template <Dtype kDtype>
struct StoredRow {
  const uint8_t* bytes;

  __device__ float at(int column) const {
    if constexpr (kDtype == Dtype::f8_e4m3) {
      return widen_e4m3(bytes[column]);
    } else if constexpr (kDtype == Dtype::bf16) {
      const uint8_t* two = bytes + 2 * static_cast<int64_t>(column);
      return widen_bf16(*reinterpret_cast<const uint16_t*>(two));
    } else {
      const uint8_t* four = bytes + 4 * static_cast<int64_t>(column);
      return *reinterpret_cast<const float*>(four);
    }
  }
};

template <Dtype kDtype>
__device__ inline StoredRow<kDtype> stored_row(const Matrix& w, int row) {
  constexpr int kBytes = kDtype == Dtype::f8_e4m3 ? 1 : kDtype == Dtype::bf16 ? 2 : 4;
  return {w.data + static_cast<int64_t>(row) * w.columns * kBytes};
}

// Where the scales of a row begin; null where the matrix has none.
__device__ inline const float* scales_of(const Matrix& w, int row) {
  return w.scales == nullptr
             ? nullptr
             : w.scales + static_cast<int64_t>(row / w.block_rows) * w.scale_columns;
}

__device__ inline float scale_at(const Matrix& w, const float* scales, int column) {
  if (scales == nullptr) return 1.0f;
  return w.block_columns == 0 ? scales[0] : scales[column / w.block_columns];
}

}  // namespace ring::cuda
