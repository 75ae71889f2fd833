// The GPU's products, on the emulation or on hardware: right against float64 in every format and at
// odd shapes, and with bits that depend on nothing but the row of weights and the row of
// activations. Outputs begin as NaN and end where reading and writing must; the address sanitizer
// watches both.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "cuda/fragments.h"
#include "cudas.h"

using namespace ring;
using namespace ring::test;

namespace {

constexpr double kPlainMax = 2e-6;   // relative error of F32 products
constexpr double kTensorMax = 5e-4;  // with activations rounded to F16
constexpr double kBf16Max = 2e-5;    // with activations as two BF16 numbers
constexpr int kTokenCounts[] = {1, 2, 3, 7, 8, 9, 17, 33};

using Multiply = cudaError_t (*)(const cuda::Queue&, const cuda::Run&, const cuda::Activations&,
                                 const cuda::Outputs&);

struct Way {
  const char* name;
  Multiply multiply;
  double error_max;
};
const Way kPlain = {"plain", cuda::multiply_plainly, kPlainMax};
const Way kTensor = {"tensor cores", cuda::multiply_on_tensor_cores, kTensorMax};

std::vector<float> activations(int tokens, int columns, Dice& dice) {
  std::vector<float> x(static_cast<size_t>(tokens) * columns);
  fill_activations(x.data(), x.size(), dice);
  return x;
}

std::vector<float> product(const Way& way, const Matrix& weight, const Matrix& up, const float* x,
                           int tokens) {
  const RowsOnGpu rows(x, tokens, weight.columns);
  const OnGpu<float> out(static_cast<size_t>(tokens) * weight.rows);
  require_gpu(way.multiply(test_stream(), {weight, up, 0, tokens}, rows.rows(), {out.data()}));
  return out.read();
}

double dot(const RandomMatrix& weight, int row, const float* x, double* magnitude) {
  double sum = 0;
  for (int k = 0; k < weight.matrix().columns; ++k) {
    const double term = weight.value(row, k) * x[k];
    sum += term;
    *magnitude += std::fabs(term);
  }
  return sum;
}

void measure(const Way& way, const RandomMatrix& weight, int tokens, Dice& dice, Error& error) {
  const MatrixOnGpu on_gpu(weight);
  const Matrix& w = on_gpu.matrix();
  const std::vector<float> x = activations(tokens, w.columns, dice);
  const std::vector<float> out = product(way, w, {}, x.data(), tokens);
  for (int t = 0; t < tokens; ++t) {
    for (int r = 0; r < w.rows; ++r) {
      double magnitude = 0;
      const double expected = dot(weight, r, &x[static_cast<size_t>(t) * w.columns], &magnitude);
      error.add(out[static_cast<size_t>(t) * w.rows + r], expected, magnitude);
    }
  }
}

void require_accurate(const Way& way, const Format& format, int columns, const Error& error) {
  const bool in_two = way.multiply == kTensor.multiply && format.dtype == Dtype::bf16;
  char what[120];
  snprintf(what, sizeof what, "%s, %s, %d columns", way.name, format.name, columns);
  require_error(error.relative(), in_two ? kBf16Max : way.error_max, what);
}

// The formats that tensor cores take.
std::vector<Format> suited_formats() {
  std::vector<Format> suited;
  for (const Format& format : formats()) {
    Dice dice(1);
    if (cuda::suits_tensor_cores(RandomMatrix(format, 16, 128, dice).matrix()))
      suited.push_back(format);
  }
  return suited;
}

void require_same_bits(const float* a, const float* b, size_t count, const char* what) {
  require(memcmp(a, b, count * sizeof(float)) == 0, "%s has other bits", what);
}

}  // namespace

RING_CASE(cuda_plain, "cuda: plain products agree with float64 at odd shapes, in every format") {
  Dice dice(70);
  for (const Format& format : formats()) {
    for (const int columns : {1, 15, 17, 33, 100, 200, 256}) {
      Error error;
      int rows = 1;
      for (const int tokens : kTokenCounts) {
        const RandomMatrix weight(format, rows, columns, dice);
        measure(kPlain, weight, tokens, dice, error);
        rows = rows * 2 + 1 > 40 ? 8 : rows * 2 + 1;
      }
      require_accurate(kPlain, format, columns, error);
    }
  }
}

RING_CASE(cuda_suited, "cuda: tensor cores take BF16, and FP8 with block, row and no scales") {
  const std::vector<Format> suited = suited_formats();
  require(suited.size() == 4, "%zu formats suit", suited.size());
  for (const Format& format : suited) {
    require(format.dtype != Dtype::f32, "%s suits", format.name);
    Dice dice(1);
    require(!cuda::suits_tensor_cores(RandomMatrix(format, 16, 124, dice).matrix()),
            "%s of 124 columns suits", format.name);
  }
}

