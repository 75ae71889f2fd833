// See made.h.
#include "made.h"

#include <cmath>
#include <cstring>

namespace ring::gpu {
namespace {

using test::Dice;
using test::OnGpu;
using test::require;
using test::require_gpu;
using test::test_stream;

// What codes are drawn from: values of a normal distribution, as they are stored.
struct Values {
  std::vector<uint8_t> bytes;
  std::vector<double> meanings;
  OnGpu<uint8_t> there;

  explicit Values(Dtype dtype) : there(size_t{cuda::kRandomValues} * test::bytes_of(dtype)) {
    Dice dice(17);
    for (int i = 0; i < cuda::kRandomValues; ++i) {
      if (dtype == Dtype::f8_e4m3) {
        bytes.push_back(test::e4m3_nearest(100 * dice.gaussian()));
        meanings.push_back(test::e4m3_value(bytes.back()));
      } else {
        const uint16_t code = test::bf16_truncated(0.02 * dice.gaussian());
        bytes.resize(bytes.size() + 2);
        memcpy(&bytes[bytes.size() - 2], &code, 2);
        meanings.push_back(test::bf16_value(code));
      }
    }
    there.write(bytes.data());
  }
};

const Values& values_of(Dtype dtype) {
  require(dtype == Dtype::f8_e4m3 || dtype == Dtype::bf16, "no such weights are made");
  // Kept to the end: the library may be gone before what is static here.
  static const Values* const fp8 = new Values(Dtype::f8_e4m3);
  static const Values* const bf16 = new Values(Dtype::bf16);
  return dtype == Dtype::f8_e4m3 ? *fp8 : *bf16;
}

int parts(int whole, int part) { return part <= 0 ? 1 : (whole + part - 1) / part; }

std::vector<float> random_scales(const test::Format& format, int rows, int columns, Dice dice) {
  if (format.block_rows == 0) return {};
  std::vector<float> scales(static_cast<size_t>(parts(rows, format.block_rows)) *
                            parts(columns, format.block_columns));
  for (float& scale : scales) scale = static_cast<float>(2e-4 * std::exp(0.7 * dice.gaussian()));
  return scales;
}

}  // namespace

std::vector<uint8_t> make_here(Dtype dtype, int64_t count, uint64_t seed) {
  const Values& values = values_of(dtype);
  const auto width = static_cast<size_t>(test::bytes_of(dtype));
  std::vector<uint8_t> out(static_cast<size_t>(count) * width);
  for (int64_t i = 0; i < count; ++i) {
    memcpy(&out[static_cast<size_t>(i) * width],
           &values.bytes[static_cast<size_t>(cuda::random_index(seed, i)) * width], width);
  }
  return out;
}

MadeBytes::MadeBytes(Dtype dtype, int64_t count, uint64_t seed)
    : dtype_(dtype), seed_(seed), bytes_(static_cast<size_t>(count) * test::bytes_of(dtype)) {
  require_gpu(door().measure->fill_randomly(test_stream(), bytes_.data(), count,
                                            test::bytes_of(dtype), values_of(dtype).there.data(),
                                            seed));
  require_gpu(cudaStreamSynchronize(test_stream()));
}

double MadeBytes::value(int64_t element) const {
  return values_of(dtype_).meanings[cuda::random_index(seed_, element)];
}

MadeMatrices::MadeMatrices(const test::Format& format, int rows, int columns, int count,
                           uint64_t seed)
    : format_(format),
      rows_(rows),
      columns_(columns),
      count_(count),
      scale_columns_(parts(columns, format.block_columns)),
      scales_(random_scales(format, rows, columns, Dice(seed))),
      scales_there_(scales_),
      bytes_(format.dtype, elements() * count, seed) {}

int64_t MadeMatrices::bytes_each() const { return elements() * test::bytes_of(format_.dtype); }

Matrix MadeMatrices::at(int index) const {
  Matrix matrix;
  matrix.data = bytes_.data() + bytes_each() * index;
  matrix.rows = rows_;
  matrix.columns = columns_;
  matrix.dtype = format_.dtype;
  if (scales_.empty()) return matrix;
  matrix.scales = scales_there_.data();
  matrix.block_rows = format_.block_rows;
  matrix.block_columns = format_.block_columns;
  matrix.scale_columns = scale_columns_;
  return matrix;
}

double MadeMatrices::value(int index, int row, int column) const {
  const double stored =
      bytes_.value(elements() * index + static_cast<int64_t>(row) * columns_ + column);
  if (scales_.empty()) return stored;
  const int block_column = format_.block_columns == 0 ? 0 : column / format_.block_columns;
  return stored *
         scales_[static_cast<size_t>(row / format_.block_rows) * scale_columns_ + block_column];
}

}  // namespace ring::gpu
