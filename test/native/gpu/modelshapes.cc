// Products at the models' own shapes against float64: weights made by the GPU, of which a sample of
// rows is made again here, activations with outliers, outputs that begin as NaN. On the emulation
// the shapes are small.
#include <algorithm>
#include <cmath>

#include "door.h"
#include "made.h"
#include "shapes.h"

using namespace ring;
using namespace ring::gpu;
using namespace ring::test;

namespace {

constexpr double kNarrowMax = 5e-4;  // with activations rounded to F16
constexpr double kPlainMax = 2e-6;
constexpr int kTokenCounts[] = {1, 2, 3, 4, 7, 8, 9, 16, 17, 31, 64, 129, 512};
constexpr int kRowsSampled = 24, kTokensSampled = 6;

const Format kFormats[] = {{"FP8 in 128x128 blocks", Dtype::f8_e4m3, 128, 128},
                           {"FP8 with row scales", Dtype::f8_e4m3, 1, 0},
                           {"BF16", Dtype::bf16, 0, 0}};

struct Subject {
  std::string name;
  int rows, columns;
};

std::vector<Subject> subjects_of(const ModelShape& m) {
  return {{m.name + " qkv", m.shape().qkv_rows(), m.hidden},
          {m.name + " attention out", m.hidden, m.heads * m.head_dim},
          {m.name + " gate", m.width, m.hidden},
          {m.name + " down", m.hidden, m.width}};
}

// Rows of the matrix that are looked at, in float64.
struct SampledRows {
  std::vector<int> rows;
  std::vector<std::vector<double>> values;

  SampledRows(const MadeMatrices& weights, const Subject& subject, Dice& dice) {
    rows = {0, subject.rows - 1};
    while (rows.size() < kRowsSampled) rows.push_back(dice.below(subject.rows));
    for (const int row : rows) {
      std::vector<double>& of_row = values.emplace_back();
      for (int k = 0; k < subject.columns; ++k) of_row.push_back(weights.value(0, row, k));
    }
  }
};

using Multiply = cudaError_t (*)(const cuda::Queue&, const cuda::Run&, const cuda::Activations&,
                                 const cuda::Outputs&);

double error_of(Multiply multiply, const MadeMatrices& weights, const SampledRows& sampled,
                const Subject& subject, const std::vector<float>& x, int tokens, Dice& dice) {
  const RowsOnGpu rows(x.data(), tokens, subject.columns);
  const OnGpu<float> out(static_cast<size_t>(tokens) * subject.rows);
  require_gpu(multiply(test_stream(), {weights.at(0), {}, 0, tokens}, rows.rows(), {out.data()}));
  const std::vector<float> found = out.read();
  require(std::all_of(found.begin(), found.end(), [](float value) { return std::isfinite(value); }),
          "%s, %d tokens: an output is not finite", subject.name.c_str(), tokens);
  Error error;
  for (int i = 0; i < std::min(tokens, kTokensSampled); ++i) {
    const int token = i == 0 ? tokens - 1 : dice.below(tokens);
    const float* of_token = &x[static_cast<size_t>(token) * subject.columns];
    for (size_t r = 0; r < sampled.rows.size(); ++r) {
      double expected = 0;
      for (int k = 0; k < subject.columns; ++k) expected += sampled.values[r][k] * of_token[k];
      error.add(found[static_cast<size_t>(token) * subject.rows + sampled.rows[r]], expected, 1);
    }
  }
  return error.relative();
}

std::vector<int> token_counts() {
  std::vector<int> counts(std::begin(kTokenCounts), std::end(kTokenCounts));
  if (door().is_small) counts.resize(9);
  return counts;
}

}  // namespace

RING_CASE(cuda_model_products,
          "cuda: products of the models' shapes agree with float64, for 1 to 512 tokens") {
  Dice dice(91);
  for (const ModelShape& m : model_shapes(door().is_small)) {
    for (const Subject& subject : subjects_of(m)) {
      std::vector<float> x(size_t{512} * subject.columns);
      fill_activations(x.data(), x.size(), dice);
      for (const Format& format : kFormats) {
        const MadeMatrices weights(format, subject.rows, subject.columns, 1, 92);
        const SampledRows sampled(weights, subject, dice);
        for (const int tokens : token_counts()) {
          const std::string what =
              subject.name + ", " + format.name + ", " + std::to_string(tokens) + " tokens";
          require_error(
              error_of(cuda::multiply_on_tensor_cores, weights, sampled, subject, x, tokens, dice),
              kNarrowMax, what.c_str());
        }
      }
    }
  }
}

RING_CASE(cuda_model_routers, "cuda: router logits of the models' shapes agree with float64") {
  Dice dice(93);
  for (const ModelShape& m : model_shapes(door().is_small)) {
    const Subject subject = {m.name + " router", m.experts, m.hidden};
    std::vector<float> x(size_t{64} * m.hidden);
    for (float& value : x) value = static_cast<float>(dice.gaussian());
    const MadeMatrices weights(kFormats[2], m.experts, m.hidden, 1, 94);
    const SampledRows sampled(weights, subject, dice);
    for (const int tokens : {1, 3, 64}) {
      require_error(error_of(cuda::multiply_plainly, weights, sampled, subject, x, tokens, dice),
                    kPlainMax, subject.name.c_str());
    }
  }
}

RING_CASE(cuda_model_head, "cuda: the head's products agree with float64 to its last row") {
  Dice dice(95);
  for (const ModelShape& m : model_shapes(door().is_small)) {
    const Subject subject = {m.name + " head", m.vocabulary, m.hidden};
    std::vector<float> x(size_t{8} * m.hidden);
    fill_activations(x.data(), x.size(), dice);
    const MadeMatrices weights(kFormats[2], m.vocabulary, m.hidden, 1, 96);
    const SampledRows sampled(weights, subject, dice);
    for (const int tokens : {1, 8}) {
      require_error(
          error_of(cuda::multiply_on_tensor_cores, weights, sampled, subject, x, tokens, dice),
          kNarrowMax, subject.name.c_str());
    }
  }
}
