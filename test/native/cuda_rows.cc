// The GPU's kernels over rows and heads, on the emulation or on hardware, against float64: norm and
// its F16 copy, embedding, and attention over KV blocks, whose results must not depend on what is
// computed beside them.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "cudas.h"

using namespace ring;
using namespace ring::test;

namespace {

std::vector<float> random_floats(size_t count, Dice& dice, double size = 1) {
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(size * dice.gaussian());
  return values;
}

// As place_of_column has it where codes are shifted.
int place_if_shifted(int column) {
  const int within = column % 4;
  return within == 1 ? column + 1 : within == 2 ? column - 1 : column;
}

}  // namespace

RING_CASE(cuda_norm,
          "cuda: the norm agrees with float64, and its F16 copy to half its last place") {
  Dice dice(80);
  for (const int columns : {4, 16, 64, 100, 256, 300, 1040}) {
    constexpr int kRows = 3;
    std::vector<float> x(static_cast<size_t>(kRows) * columns);
    fill_activations(x.data(), x.size(), dice);
    const std::vector<float> weight = random_floats(columns, dice);
    const OnGpu<float> x_there(x), weight_there(weight), out(x.size()), factors(kRows);
    const OnGpu<uint16_t> narrow(x.size());
    const std::vector<int32_t> none = {-1};
    const OnGpu<int32_t> bad(none);
    require_gpu(cuda::normalise(test_stream(), x_there.data(), weight_there.data(), kRows, columns,
                                1e-6f, {out.data(), narrow.data(), factors.data()}, bad.data(), 5));
    const std::vector<float> values = out.read(), factor = factors.read();
    const std::vector<uint16_t> halves = narrow.read();
    require(bad.read()[0] == -1, "finite values are called bad");
    // One order for all, by the second value.
    const auto half_at = [&](int place) { return half_value(halves[place]) * factor[0]; };
    const bool is_shifted = std::fabs(half_at(2) - values[1]) < std::fabs(half_at(1) - values[1]);
    for (int row = 0; row < kRows; ++row) {
      double squares = 0, most = 0;
      for (int i = 0; i < columns; ++i) squares += std::pow(x[row * columns + i], 2.0);
      for (int i = 0; i < columns; ++i)
        most = std::max<double>(most, std::fabs(values[row * columns + i]));
      int exponent;
      require(std::frexp(factor[row], &exponent) == 0.5, "%g is no power of two",
              static_cast<double>(factor[row]));
      require(most / factor[row] >= 1024 && most / factor[row] < 2048, "the largest is %g",
              most / factor[row]);
      for (int i = 0; i < columns; ++i) {
        const double expected =
            weight[i] * x[row * columns + i] / std::sqrt(squares / columns + 1e-6);
        const double value = values[row * columns + i];
        require(std::fabs(value - expected) <= 1e-6 * std::fabs(expected), "%d columns: %g, not %g",
                columns, value, expected);
        const int place = is_shifted ? place_if_shifted(i) : i;
        const double half = half_value(halves[row * columns + place]) * factor[row];
        require(std::fabs(half - value) <= std::fabs(value) * 0x1p-11 + most * 0x1p-30,
                "%d columns: F16 %g of %g", columns, half, value);
      }
    }
  }
}

RING_CASE(cuda_norm_bad, "cuda: the first layer with a value that is not finite is remembered") {
  for (const float value : {NAN, INFINITY}) {
    for (const int at : {0, 1, 63, 64, 299}) {
      std::vector<float> x(300, 1.0f);
      x[at] = value;
      const OnGpu<float> x_there(x), weight(std::vector<float>(300, 1.0f)), out(300);
      const OnGpu<int32_t> bad(std::vector<int32_t>{-1});
      for (const int layer : {3, 4}) {
        require_gpu(cuda::normalise(test_stream(), x_there.data(), weight.data(), 1, 300, 1e-6f,
                                    {out.data()}, bad.data(), layer));
      }
      require(bad.read()[0] == 3, "%g at %d is found in layer %d", static_cast<double>(value), at,
              bad.read()[0]);
    }
  }
}

RING_CASE(cuda_embedding, "cuda: rows of the embedding are what is stored, in every format") {
  Dice dice(81);
  for (const Format& format : formats()) {
    const RandomMatrix table(format, 20, 150, dice);
    const MatrixOnGpu there(table);
    const std::vector<int32_t> ids = {19, 0, 7, 7};
    const OnGpu<int32_t> ids_there(ids);
    const OnGpu<float> out(ids.size() * 150);
    require_gpu(cuda::embed(test_stream(), there.matrix(), false, ids_there.data(), 4, out.data()));
    const std::vector<float> rows = out.read();
    const size_t each = size_t{150} * bytes_of(format.dtype);
    std::vector<uint8_t> stored;
    for (const int32_t id : ids) {
      const uint8_t* from = table.matrix().data + static_cast<size_t>(id) * each;
      stored.insert(stored.end(), from, from + each);
    }
    const OnGpu<uint8_t> gathered(stored);
    Matrix few = there.matrix();
    few.data = gathered.data();
    require_gpu(cuda::embed(test_stream(), few, true, ids_there.data(), 4, out.data()));
    require(out.read() == rows, "%s: gathered rows give others", format.name);
    for (int t = 0; t < 4; ++t) {
      for (int k = 0; k < 150; ++k) {
        const double expected = table.value(ids[t], k);
        require(std::fabs(rows[t * 150 + k] - expected) <= 1e-7 * std::fabs(expected),
                "%s: element %d", format.name, k);
      }
    }
  }
}

