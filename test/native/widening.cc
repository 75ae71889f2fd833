// What a stored code is worth: every e4m3 and BF16 code, through both ways in which a kernel reads
// weights, must come out as exactly the number its format defines.
#include "isa.h"
#include "reference.h"

#include <cmath>
#include <cstring>
#include <vector>

using namespace ring;
using namespace ring::test;

namespace {

Matrix plain(const uint8_t* data, Dtype dtype, int rows, int columns) {
  Matrix matrix;
  matrix.data = data;
  matrix.dtype = dtype;
  matrix.rows = rows;
  matrix.columns = columns;
  return matrix;
}

bool is_same(float found, double expected) {
  return std::isnan(expected) ? std::isnan(found) : static_cast<double>(found) == expected;
}

void require_code(unsigned code, float found, double expected) {
  require(is_same(found, expected), "code 0x%02x is %.9g, expected %.9g", code,
          static_cast<double>(found), expected);
}

}  // namespace

RING_KERNEL_CASE(e4m3_rows, "reads all 256 e4m3 codes exactly, signed zeros and NaN included") {
  Guarded<uint8_t> codes(256);
  for (unsigned code = 0; code < 256; ++code) codes[code] = static_cast<uint8_t>(code);
  Guarded<float> out(256);
  kernels.read_row(plain(codes.data(), Dtype::f8_e4m3, 1, 256), 0, out.data());
  for (unsigned code = 0; code < 256; ++code) {
    const double expected = e4m3_value(static_cast<uint8_t>(code));
    require_code(code, out[code], expected);
    if (expected != 0) continue;
    require(std::signbit(out[code]) == (code >= 128), "code 0x%02x lost its sign", code);
  }
}

// Row r holds code r in every column and token t picks column t, so each output is one code times
// one; 33 columns pass through two registers and a tail.
RING_KERNEL_CASE(e4m3_products, "multiplies each e4m3 code exactly in each column of a register") {
  constexpr int kColumns = 33;
  Guarded<uint8_t> codes(256 * kColumns);
  for (int i = 0; i < 256 * kColumns; ++i) codes[i] = static_cast<uint8_t>(i / kColumns);
  const Matrix weight = plain(codes.data(), Dtype::f8_e4m3, 256, kColumns);
  Guarded<float> x(kColumns * kColumns), out(kColumns * 256), scratch(kMatmulScratch);
  for (int i = 0; i < kColumns * kColumns; ++i) x[i] = i / kColumns == i % kColumns ? 1.0f : 0.0f;
  for (const int together : {1, kColumns}) {
    for (int first = 0; first < kColumns; first += together) {
      kernels.matmul(weight, 0, 256, x.data() + first * kColumns, together,
                     out.data() + first * 256, 256, scratch.data());
    }
    for (int i = 0; i < kColumns * 256; ++i) {
      const auto code = static_cast<uint8_t>(i % 256);
      require_code(code, out[i], e4m3_value(code));
    }
  }
}

RING_KERNEL_CASE(bf16_rows, "reads and multiplies all 65,536 BF16 codes exactly") {
  Guarded<uint8_t> bytes(2 * 65536, 1);  // at an odd address
  for (unsigned code = 0; code < 65536; ++code) {
    bytes[2 * code] = static_cast<uint8_t>(code);
    bytes[2 * code + 1] = static_cast<uint8_t>(code >> 8);
  }
  Guarded<float> row(65536);
  kernels.read_row(plain(bytes.data(), Dtype::bf16, 1, 65536), 0, row.data());
  const float one = 1;
  Guarded<float> product(65536), scratch(kMatmulScratch);
  kernels.matmul(plain(bytes.data(), Dtype::bf16, 65536, 1), 0, 65536, &one, 1, product.data(),
                 65536, scratch.data());
  for (unsigned code = 0; code < 65536; ++code) {
    require_code(code, row[code], bf16_value(static_cast<uint16_t>(code)));
    require_code(code, product[code], bf16_value(static_cast<uint16_t>(code)));
  }
}

RING_KERNEL_CASE(f32_rows, "reads F32 bit by bit at every byte phase") {
  Dice dice(1);
  for (size_t gap = 0; gap < 4; ++gap) {
    Guarded<uint8_t> bytes(4 * 37, gap);
    for (size_t i = 0; i < bytes.count(); ++i) bytes[i] = static_cast<uint8_t>(dice.bits());
    Guarded<float> out(37);
    kernels.read_row(plain(bytes.data(), Dtype::f32, 1, 37), 0, out.data());
    require(memcmp(out.data(), bytes.data(), 4 * 37) == 0, "bits differ at gap %zu", gap);
  }
}

RING_KERNEL_CASE(scaled_rows, "reads a scaled row as the product of code and scale, rounded once") {
  Dice dice(2);
  for (const Format& format : formats()) {
    for (const int columns : {1, 17, 33, 200, 300}) {
      const RandomMatrix weight(format, 131, columns, dice);
      Guarded<float> out(columns);
      for (int row = 0; row < 131; ++row) {
        kernels.read_row(weight.matrix(), row, out.data());
        for (int k = 0; k < columns; ++k) {
          require(out[k] == static_cast<float>(weight.value(row, k)),
                  "%s, row %d column %d is %.9g, expected %.9g", format.name, row, k,
                  static_cast<double>(out[k]), weight.value(row, k));
        }
      }
    }
  }
}
