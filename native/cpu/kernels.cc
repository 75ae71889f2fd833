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

template <typename Load>
RING_INLINE float dot_of(const float* a, int count, const Load& load_b) {
  Floats sums[kSums] = {zero(), zero(), zero(), zero()};
  int k = 0;
  for (; k + kSums * kLanes <= count; k += kSums * kLanes) {
    RING_UNROLL for (int s = 0; s < kSums; ++s) sums[s] =
        fma(load(a + k + s * kLanes), load_b(k + s * kLanes, kLanes), sums[s]);
  }
  for (; k < count; k += kLanes)
    sums[0] = fma(load_short(a + k, count - k), load_b(k, count - k), sums[0]);
  return sum(total(sums));
}

float dot(const float* a, const float* b, int count) {
  return dot_of(a, count, [b](int k, int left) {
    return left >= kLanes ? load(b + k) : load_short(b + k, left);
  });
}

RING_INLINE Floats load_bf16_short(const uint16_t* p, int count) {
  uint16_t lanes[kLanes] = {0};
  memcpy(lanes, p, static_cast<size_t>(smaller(count, kLanes)) * 2);
  return load_bf16(reinterpret_cast<const uint8_t*>(lanes));
}

float dot_bf16(const float* a, const uint16_t* b, int count) {
  return dot_of(a, count, [b](int k, int left) {
    return left >= kLanes ? load_bf16(reinterpret_cast<const uint8_t*>(b + k))
                          : load_bf16_short(b + k, left);
  });
}

template <typename Load>
RING_INLINE void add_scaled_of(float a, float* y, int count, const Load& load_x) {
  const Floats factor = splat(a);
  for (int i = 0; i < count; i += kLanes) {
    const int left = count - i;
    if (left >= kLanes) {
      store(y + i, fma(factor, load_x(i, left), load(y + i)));
      continue;
    }
    float lanes[kLanes];
    store(lanes, fma(factor, load_x(i, left), load_short(y + i, left)));
    memcpy(y + i, lanes, static_cast<size_t>(left) * 4);
  }
}

void add_scaled(float a, const float* x, float* y, int count) {
  add_scaled_of(a, y, count, [x](int i, int left) {
    return left >= kLanes ? load(x + i) : load_short(x + i, left);
  });
}

void add_scaled_bf16(float a, const uint16_t* x, float* y, int count) {
  add_scaled_of(a, y, count, [x](int i, int left) {
    return left >= kLanes ? load_bf16(reinterpret_cast<const uint8_t*>(x + i))
                          : load_bf16_short(x + i, left);
  });
}

float rms_norm(const float* x, const float* weight, float* out, int count, float epsilon) {
  const float mean = dot(x, x, count) / static_cast<float>(count);
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
                         dot,
                         dot_bf16,
                         add_scaled,
                         add_scaled_bf16};

}  // namespace RING_ISA_NAMESPACE
}  // namespace ring