namespace {

// A few sequences whose tokens are all given at once, with their KV in blocks here and there.
struct Scene {
  Shape shape{};
  int block_tokens = 16;
  bool is_wide = false;
  std::vector<int> lengths;

  std::vector<float> qkv, cos, sin, query_norm, key_norm, bias;
  std::vector<int32_t> position, first_block, blocks;
  int tokens = 0;

  Scene(int heads, int kv_heads, int head_dim, int rotary_dim, int of_block, bool wide,
        std::vector<int> of_sequences)
      : block_tokens(of_block), is_wide(wide), lengths(std::move(of_sequences)) {
    shape.heads = heads;
    shape.kv_heads = kv_heads;
    shape.head_dim = head_dim;
    shape.rotary_dim = rotary_dim;
    shape.epsilon = 1e-6f;
    Dice dice(82);
    for (const int length : lengths) {
      for (int i = 0; i < length; ++i) {
        position.push_back(i);
        first_block.push_back(static_cast<int32_t>(blocks.size()));
      }
      for (int i = 0; i < length; i += block_tokens)
        blocks.push_back(static_cast<int32_t>(blocks.size()));
      tokens += length;
    }
    for (size_t i = blocks.size(); i > 1; --i)
      std::swap(blocks[i - 1], blocks[dice.below(static_cast<int>(i))]);
    qkv = random_floats(static_cast<size_t>(tokens) * shape.qkv_rows(), dice);
    bias = random_floats(static_cast<size_t>(shape.qkv_rows()), dice, 0.1);
    query_norm = random_floats(head_dim, dice);
    key_norm = random_floats(head_dim, dice);
    for (int t = 0; t < tokens; ++t) {
      for (int i = 0; i < rotary_dim / 2; ++i) {
        const double angle = position[t] * std::pow(10000.0, -2.0 * i / rotary_dim);
        cos.push_back(static_cast<float>(std::cos(angle)));
        sin.push_back(static_cast<float>(std::sin(angle)));
      }
    }
  }

  // A head of the projections of a token, as it should become.
  std::vector<double> head(int token, int head) const {
    const int dim = shape.head_dim, half = shape.rotary_dim / 2;
    std::vector<double> x(dim);
    double squares = 0;
    for (int i = 0; i < dim; ++i) {
      x[i] =
          static_cast<double>(qkv[static_cast<size_t>(token) * shape.qkv_rows() + head * dim + i]) +
          bias[head * dim + i];
      squares += x[i] * x[i];
    }
    if (head >= shape.heads + shape.kv_heads) return x;
    const std::vector<float>& norm = head < shape.heads ? query_norm : key_norm;
    for (int i = 0; i < dim; ++i) x[i] *= norm[i] / std::sqrt(squares / dim + shape.epsilon);
    for (int i = 0; i < half; ++i) {
      const double a = x[i], b = x[i + half], c = cos[token * half + i], s = sin[token * half + i];
      x[i] = a * c - b * s;
      x[i + half] = b * c + a * s;
    }
    return x;
  }

