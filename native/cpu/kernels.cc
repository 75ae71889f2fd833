// Kernels of one instruction set; compiled once for each, with RING_ISA_NAMESPACE naming it. It
// defines nothing outside its namespace, and uses no inline function of a shared header that is not
// forced inline: the linker would keep one copy for all processors.
#include "kernels.h"

#include "multiply.h"
#include "simd.h"

#define RING_STRING_(name) #name
#define RING_STRING(name) RING_STRING_(name)

namespace ring {
namespace RING_ISA_NAMESPACE {
namespace {

void matmul(const Matrix& w, int row_begin, int row_end, const float* x, int tokens, float* out,
            int64_t out_stride, float* scratch) {
  switch (w.dtype) {
    case Dtype::f8_e4m3:
      return multiply<E4m3>(w, row_begin, row_end, x, tokens, out, out_stride, scratch);
    case Dtype::bf16:
      return multiply<Bf16>(w, row_begin, row_end, x, tokens, out, out_stride, scratch);
    case Dtype::f32:
      return multiply<F32>(w, row_begin, row_end, x, tokens, out, out_stride, scratch);
    case Dtype::none:
      return;
  }
}

// The value of one e4m3fn code (sign, four bits of exponent with bias 7, three of mantissa, no
// infinities).
float value_of_e4m3(uint8_t code) {
  const int exponent = code >> 3 & 15, mantissa = code & 7;
  if ((code & 0x7f) == 0x7f) return quiet_nan();
  float magnitude = static_cast<float>(exponent == 0 ? mantissa : 8 + mantissa) * 0x1p-9f;
  for (int e = 1; e < exponent; ++e) magnitude *= 2.0f;
  return code & 0x80 ? -magnitude : magnitude;
}

void read_row(const Matrix& w, int row, float* out) {
  const float* scales = scales_of(w, row);
  for (int k = 0; k < w.columns; ++k) {
    float value = 0;
    if (w.dtype == Dtype::f8_e4m3) {
      value = value_of_e4m3(row_of<E4m3>(w, row)[k]);
    } else if (w.dtype == Dtype::bf16) {
      uint16_t half;
      memcpy(&half, row_of<Bf16>(w, row) + 2 * k, 2);
      const uint32_t bits = static_cast<uint32_t>(half) << 16;
      memcpy(&value, &bits, 4);
    } else {
      memcpy(&value, row_of<F32>(w, row) + 4 * static_cast<int64_t>(k), 4);
    }
    if (scales != nullptr) value *= w.block_columns == 0 ? scales[0] : scales[k / w.block_columns];
    out[k] = value;
  }
}

// Elements as they are stored, widened: whole lanes, or the last `left` of a vector.
struct Singles {
  const float* p;
  Floats at(int i, int left) const {
    return left >= kLanes ? load(p + i) : load_short(p + i, left);
  }
};
struct Halves {
  const uint16_t* p;
  Floats at(int i, int left) const {
    if (left >= kLanes) return load_bf16(reinterpret_cast<const uint8_t*>(p + i));
    uint16_t lanes[kLanes] = {0};
    memcpy(lanes, p + i, static_cast<size_t>(left) * 2);
    return load_bf16(reinterpret_cast<const uint8_t*>(lanes));
  }
};

template <typename Elements>
RING_INLINE Floats dot_lanes(const float* a, const Elements& b, int count) {
  Floats sums[kSums] = {zero(), zero(), zero(), zero()};
  int k = 0;
  for (; k + kSums * kLanes <= count; k += kSums * kLanes) {
    RING_UNROLL for (int s = 0; s < kSums; ++s) {
      sums[s] = fma(load(a + k + s * kLanes), b.at(k + s * kLanes, kLanes), sums[s]);
    }
  }
  for (; k < count; k += kLanes) {
    sums[0] = fma(Singles{a}.at(k, count - k), b.at(k, count - k), sums[0]);
  }
  return total(sums);
}

template <typename Elements, typename Element>
RING_INLINE void dots_of(const float* a, const Element* b, int count, int rows, float* out) {
  int r = 0;
  for (; r + 4 <= rows; r += 4) {
    Floats lanes[4];
    RING_UNROLL for (int i = 0; i < 4; ++i) {
      lanes[i] = dot_lanes(a, Elements{b + static_cast<int64_t>(r + i) * count}, count);
    }
    store_sums(lanes, out + r);
  }
  for (; r < rows; ++r) {
    out[r] = sum(dot_lanes(a, Elements{b + static_cast<int64_t>(r) * count}, count));
  }
}

void dots(const float* a, const float* b, int count, int rows, float* out) {
  dots_of<Singles>(a, b, count, rows, out);
}

void dots_bf16(const float* a, const uint16_t* b, int count, int rows, float* out) {
  dots_of<Halves>(a, b, count, rows, out);
}

template <typename Elements, typename Element>
RING_INLINE void add_rows_of(const float* factors, const Element* x, int rows, float* y,
                             int count) {
  int i = 0;
  for (; i + 4 * kLanes <= count; i += 4 * kLanes) {
    Floats sums[4];
    RING_UNROLL for (int c = 0; c < 4; ++c) sums[c] = load(y + i + c * kLanes);
    for (int r = 0; r < rows; ++r) {
      const Elements row{x + static_cast<int64_t>(r) * count};
      const Floats factor = splat(factors[r]);
      RING_UNROLL for (int c = 0; c < 4; ++c) {
        sums[c] = fma(factor, row.at(i + c * kLanes, kLanes), sums[c]);
      }
    }
    RING_UNROLL for (int c = 0; c < 4; ++c) store(y + i + c * kLanes, sums[c]);
  }
  for (; i < count; i += kLanes) {
    const int left = smaller(count - i, kLanes);
    Floats sums = Singles{y}.at(i, left);
    for (int r = 0; r < rows; ++r) {
      sums =
          fma(splat(factors[r]), Elements{x + static_cast<int64_t>(r) * count}.at(i, left), sums);
    }
    float lanes[kLanes];
    store(lanes, sums);
    memcpy(y + i, lanes, static_cast<size_t>(left) * 4);
  }
}

void add_rows(const float* factors, const float* x, int rows, float* y, int count) {
  add_rows_of<Singles>(factors, x, rows, y, count);
}

void add_rows_bf16(const float* factors, const uint16_t* x, int rows, float* y, int count) {
  add_rows_of<Halves>(factors, x, rows, y, count);
}

float rms_norm(const float* x, const float* weight, float* out, int count, float epsilon) {
  const float mean = sum(dot_lanes(x, Singles{x}, count)) / static_cast<float>(count);
  const float factor = 1.0f / __builtin_sqrtf(mean + epsilon);
  for (int i = 0; i < count; ++i) out[i] = weight[i] * (x[i] * factor);
  return mean;
}

}  // namespace

extern const Kernels kernels;
const Kernels kernels = {RING_STRING(RING_ISA_NAMESPACE),
                         matmul,
                         read_row,
                         rms_norm,
                         dots,
                         dots_bf16,
                         add_rows,
                         add_rows_bf16};

}  // namespace RING_ISA_NAMESPACE
}  // namespace ring
