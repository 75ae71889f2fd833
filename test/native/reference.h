// The plain way, in float64: what the stored numbers mean by the definition of their formats, and
// seeded random weights in those formats. It shares no code with native/, so that a mistake there
// has no twin here.
#pragma once
#include "guarded.h"
#include "model.h"

#include <cstdint>
#include <vector>

namespace ring::test {

// Seeded random numbers (SplitMix64; Steele, Lea, Flood 2014): the same on every machine.
class Dice {
 public:
  explicit Dice(uint64_t seed) : state_(seed) {}

  uint64_t bits();
  double uniform();                 // in [0, 1)
  int below(int limit);             // from 0 to limit - 1
  double gaussian();                // mean 0, deviation 1

 private:
  uint64_t state_;
};

// One sign bit, four exponent bits with bias 7, three mantissa bits; exponent 0 is subnormal, all
// ones is NaN, and there is no infinity (OCP 8-bit floating point, E4M3).
double e4m3_value(uint8_t code);
// The code whose value is nearest; beyond the largest finite value that one.
uint8_t e4m3_nearest(double value);
// BF16 is the upper half of a float.
double bf16_value(uint16_t code);
uint16_t bf16_truncated(double value);

// F16: one sign bit, five exponent bits with bias 15, ten mantissa bits (IEEE 754).
double half_value(uint16_t code);

// How a matrix is stored. block_rows 0: no scales; block_columns 0: one scale for each row.
struct Format {
  const char* name;
  Dtype dtype;
  int block_rows;
  int block_columns;
};

int bytes_of(Dtype dtype);

// Every way in which a checkpoint may store a linear weight, and block sizes that fit no register.
const std::vector<Format>& formats();

// A random matrix [rows][columns] between untouchable pages. Scales vary over e^(+-2), codes use
// the whole range of their format as quantised weights do.
class RandomMatrix {
 public:
  RandomMatrix(const Format& format, int rows, int columns, Dice& dice, size_t gap_bytes = 0,
               Against side = Against::end);

  const Matrix& matrix() const { return matrix_; }
  uint8_t* bytes() { return bytes_.data(); }
  float* scales() { return scales_.data(); }
  double value(int row, int column) const;  // dequantised

 private:
  Guarded<uint8_t> bytes_;
  Guarded<float> scales_;
  Matrix matrix_;
};

// [tokens][columns]: gaussian with one outlier of a few dozen deviations in a hundred, as hidden
// states have them. The buffer ends where reading must.
void fill_activations(float* x, size_t count, Dice& dice);

// Sums errors over many outputs.
struct Error {
  double difference = 0, reference = 0;  // sums of squares
  double worst = 0;                      // largest |out - ref| / magnitude

  // magnitude: sum of |terms| of the output, to which rounding is in proportion.
  void add(double out, double expected, double magnitude);
  double relative() const;  // ||out - ref|| / ||ref||
};

}  // namespace ring::test
