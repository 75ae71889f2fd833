// Kernels of one instruction set; compiled once for each, with RING_ISA_NAMESPACE naming it.
// It defines nothing outside its namespace. Weights are widened exactly (e4m3 and BF16 fit F32), products and sums are F32, sixteen lanes by
// two accumulators per output, and a block's scale multiplies the block's sum.
#include "kernels.h"

#include "simd.h"

#define RING_STRING_(name) #name
#define RING_STRING(name) RING_STRING_(name)

namespace ring {
namespace RING_ISA_NAMESPACE {
namespace {

struct E4m3 {
  static constexpr int kBytes = 1;
  static F32x16 widen(const uint8_t* p) { return load_e4m3(p); }
};
struct Bf16 {
  static constexpr int kBytes = 2;
  static F32x16 widen(const uint8_t* p) { return load_bf16(p); }
};
struct F32 {
  static constexpr int kBytes = 4;
  static F32x16 widen(const uint8_t* p) {
    F32x16 r;
    memcpy(&r, p, sizeof r);
    return r;
  }
};

inline F32x16 load_tail(const float* p, int count) {
  float lanes[kLanes] = {0};
  memcpy(lanes, p, static_cast<size_t>(count) * 4);
  return load(lanes);
}

// The last columns of a row: nothing past them is read, a map may end there.
template <typename Source>
inline F32x16 widen_tail(const uint8_t* p, int count) {
  uint8_t bytes[kLanes * Source::kBytes] = {0};
  memcpy(bytes, p, static_cast<size_t>(count) * Source::kBytes);
  return Source::widen(bytes);
}

// Columns [begin, end) of one row against `kTokens` tokens, added to sums[kTokens].
template <typename Source, int kTokens>
inline void dot_columns(const uint8_t* row, const float* x, int64_t x_stride, int begin, int end,
                        F32x16 (&sums)[kTokens]) {
  F32x16 even[kTokens], odd[kTokens];
  for (int t = 0; t < kTokens; ++t) even[t] = odd[t] = zero();
  int k = begin;
  for (; k + 2 * kLanes <= end; k += 2 * kLanes) {
    const F32x16 w0 = Source::widen(row + static_cast<int64_t>(k) * Source::kBytes);
    const F32x16 w1 = Source::widen(row + static_cast<int64_t>(k + kLanes) * Source::kBytes);
    for (int t = 0; t < kTokens; ++t) {
      even[t] = fma(w0, load(x + t * x_stride + k), even[t]);
      odd[t] = fma(w1, load(x + t * x_stride + k + kLanes), odd[t]);
    }
  }
  for (; k < end; k += kLanes) {
    const int count = end - k < kLanes ? end - k : kLanes;
    const F32x16 w = widen_tail<Source>(row + static_cast<int64_t>(k) * Source::kBytes, count);
    for (int t = 0; t < kTokens; ++t) {
      even[t] = fma(w, load_tail(x + t * x_stride + k, count), even[t]);
    }
  }
  for (int t = 0; t < kTokens; ++t) sums[t] = add(even[t], odd[t]);
}

// One weight row against `kTokens` tokens. `scales`: of this row's blocks, or null.
template <typename Source, int kTokens>
inline void dot_row(const uint8_t* row, const float* scales, int block_columns, int columns,
                    const float* x, float* out, int64_t out_stride) {
  F32x16 total[kTokens];
  if (scales == nullptr || block_columns == 0) {
    dot_columns<Source, kTokens>(row, x, columns, 0, columns, total);
    for (int t = 0; t < kTokens; ++t) {
      const float value = sum(total[t]);
      out[t * out_stride] = scales == nullptr ? value : value * scales[0];
    }
    return;
  }
  for (int t = 0; t < kTokens; ++t) total[t] = zero();
  for (int begin = 0, block = 0; begin < columns; begin += block_columns, ++block) {
    const int end = begin + block_columns < columns ? begin + block_columns : columns;
    F32x16 sums[kTokens];
    dot_columns<Source, kTokens>(row, x, columns, begin, end, sums);
    const F32x16 scale = splat(scales[block]);
    for (int t = 0; t < kTokens; ++t) total[t] = fma(sums[t], scale, total[t]);
  }
  for (int t = 0; t < kTokens; ++t) out[t * out_stride] = sum(total[t]);
}

const float* scales_of_row(const Matrix& w, int row) {
  if (w.scales == nullptr) return nullptr;
  return w.scales + static_cast<int64_t>(row / w.block_rows) * w.scale_columns;
}

const uint8_t* bytes_of_row(const Matrix& w, int row, int element_bytes) {
  return w.data + static_cast<int64_t>(row) * w.columns * element_bytes;
}

template <typename Source>
void dot_tokens(const uint8_t* row, const float* scales, const Matrix& w, const float* x,
                int tokens, float* out, int64_t out_stride) {
  int t = 0;
  for (; t + 4 <= tokens; t += 4) {
    dot_row<Source, 4>(row, scales, w.block_columns, w.columns, x + static_cast<int64_t>(t) * w.columns,
                       out + t * out_stride, out_stride);
  }
  for (; t < tokens; ++t) {
    dot_row<Source, 1>(row, scales, w.block_columns, w.columns, x + static_cast<int64_t>(t) * w.columns,
                       out + t * out_stride, out_stride);
  }
}

template <typename Source>
void widen_row(const uint8_t* row, int columns, float* out) {
  int k = 0;
  for (; k + kLanes <= columns; k += kLanes) {
    store(out + k, Source::widen(row + static_cast<int64_t>(k) * Source::kBytes));
  }
  if (k < columns) {
    float lanes[kLanes];
    store(lanes, widen_tail<Source>(row + static_cast<int64_t>(k) * Source::kBytes, columns - k));
    memcpy(out + k, lanes, static_cast<size_t>(columns - k) * 4);
  }
}

// With many tokens a few rows are widened once and meet four tokens at a time; the products and
// their order are those of dot_tokens on the stored bytes, so the bits are too.
template <typename Source>
void matmul_source(const Matrix& w, int row_begin, int row_end, const float* x, int tokens,
                   float* out, int64_t out_stride, float* scratch) {
  constexpr int kFewTokens = 8;
  if (tokens <= kFewTokens) {
    for (int row = row_begin; row < row_end; ++row) {
      dot_tokens<Source>(bytes_of_row(w, row, Source::kBytes), scales_of_row(w, row), w, x, tokens,
                         out + row, out_stride);
    }
    return;
  }
  const int64_t stride = matmul_scratch(w.columns) / kRowsAtOnce;
  for (int first = row_begin; first < row_end; first += kRowsAtOnce) {
    const int rows = row_end - first < kRowsAtOnce ? row_end - first : kRowsAtOnce;
    for (int r = 0; r < rows; ++r) {
      widen_row<Source>(bytes_of_row(w, first + r, Source::kBytes), w.columns, scratch + r * stride);
    }
    for (int t = 0; t < tokens; t += 4) {
      const int count = tokens - t < 4 ? tokens - t : 4;
      for (int r = 0; r < rows; ++r) {
        dot_tokens<F32>(reinterpret_cast<const uint8_t*>(scratch + r * stride),
                        scales_of_row(w, first + r), w, x + static_cast<int64_t>(t) * w.columns, count,
                        out + t * out_stride + first + r, out_stride);
      }
    }
  }
}

void matmul(const Matrix& w, int row_begin, int row_end, const float* x, int tokens, float* out,
            int64_t out_stride, float* scratch) {
  switch (w.dtype) {
    case Dtype::f8_e4m3:
      return matmul_source<E4m3>(w, row_begin, row_end, x, tokens, out, out_stride, scratch);
    case Dtype::bf16:
      return matmul_source<Bf16>(w, row_begin, row_end, x, tokens, out, out_stride, scratch);
    case Dtype::f32:
      return matmul_source<F32>(w, row_begin, row_end, x, tokens, out, out_stride, scratch);
    case Dtype::none:
      return;
  }
}

void read_row(const Matrix& w, int row, float* out) {
  switch (w.dtype) {
    case Dtype::f8_e4m3: widen_row<E4m3>(bytes_of_row(w, row, 1), w.columns, out); break;
    case Dtype::bf16: widen_row<Bf16>(bytes_of_row(w, row, 2), w.columns, out); break;
    case Dtype::f32: widen_row<F32>(bytes_of_row(w, row, 4), w.columns, out); break;
    case Dtype::none: return;
  }
  const float* scales = scales_of_row(w, row);
  if (scales == nullptr) return;
  for (int k = 0; k < w.columns; ++k) {
    out[k] *= w.block_columns == 0 ? scales[0] : scales[k / w.block_columns];
  }
}

float dot(const float* a, const float* b, int count) {
  F32x16 sums[1];
  dot_columns<F32, 1>(reinterpret_cast<const uint8_t*>(a), b, 0, 0, count, sums);
  return sum(sums[0]);
}

float dot_bf16(const float* a, const uint16_t* b, int count) {
  F32x16 sums[1];
  dot_columns<Bf16, 1>(reinterpret_cast<const uint8_t*>(b), a, 0, 0, count, sums);
  return sum(sums[0]);
}

template <typename Source>
void add_scaled_source(float a, const uint8_t* x, float* y, int count) {
  const F32x16 factor = splat(a);
  int i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    store(y + i, fma(factor, Source::widen(x + i * Source::kBytes), load(y + i)));
  }
  if (i == count) return;
  const int rest = count - i;
  float lanes[kLanes];
  store(lanes, fma(factor, widen_tail<Source>(x + i * Source::kBytes, rest), load_tail(y + i, rest)));
  memcpy(y + i, lanes, static_cast<size_t>(rest) * 4);
}

void add_scaled(float a, const float* x, float* y, int count) {
  add_scaled_source<F32>(a, reinterpret_cast<const uint8_t*>(x), y, count);
}

void add_scaled_bf16(float a, const uint16_t* x, float* y, int count) {
  add_scaled_source<Bf16>(a, reinterpret_cast<const uint8_t*>(x), y, count);
}

float rms_norm(const float* x, const float* weight, float* out, int count, float epsilon) {
  const float mean = dot(x, x, count) / static_cast<float>(count);
  const float factor = 1.0f / __builtin_sqrtf(mean + epsilon);
  for (int i = 0; i < count; ++i) out[i] = weight[i] * (x[i] * factor);
  return mean;
}

}  // namespace

extern const Kernels kernels;
const Kernels kernels = {RING_STRING(RING_ISA_NAMESPACE), matmul,         read_row,   rms_norm,
                         dot,                             dot_bf16,       add_scaled, add_scaled_bf16};

}  // namespace RING_ISA_NAMESPACE
}  // namespace ring