RING_CASE(cuda_tensor, "cuda: products on tensor cores agree with float64") {
  Dice dice(71);
  for (const Format& format : suited_formats()) {
    for (const int columns : {16, 32, 112, 128, 144, 256, 1040, 2048}) {
      Error error;
      int turn = 0;
      for (const int tokens : kTokenCounts) {
        const int rows[] = {1, 15, 16, 31, 33, 48};
        const RandomMatrix weight(format, rows[turn++ % 6], columns, dice);
        measure(kTensor, weight, tokens, dice, error);
      }
      require_accurate(kTensor, format, columns, error);
    }
  }
}

RING_CASE(cuda_tall, "cuda: both products find the scale of every row block") {
  Dice dice(72);
  for (const Format& format : suited_formats()) {
    for (const Way& way : {kPlain, kTensor}) {
      Error error;
      for (const int rows : {127, 129, 300}) {
        const RandomMatrix weight(format, rows, 272, dice);
        measure(way, weight, 3, dice, error);
      }
      require_accurate(way, format, 272, error);
    }
  }
}

RING_CASE(cuda_alone, "cuda: an output has the same bits alone and among any others") {
  Dice dice(73);
  for (const Format& format : suited_formats()) {
    for (const Way& way : {kPlain, kTensor}) {
      const RandomMatrix weight(format, 40, 400, dice);
      const MatrixOnGpu on_gpu(weight);
      const Matrix& w = on_gpu.matrix();
      const std::vector<float> x = activations(67, w.columns, dice);
      const std::vector<float> all = product(way, w, {}, x.data(), 67);
      for (const int together : {1, 2, 7, 9, 16, 17, 33}) {
        for (int t = 0; t + together <= 67; t += together + 5) {
          const std::vector<float> some =
              product(way, w, {}, &x[static_cast<size_t>(t) * w.columns], together);
          require_same_bits(some.data(), &all[static_cast<size_t>(t) * w.rows], some.size(),
                            way.name);
        }
      }
    }
  }
}

RING_CASE(cuda_large_tiles,
          "cuda: rows in large tiles have the bits of rows in small ones, NaN codes among them") {
  Dice dice(79);
  constexpr int kRows = 70, kMost = 130, kFew = 8;
  for (const Format& format : suited_formats()) {
    const bool has_nan_codes = format.dtype == Dtype::f8_e4m3;
    // The second has columns for nine blocks of FP8, and so shares without any.
    for (const int columns : {144, 1040}) {
      RandomMatrix weight(format, kRows, columns, dice), up(format, kRows, columns, dice);
      if (has_nan_codes) weight.bytes()[33 * columns + 17] = 0x7f;
      const MatrixOnGpu weight_there(weight), up_there(up);
      const std::vector<float> x = activations(kMost, columns, dice);
      for (const Matrix& other : {Matrix{}, up_there.matrix()}) {
        std::vector<float> few;
        for (int t = 0; t < kMost; t += kFew) {
          const std::vector<float> some =
              product(kTensor, weight_there.matrix(), other, &x[static_cast<size_t>(t) * columns],
                      std::min(kFew, kMost - t));
          few.insert(few.end(), some.begin(), some.end());
        }
        for (const int tokens : {33, 65, kMost}) {
          const std::vector<float> many =
              product(kTensor, weight_there.matrix(), other, x.data(), tokens);
          require_same_bits(many.data(), few.data(), many.size(), format.name);
        }
      }
    }
  }
}

RING_CASE(cuda_outliers, "cuda: huge and tiny activations stay finite and accurate in F16") {
  Dice dice(74);
  const Format format = {"FP8 with row scales", Dtype::f8_e4m3, 1, 0};
  const RandomMatrix weight(format, 33, 512, dice);
  const MatrixOnGpu on_gpu(weight);
  for (const double size : {1e-30, 1e-6, 1.0, 1e5, 1e20}) {
    std::vector<float> x = activations(9, 512, dice);
    for (float& value : x) value = static_cast<float>(value * size);
    for (int t = 0; t < 9; ++t) x[static_cast<size_t>(t) * 512 + t * 50] *= 100;
    const std::vector<float> out = product(kTensor, on_gpu.matrix(), {}, x.data(), 9);
    Error error;
    for (int t = 0; t < 9; ++t) {
      for (int r = 0; r < 33; ++r) {
        double magnitude = 0;
        const double expected = dot(weight, r, &x[static_cast<size_t>(t) * 512], &magnitude);
        require(std::isfinite(out[t * 33 + r]), "an output of size %g is not finite", size);
        error.add(out[t * 33 + r], expected, magnitude);
      }
    }
    char what[40];
    snprintf(what, sizeof what, "size %g", size);
    require_error(error.relative(), 2e-3, what);
  }
}

