// See reference.h.
#include "reference.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace ring::test {

uint64_t Dice::bits() {
  uint64_t mixed = state_ += 0x9E3779B97F4A7C15u;
  mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9u;
  mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EBu;
  return mixed ^ mixed >> 31;
}

double Dice::uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }

int Dice::below(int limit) { return static_cast<int>(uniform() * limit); }

double Dice::gaussian() {
  const double radius = std::sqrt(-2 * std::log(1 - uniform()));
  return radius * std::cos(2 * M_PI * uniform());
}

double e4m3_value(uint8_t code) {
  const int exponent = code >> 3 & 15, mantissa = code & 7;
  if (exponent == 15 && mantissa == 7) return std::numeric_limits<double>::quiet_NaN();
  const double magnitude = exponent == 0 ? std::ldexp(mantissa / 8.0, 1 - 7)
                                         : std::ldexp(1 + mantissa / 8.0, exponent - 7);
  return code & 0x80 ? -magnitude : magnitude;
}

uint8_t e4m3_nearest(double value) {
  static const std::vector<double> rising = [] {
    std::vector<double> values;
    for (uint8_t code = 0; code < 0x7f; ++code) values.push_back(e4m3_value(code));
    return values;
  }();
  const double magnitude = std::min(std::fabs(value), rising.back());
  const auto above = std::lower_bound(rising.begin(), rising.end(), magnitude);
  auto code = static_cast<uint8_t>(above - rising.begin());
  if (code > 0 && magnitude - rising[code - 1] < rising[code] - magnitude) --code;
  return std::signbit(value) ? code | 0x80 : code;
}

double bf16_value(uint16_t code) {
  const uint32_t bits = static_cast<uint32_t>(code) << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

uint16_t bf16_truncated(double value) {
  const auto single = static_cast<float>(value);
  uint32_t bits;
  memcpy(&bits, &single, sizeof bits);
  return static_cast<uint16_t>(bits >> 16);
}

double half_value(uint16_t code) {
  const int exponent = code >> 10 & 31, mantissa = code & 1023;
  double magnitude = std::ldexp(exponent == 0 ? mantissa : 1024 + mantissa,
                                exponent == 0 ? -24 : exponent - 25);
  if (exponent == 31) magnitude = mantissa == 0 ? INFINITY : NAN;
  return code & 0x8000 ? -magnitude : magnitude;
}

int bytes_of(Dtype dtype) { return dtype == Dtype::f8_e4m3 ? 1 : dtype == Dtype::bf16 ? 2 : 4; }

const std::vector<Format>& formats() {
  static const std::vector<Format> all = {
      {"FP8 in 128x128 blocks", Dtype::f8_e4m3, 128, 128},
      {"FP8 in 64x32 blocks", Dtype::f8_e4m3, 64, 32},
      {"FP8 in 3x20 blocks", Dtype::f8_e4m3, 3, 20},
      {"FP8 with row scales", Dtype::f8_e4m3, 1, 0},
      {"FP8 without scales", Dtype::f8_e4m3, 0, 0},
      {"BF16", Dtype::bf16, 0, 0},
      {"F32", Dtype::f32, 0, 0},
  };
  return all;
}

namespace {

int parts(int whole, int part) { return part <= 0 ? 1 : (whole + part - 1) / part; }

size_t scale_count(const Format& format, int rows, int columns) {
  if (format.block_rows == 0) return 0;
  return static_cast<size_t>(parts(rows, format.block_rows)) * parts(columns, format.block_columns);
}

}  // namespace

RandomMatrix::RandomMatrix(const Format& format, int rows, int columns, Dice& dice,
                           size_t gap_bytes, Against side)
    : bytes_(static_cast<size_t>(rows) * columns * bytes_of(format.dtype), gap_bytes, side),
      scales_(scale_count(format, rows, columns)) {
  matrix_.data = bytes_.data();
  matrix_.rows = rows;
  matrix_.columns = columns;
  matrix_.dtype = format.dtype;
  if (format.block_rows > 0) {
    matrix_.scales = scales_.data();
    matrix_.block_rows = format.block_rows;
    matrix_.block_columns = format.block_columns;
    matrix_.scale_columns = parts(columns, format.block_columns);
  }
  for (size_t i = 0; i < scales_.count(); ++i) {
    scales_[i] = static_cast<float>(2e-4 * std::exp(0.7 * dice.gaussian()));
  }
  for (size_t i = 0; i < static_cast<size_t>(rows) * columns; ++i) {
    const double value = dice.gaussian();
    if (format.dtype == Dtype::f8_e4m3) {
      bytes_[i] = e4m3_nearest(100 * value);
    } else if (format.dtype == Dtype::bf16) {
      const uint16_t code = bf16_truncated(0.02 * value);
      memcpy(&bytes_[2 * i], &code, 2);
    } else {
      const auto single = static_cast<float>(0.02 * value);
      memcpy(&bytes_[4 * i], &single, 4);
    }
  }
}

double RandomMatrix::value(int row, int column) const {
  const size_t at = static_cast<size_t>(row) * matrix_.columns + column;
  double stored;
  if (matrix_.dtype == Dtype::f8_e4m3) {
    stored = e4m3_value(bytes_[at]);
  } else if (matrix_.dtype == Dtype::bf16) {
    uint16_t code;
    memcpy(&code, &bytes_[2 * at], 2);
    stored = bf16_value(code);
  } else {
    float single;
    memcpy(&single, &bytes_[4 * at], 4);
    stored = single;
  }
  if (matrix_.scales == nullptr) return stored;
  const int block_row = row / matrix_.block_rows;
  const int block_column = matrix_.block_columns == 0 ? 0 : column / matrix_.block_columns;
  return stored * scales_[static_cast<size_t>(block_row) * matrix_.scale_columns + block_column];
}

void fill_activations(float* x, size_t count, Dice& dice) {
  for (size_t i = 0; i < count; ++i) {
    const double value = dice.gaussian();
    x[i] = static_cast<float>(dice.below(100) == 0 ? 30 * value : value);
  }
}

void Error::add(double out, double expected, double magnitude) {
  difference += (out - expected) * (out - expected);
  reference += expected * expected;
  const double share = std::fabs(out - expected) / (magnitude > 0 ? magnitude : 1);
  // Written so that a NaN is the worst there is.
  if (!(share <= worst)) worst = std::isnan(share) ? INFINITY : share;
}

double Error::relative() const { return std::sqrt(difference / reference); }

}  // namespace ring::test
