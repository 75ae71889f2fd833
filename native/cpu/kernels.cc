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

#if defined(__AVX512BF16__)
void matmul_bf16(const Matrix& w, int row_begin, int row_end, const float* x, int tokens,
                 float* out, int64_t out_stride, float* scratch) {
  switch (w.dtype) {
    case Dtype::f8_e4m3:
      return multiply<ByBf16<E4m3>>(w, row_begin, row_end, x, tokens, out, out_stride, scratch);
    case Dtype::bf16:
      return multiply<ByBf16<Bf16>>(w, row_begin, row_end, x, tokens, out, out_stride, scratch);
    default:
      return matmul(w, row_begin, row_end, x, tokens, out, out_stride, scratch);
  }
}
#else
constexpr Matmul matmul_bf16 = nullptr;
#endif

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

RING_INLINE Floats load_short(const float* p, int count) {
  float lanes[kLanes] = {0};
  memcpy(lanes, p, static_cast<size_t>(count) * 4);
  return load(lanes);
}

RING_INLINE void store_short(float* p, Floats a, int count) {
  float lanes[kLanes];
  store(lanes, a);
  memcpy(p, lanes, static_cast<size_t>(count) * 4);
}

// Elements as they are stored, widened: whole lanes, or the last `left` of a vector.
struct Singles {
  const float* p;
  Floats at(int i, int left) const {
    return left >= kLanes ? load(p + i) : load_short(p + i, left);
  }
};
struct Narrow {
  const uint16_t* p;
  Floats at(int i, int left) const {
    if (left >= kLanes) return load_bf16(reinterpret_cast<const uint8_t*>(p + i));
    uint16_t lanes[kLanes] = {0};
    memcpy(lanes, p + i, static_cast<size_t>(left) * 2);
    return load_bf16(reinterpret_cast<const uint8_t*>(lanes));
  }
};

constexpr int kSums = 4;

RING_INLINE Floats total(const Floats (&sums)[kSums]) {
  return add(add(sums[0], sums[1]), add(sums[2], sums[3]));
}

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
  dots_of<Narrow>(a, b, count, rows, out);
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
    store_short(y + i, sums, left);
  }
}

void add_rows(const float* factors, const float* x, int rows, float* y, int count) {
  add_rows_of<Singles>(factors, x, rows, y, count);
}

void add_rows_bf16(const float* factors, const uint16_t* x, int rows, float* y, int count) {
  add_rows_of<Narrow>(factors, x, rows, y, count);
}

float rms_norm(const float* x, const float* weight, float* out, int count, float epsilon) {
  const float mean = sum(dot_lanes(x, Singles{x}, count)) / static_cast<float>(count);
  const float factor = 1.0f / __builtin_sqrtf(mean + epsilon);
  for (int i = 0; i < count; ++i) out[i] = weight[i] * (x[i] * factor);
  return mean;
}

RING_INLINE float largest(const float* x, int count) {
  Floats lanes = splat(x[0]);
  int i = 0;
  for (; i + kLanes <= count; i += kLanes) lanes = larger_of(load(x + i), lanes);
  float most[kLanes];
  store(most, lanes);
  for (; i < count; ++i) most[0] = x[i] > most[0] ? x[i] : most[0];
  for (int lane = 1; lane < kLanes; ++lane) most[0] = most[lane] > most[0] ? most[lane] : most[0];
  return most[0];
}

void softmax(float* x, int count, float scale) {
  const Floats most = splat(largest(x, count)), factor = splat(scale);
  const auto power = [&](Floats a) { return exp(mul(add(a, mul(most, splat(-1.0f))), factor)); };
  Floats sums[kSums] = {zero(), zero(), zero(), zero()};
  int i = 0;
  const auto raise = [&](Floats& sum) {
    const Floats y = power(load(x + i));
    store(x + i, y);
    sum = add(sum, y);
    i += kLanes;
  };
  while (i + kSums * kLanes <= count) {
    RING_UNROLL for (int s = 0; s < kSums; ++s) raise(sums[s]);
  }
  while (i + kLanes <= count) raise(sums[0]);
  if (i < count) {
    store_short(x + i, power(load_short(x + i, count - i)), count - i);
    sums[0] = add(sums[0], load_short(x + i, count - i));
  }
  const Floats all = splat(sum(total(sums)));
  for (i = 0; i + kLanes <= count; i += kLanes) store(x + i, divide(load(x + i), all));
  if (i < count) store_short(x + i, divide(load_short(x + i, count - i), all), count - i);
}

void swiglu(float* gate, const float* up, int64_t count) {
  const auto of = [](Floats g, Floats u) {
    const Floats one = splat(1.0f);
    return mul(divide(g, add(one, exp(mul(g, splat(-1.0f))))), u);
  };
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(gate + i, of(load(gate + i), load(up + i)));
  const int left = static_cast<int>(count - i);
  if (left > 0)
    store_short(gate + i, of(load_short(gate + i, left), load_short(up + i, left)), left);
}

}  // namespace

extern const Kernels kernels;
const Kernels kernels = {RING_STRING(RING_ISA_NAMESPACE),
                         matmul,
                         matmul_bf16,
                         read_row,
                         rms_norm,
                         dots,
                         dots_bf16,
                         add_rows,
                         add_rows_bf16,
                         softmax,
                         swiglu};

}  // namespace RING_ISA_NAMESPACE
}  // namespace ring