RING_CASE(cuda_not_finite, "cuda: activations that are not finite leave only their own row so") {
  Dice dice(75);
  const RandomMatrix weight(suited_formats().front(), 20, 256, dice);
  const MatrixOnGpu on_gpu(weight);
  for (const Way& way : {kPlain, kTensor}) {
    for (const float bad : {NAN, INFINITY, -INFINITY}) {
      std::vector<float> x = activations(3, 256, dice);
      const std::vector<float> good = product(way, on_gpu.matrix(), {}, x.data(), 3);
      x[256 + 77] = bad;
      const std::vector<float> out = product(way, on_gpu.matrix(), {}, x.data(), 3);
      for (int r = 0; r < 20; ++r) {
        require(weight.value(r, 77) == 0 || !std::isfinite(out[20 + r]), "%s: row %d is finite",
                way.name, r);
      }
      require_same_bits(out.data(), good.data(), 20, "the row before");
      require_same_bits(&out[40], &good[40], 20, "the row behind");
    }
  }
}

RING_CASE(cuda_nan_codes, "cuda: an FP8 NaN code makes its own row of outputs NaN, at any place") {
  Dice dice(76);
  for (const Format& format : suited_formats()) {
    if (format.dtype != Dtype::f8_e4m3) continue;
    for (const uint8_t code : {0x7f, 0xff}) {
      for (const int column : {0, 1, 2, 3, 15, 16, 77, 128, 255, 271}) {
        RandomMatrix weight(format, 37, 272, dice);
        const int bad_row = column % 37;
        weight.bytes()[bad_row * 272 + column] = code;
        const MatrixOnGpu on_gpu(weight);
        // Zeros too: NaN times nothing is NaN.
        const std::vector<float> x(2 * 272, 0.0f);
        for (const Way& way : {kPlain, kTensor}) {
          const std::vector<float> out = product(way, on_gpu.matrix(), {}, x.data(), 2);
          for (int at = 0; at < 2 * 37; ++at) {
            require(std::isnan(out[at]) == (at % 37 == bad_row), "%s, code %02x at %d: row %d",
                    way.name, code, column, at % 37);
          }
        }
      }
    }
  }
}

RING_CASE(cuda_codes, "cuda: every FP8 code becomes its value in F16, in the order of columns") {
  for (int first = 0; first < 256; ++first) {
    const uint32_t codes = static_cast<uint32_t>(first) | static_cast<uint32_t>(255 - first) << 8 |
                           static_cast<uint32_t>(first ^ 0x55) << 16 |
                           static_cast<uint32_t>(first ^ 0xaa) << 24;
    uint32_t pairs[2];
    cuda::halves_of_codes(codes, pairs[0], pairs[1]);
    const float up = cuda::kShiftsCodes ? cuda::kShiftedUp : 1.0f;
    for (int column = 0; column < 4; ++column) {
      const int place = cuda::place_of_column(column);
      const auto half = static_cast<uint16_t>(pairs[place / 2] >> place % 2 * 16);
      const auto code = static_cast<uint8_t>(codes >> column * 8);
      const double expected = e4m3_value(code);
      const bool is_marked = cuda::is_nan_marked(cuda::nan_mark(code));
      require(is_marked == std::isnan(expected), "code %02x: the mark is wrong", code);
      if (is_marked) continue;
      require(half_value(half) * up == expected, "code %02x is %g, expected %g", code,
              half_value(half) * up, expected);
    }
  }
}

RING_CASE(cuda_gated,
          "cuda: gated products are silu(gate x) * (up x), and bias and residual are added") {
  Dice dice(77);
  for (const Way& way : {kPlain, kTensor}) {
    for (const int tokens : {1, 5, 33}) {
      const RandomMatrix gate(suited_formats()[0], 40, 144, dice),
          up(suited_formats()[0], 40, 144, dice);
      const MatrixOnGpu gate_there(gate), up_there(up);
      const std::vector<float> x = activations(tokens, 144, dice);
      const std::vector<float> out =
          product(way, gate_there.matrix(), up_there.matrix(), x.data(), tokens);
      const RowsOnGpu rows(x.data(), tokens, 144);
      std::vector<float> before(static_cast<size_t>(tokens) * 40), bias(40);
      for (float& value : before) value = static_cast<float>(dice.gaussian());
      for (float& value : bias) value = static_cast<float>(dice.gaussian());
      const OnGpu<float> residual(before), bias_there(bias);
      require_gpu(way.multiply(test_stream(), {gate_there.matrix(), {}, 0, tokens}, rows.rows(),
                               {residual.data(), bias_there.data(), true}));
      const std::vector<float> after = residual.read();
      Error gated, added;
      for (int t = 0; t < tokens; ++t) {
        for (int r = 0; r < 40; ++r) {
          double unused = 0;
          const double g = dot(gate, r, &x[static_cast<size_t>(t) * 144], &unused);
          const double u = dot(up, r, &x[static_cast<size_t>(t) * 144], &unused);
          const size_t at = static_cast<size_t>(t) * 40 + r;
          gated.add(out[at], g / (1 + std::exp(-g)) * u, 1);
          added.add(after[at], before[at] + (g + bias[r]), 1);
        }
      }
      require_error(gated.relative(), 3 * way.error_max, way.name);
      require_error(added.relative(), way.error_max, way.name);
    }
  }
}