  int first_token_of(int token) const { return token - position[token]; }
};

double stored(const Scene& scene, const std::vector<uint8_t>& kv, size_t at) {
  if (scene.is_wide) {
    float value;
    memcpy(&value, &kv[at * 4], 4);
    return value;
  }
  uint16_t code;
  memcpy(&code, &kv[at * 2], 2);
  return bf16_value(code);
}

size_t kv_place(const Scene& scene, int token, int kv_head) {
  const int p = scene.position[token];
  const int block = scene.blocks[scene.first_block[token] + p / scene.block_tokens];
  return ((static_cast<size_t>(block) * scene.shape.kv_heads + kv_head) * scene.block_tokens +
          p % scene.block_tokens) *
         scene.shape.head_dim;
}

void require_attends(const Scene& scene) {
  const Shape& s = scene.shape;
  const int dim = s.head_dim, group = s.heads / s.kv_heads;
  const size_t kv_bytes = scene.blocks.size() * s.kv_heads * scene.block_tokens * dim *
                          static_cast<size_t>(scene.is_wide ? 4 : 2);
  const OnGpu<float> qkv(scene.qkv), cos(scene.cos), sin(scene.sin), bias(scene.bias),
      query_norm(scene.query_norm), key_norm(scene.key_norm);
  const OnGpu<int32_t> position(scene.position), first_block(scene.first_block),
      blocks(scene.blocks);
  const OnGpu<uint8_t> keys(kv_bytes), values(kv_bytes);
  const cuda::Positions where = {position.data(), first_block.data(), blocks.data(), cos.data(),
                                 sin.data()};
  const cuda::LayerKv kv = {keys.data(), values.data(), scene.block_tokens, scene.is_wide};
  require_gpu(cuda::finish_projections(test_stream(), s,
                                       {bias.data(), query_norm.data(), key_norm.data()}, where, kv,
                                       scene.tokens, qkv.data()));
  const std::vector<uint8_t> keys_here = keys.read(), values_here = values.read();
  const double rounding = scene.is_wide ? 4e-6 : 0x1p-8;
  for (int t = 0; t < scene.tokens; ++t) {
    for (int h = 0; h < s.kv_heads; ++h) {
      const std::vector<double> key = scene.head(t, s.heads + h),
                                value = scene.head(t, s.heads + s.kv_heads + h);
      const size_t at = kv_place(scene, t, h);
      for (int i = 0; i < dim; ++i) {
        require(std::fabs(stored(scene, keys_here, at + i) - key[i]) <=
                    rounding * std::fabs(key[i]) + 1e-5,
                "key %d of token %d", i, t);
        require(std::fabs(stored(scene, values_here, at + i) - value[i]) <=
                    rounding * std::fabs(value[i]) + 1e-5,
                "value %d of token %d", i, t);
      }
    }
  }

  const int longest = *std::max_element(scene.lengths.begin(), scene.lengths.end());
  const size_t row = static_cast<size_t>(s.heads) * dim;
  const OnGpu<float> parts(
      static_cast<size_t>(cuda::attention_part_floats(s, scene.tokens, longest)));
  const OnGpu<float> out(scene.tokens * row);
  const OnGpu<int32_t> tickets(
      std::vector<int32_t>(static_cast<size_t>(scene.tokens) * s.kv_heads));
  require_gpu(cuda::attend(test_stream(), s, where, kv, 0, scene.tokens, longest, qkv.data(),
                           parts.data(), tickets.data(), out.data()));
  const std::vector<float> attended = out.read();
  Error error;
  int end = 0;
  for (const int length : scene.lengths) {
    end += length;
    // The last token of each sequence, and one in the middle.
    for (const int t : {end - 1, end - 1 - length / 2}) {
      for (int h = 0; h < s.heads; ++h) {
        const std::vector<double> query = scene.head(t, h);
        std::vector<double> scores(scene.position[t] + 1);
        for (size_t p = 0; p < scores.size(); ++p) {
          const size_t at =
              kv_place(scene, scene.first_token_of(t) + static_cast<int>(p), h / group);
          for (int i = 0; i < dim; ++i) scores[p] += query[i] * stored(scene, keys_here, at + i);
          scores[p] /= std::sqrt(dim);
        }
        const double most = *std::max_element(scores.begin(), scores.end());
        double total = 0;
        std::vector<double> expected(dim);
        for (size_t p = 0; p < scores.size(); ++p) {
          const double share = std::exp(scores[p] - most);
          const size_t at =
              kv_place(scene, scene.first_token_of(t) + static_cast<int>(p), h / group);
          total += share;
          for (int i = 0; i < dim; ++i) expected[i] += share * stored(scene, values_here, at + i);
        }
        for (int i = 0; i < dim; ++i)
          error.add(attended[t * row + h * dim + i], expected[i] / total, 1);
      }
      const OnGpu<float> alone(scene.tokens * row);
      require_gpu(cuda::attend(test_stream(), s, where, kv, t, 1, scene.position[t] + 1, qkv.data(),
                               parts.data(), tickets.data(), alone.data()));
      require(memcmp(&alone.read()[t * row], &attended[t * row], row * sizeof(float)) == 0,
              "token %d has other bits alone", t);
    }
  }
  char what[60];
  snprintf(what, sizeof what, "%d heads on %d, dimension %d", s.heads, s.kv_heads, dim);
  require_error(error.relative(), 1e-5, what);
}

}  // namespace

RING_CASE(cuda_attention,
          "cuda: attention over KV blocks agrees with float64, and each token with itself alone") {
  for (const bool wide : {false, true}) {
    require_attends(Scene(4, 2, 16, 8, 16, wide, {1, 5, 33}));
    require_attends(Scene(8, 1, 48, 16, 7, wide, {9, 20}));
    require_attends(Scene(6, 2, 20, 20, 5, wide, {2, 11}));
    require_attends(Scene(3, 3, 64, 0, 16, wide, {17}));
    require_attends(Scene(32, 2, 8, 4, 4, wide, {6, 3}));
  }
}

RING_CASE(cuda_model_heads, "cuda: attention with the heads of the models agrees with float64") {
  const int length = is_emulation() ? 5 : 1300;
  for (const int heads : {64, 32, 16})
    require_attends(Scene(heads, heads == 64 ? 8 : 4, 128, 64, 64, false, {length, 3}));
}

RING_CASE(cuda_splits, "cuda: attention around the ends of its splits agrees with float64") {
  require_attends(Scene(2, 1, 16, 8, 32, false, {255, 256, 257}));
  require_attends(Scene(1, 1, 8, 8, 24, true, {600}));
}
