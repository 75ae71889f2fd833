// Weights that the GPU makes itself: random codes with the spread of quantised weights, never
// zeros, and the same numbers here, one at a time, for a reference in float64. Four GB take no
// longer than writing them does.
#pragma once
#include <memory>
#include <vector>

#include "cudas.h"
#include "door.h"

namespace ring::gpu {

// The same elements as MadeBytes has, made by the host.
std::vector<uint8_t> make_here(Dtype dtype, int64_t count, uint64_t seed);

// Bytes of random elements of one format.
class MadeBytes {
 public:
  // count: elements, a multiple of four.
  MadeBytes(Dtype dtype, int64_t count, uint64_t seed);
  uint8_t* data() const { return bytes_.data(); }
  double value(int64_t element) const;  // without scales

 private:
  Dtype dtype_;
  uint64_t seed_;
  test::OnGpu<uint8_t> bytes_;
};

// Matrices [rows][columns] one behind the other, all with the same scales.
class MadeMatrices {
 public:
  MadeMatrices(const test::Format& format, int rows, int columns, int count, uint64_t seed);
  int count() const { return count_; }
  int64_t bytes_each() const;
  Matrix at(int index) const;
  double value(int index, int row, int column) const;  // with its scale

 private:
  int64_t elements() const { return static_cast<int64_t>(rows_) * columns_; }
  test::Format format_;
  int rows_, columns_, count_, scale_columns_ = 0;
  std::vector<float> scales_;
  test::OnGpu<float> scales_there_;
  MadeBytes bytes_;
};

}  // namespace ring::gpu
