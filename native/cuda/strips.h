// What kernels on tensor cores have in common: which formats they take and how, what a lane reads
// of weights and where, and in how many shares the columns of a weight are summed. It must not know
// how many rows of activations there are.
#pragma once
#include "fragments.h"
#include "kernels.h"

namespace ring::cuda {

constexpr int kStrips = 2;
constexpr int kStripRows = 16;
constexpr int kLaneBytes = 16;  // that a lane reads of a row at once
constexpr int kSteps = 2;       // of a block of columns: a warp reads four lanes' bytes in each
constexpr int kTokens = 8;      // of one product
constexpr int kWarpsMost = 8;

__device__ inline uint32_t word_of(const uint4& words, int index) {
  return index == 0 ? words.x : index == 1 ? words.y : index == 2 ? words.z : words.w;
}

// FP8 weights, which are exact in F16, times activations in F16. A lane's 16 columns are four
// slices of a product; of the activations they are two parts of 16 bytes, with two slices each.
struct Fp8 {
  static constexpr int kBytes = 1, kSlices = 4, kPartSlices = 2;
  static constexpr bool kHasFactors = true;

  static __device__ const uint8_t* row_of(const Activations& x, int64_t row, int columns) {
    return reinterpret_cast<const uint8_t*>(x.narrow + row * columns);
  }
  static constexpr int kActivationBytes = 2;

  static __device__ void weights_of(const uint4& words, int slice, uint32_t& first,
                                    uint32_t& second, uint32_t& mark) {
    const uint32_t codes = word_of(words, slice);
    mark |= nan_mark(codes);
    halves_of_codes(codes, first, second);
  }
  // A part of the activations as products take it.
  static __device__ uint4 prepared(const uint4& part) { return part; }
  // Of one of its slices.
  static __device__ void add_products(float (&sums)[kStrips][4], const uint32_t (&a)[kStrips][4],
                                      const uint4& part, int slice) {
    const uint32_t b[2] = {word_of(part, slice * 2), word_of(part, slice * 2 + 1)};
#pragma unroll
    for (int strip = 0; strip < kStrips; ++strip) multiply_fragments(sums[strip], a[strip], b);
  }
};

// BF16 weights times activations as the sum of two BF16 numbers, 16 bits of mantissa between them.
// A lane's eight columns are two slices, a part of 16 bytes each.
struct Bf16 {
  static constexpr int kBytes = 2, kSlices = 2, kPartSlices = 1;
  static constexpr bool kHasFactors = false;

  static __device__ const uint8_t* row_of(const Activations& x, int64_t row, int columns) {
    return reinterpret_cast<const uint8_t*>(x.wide + row * columns);
  }
  static constexpr int kActivationBytes = 4;

  static __device__ void weights_of(const uint4& words, int slice, uint32_t& first,
                                    uint32_t& second, uint32_t&) {
    first = word_of(words, slice * 2);
    second = word_of(words, slice * 2 + 1);
  }
  static __device__ uint4 prepared(const uint4& part) {
    uint4 split;
    split_pair(__uint_as_float(part.x), __uint_as_float(part.y), split.x, split.z);
    split_pair(__uint_as_float(part.z), __uint_as_float(part.w), split.y, split.w);
    return split;
  }
  static __device__ void add_products(float (&sums)[kStrips][4], const uint32_t (&a)[kStrips][4],
                                      const uint4& part, int) {
    const uint32_t high[2] = {part.x, part.y}, low[2] = {part.z, part.w};
#pragma unroll
    for (int strip = 0; strip < kStrips; ++strip) {
      multiply_bf16_fragments(sums[strip], a[strip], low);
      multiply_bf16_fragments(sums[strip], a[strip], high);
    }
  }
};

template <typename Stored>
constexpr int kLaneColumns = kLaneBytes / Stored::kBytes;
template <typename Stored>
constexpr int kStepColumns = 4 * kLaneColumns<Stored>;
// Columns whose sum is held apart.
template <typename Stored>
constexpr int kBlockColumns = kSteps* kStepColumns<Stored>;
static_assert(kBlockColumns<Fp8> == 128, "a block of columns has one scale");

template <typename Stored>
int warps_of(int columns) {
  const int blocks = (columns + kBlockColumns<Stored> - 1) / kBlockColumns<Stored>;
  return blocks < kWarpsMost ? blocks : kWarpsMost;
}

// What one lane reads of a strip: rows g and g + 8. Beyond the last row it reads that one again,
// and nobody takes what comes of it.
struct Strip {
  const uint8_t* row[2];
  const float* scales;  // of blocks of columns; null: the rows have one scale, or none
  int scale_shift;      // columns of a scale, as a power of two
};

template <typename Stored>
__device__ Strip strip_of(const Matrix& w, int first_row) {
  const int lane_row = first_row + static_cast<int>(threadIdx.x) % kLanes / 4;
  Strip strip;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = lane_row + half * 8 < w.rows ? lane_row + half * 8 : w.rows - 1;
    strip.row[half] = w.data + static_cast<int64_t>(row) * w.columns * Stored::kBytes;
  }
  const bool in_blocks = w.scales != nullptr && w.block_columns > 0;
  // A strip lies within one row of blocks.
  const int block_row = (first_row < w.rows ? first_row : w.rows - 1) / w.block_rows;
  strip.scales = in_blocks ? w.scales + static_cast<int64_t>(block_row) * w.scale_columns : nullptr;
  strip.scale_shift = in_blocks ? 31 - __clz(w.block_columns) : 0;
  return strip;
}

// The first column that a lane reads in a step of a block.
template <typename Stored>
__device__ inline int lane_column(int block, int step) {
  return block * kBlockColumns<Stored> + step * kStepColumns<Stored> +
         static_cast<int>(threadIdx.x) % 4 * kLaneColumns<Stored>;
}

__device__ inline int64_t placed(const int32_t* places, int row) {
  return places == nullptr ? row : places[row];
}

// A row's own scale, and what turns shifted codes into their values.
template <typename Stored>
__device__ float scale_of_row(const Matrix& w, int row) {
  const float up = kShiftsCodes && Stored::kBytes == 1 ? kShiftedUp : 1.0f;
  if (w.scales == nullptr || w.block_columns > 0) return up;
  return up * w.scales[static_cast<int64_t>(row / w.block_rows) * w.scale_columns];
}

}  // namespace ring::cuda