namespace {

// Experts with so many rows each, in one launch.
struct Group {
  std::vector<int> rows;
  int tile_rows = cuda::kTileRows;
  int count() const {
    int all = 0;
    for (const int of : rows) all += of;
    return all;
  }
};

}  // namespace

RING_CASE(cuda_grouped,
          "cuda: ragged groups, empty ones and all to one have the bits of each expert alone") {
  Dice dice(78);
  constexpr int kTokens = 40, kColumns = 144, kRows = 35;
  const Format format = suited_formats().front();
  std::vector<std::unique_ptr<RandomMatrix>> matrices;
  std::vector<std::unique_ptr<MatrixOnGpu>> there;
  for (int i = 0; i < 10; ++i) {
    matrices.push_back(std::make_unique<RandomMatrix>(format, kRows, kColumns, dice));
    there.push_back(std::make_unique<MatrixOnGpu>(*matrices.back()));
  }
  const std::vector<float> x = activations(kTokens, kColumns, dice);
  const RowsOnGpu rows_there(x.data(), kTokens, kColumns);
  for (const Group& group :
       {Group{{1, 0, 3, 9, 0}}, Group{{0, 40, 0, 0, 0}}, Group{{2, 1, 1, 1, 1}},
        Group{{17, 33, 8, 0, 12}}, Group{{5, 40, 0, 33, 1}, cuda::kLargeTileRows / 2},
        Group{{0, 70, 3, 0, 0}, cuda::kLargeTileRows}}) {
    std::vector<cuda::Run> runs;
    std::vector<cuda::Tile> tiles;
    std::vector<int32_t> source, target;
    int most = 0;
    for (int e = 0; e < 5; ++e) {
      const auto first = static_cast<int32_t>(source.size());
      runs.push_back({there[e]->matrix(), there[e + 5]->matrix(), first, group.rows[e]});
      for (int row = 0; row < group.rows[e]; row += group.tile_rows) {
        const int in_tile = std::min(group.tile_rows, group.rows[e] - row);
        tiles.push_back({e, first + row, in_tile});
        most = std::max(most, in_tile);
      }
      for (int row = 0; row < group.rows[e]; ++row) source.push_back((row * 7 + e) % kTokens);
    }
    const int count = group.count();
    for (int row = 0; row < count; ++row) target.push_back(count - 1 - row);
    const OnGpu<cuda::Run> runs_there(runs);
    const OnGpu<cuda::Tile> tiles_there(tiles);
    const OnGpu<int32_t> source_there(source), target_there(target);
    for (const bool on_tensor_cores : {false, true}) {
      const OnGpu<float> out(static_cast<size_t>(count) * kRows);
      const cuda::Order order = {source_there.data(), target_there.data()};
      const int tile_count = static_cast<int>(tiles.size());
      require_gpu(on_tensor_cores
                      ? cuda::multiply_runs_on_tensor_cores(
                            test_stream(), runs[0], runs_there.data(), tiles_there.data(),
                            tile_count, most, rows_there.rows(), order, {out.data()})
                      : cuda::multiply_runs_plainly(test_stream(), runs[0], runs_there.data(),
                                                    tiles_there.data(), tile_count,
                                                    rows_there.rows(), order, {out.data()}));
      const std::vector<float> together = out.read();
      const Way& way = on_tensor_cores ? kTensor : kPlain;
      for (int e = 0; e < 5; ++e) {
        for (int row = 0; row < group.rows[e]; ++row) {
          const int at = runs[e].row + row;
          const std::vector<float> alone =
              product(way, there[e]->matrix(), there[e + 5]->matrix(),
                      &x[static_cast<size_t>(source[at]) * kColumns], 1);
          require_same_bits(alone.data(), &together[static_cast<size_t>(target[at]) * kRows], kRows,
                            way.name);
        }
      }
    }
  }
}
