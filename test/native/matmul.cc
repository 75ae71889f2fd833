// The matrix product: right against float64 in every format and at every odd shape, blind to what
// lies beside its rows, and with bits that depend on nothing but the row and the token. All inputs
// and outputs lie against untouchable pages.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <vector>

#include "isa.h"
#include "reference.h"

using namespace ring;
using namespace ring::test;

namespace {

constexpr double kRelativeMax = 2e-6;
// Of one output, against the sum of its terms' magnitudes: a few roundings of 2^-24.
constexpr double kOutputMax = 1e-6;
// So many that panels are kept, and not in whole tiles.
constexpr int kMany = kKeptTokens + 3;

// out[token][row] of rows [row_begin, row_end), computed `together` tokens at a time.
void multiply(const Kernels& kernels, const Matrix& weight, int row_begin, int row_end,
              const float* x, int tokens, float* out, int64_t out_stride, int together) {
  Guarded<float> scratch(kMatmulScratch);
  for (int token = 0; token < tokens; token += together) {
    kernels.matmul(weight, row_begin, row_end, x + static_cast<int64_t>(token) * weight.columns,
                   std::min(together, tokens - token), out + token * out_stride, out_stride,
                   scratch.data());
  }
}

bool is_same_bits(const float* a, const float* b, size_t count) {
  return memcmp(a, b, count * sizeof(float)) == 0;
}

void measure(const Kernels& kernels, const RandomMatrix& weight, int tokens, Dice& dice,
             Error& error) {
  const Matrix& w = weight.matrix();
  Guarded<float> x(static_cast<size_t>(tokens) * w.columns);
  fill_activations(x.data(), x.count(), dice);
  Guarded<float> out(static_cast<size_t>(tokens) * w.rows);
  multiply(kernels, w, 0, w.rows, x.data(), tokens, out.data(), w.rows, tokens);
  std::vector<double> row(w.columns);
  for (int r = 0; r < w.rows; ++r) {
    for (int k = 0; k < w.columns; ++k) row[k] = weight.value(r, k);
    for (int t = 0; t < tokens; ++t) {
      double expected = 0, magnitude = 0;
      for (int k = 0; k < w.columns; ++k) {
        const double term = row[k] * x[static_cast<size_t>(t) * w.columns + k];
        expected += term;
        magnitude += std::fabs(term);
      }
      error.add(out[static_cast<size_t>(t) * w.rows + r], expected, magnitude);
    }
  }
}

void require_accurate(const Format& format, int columns, const Error& error) {
  require(error.relative() <= kRelativeMax, "%s, %d columns: relative error %.3g, at most %.3g",
          format.name, columns, error.relative(), kRelativeMax);
  require(error.worst <= kOutputMax, "%s, %d columns: one output is off by %.3g of its terms",
          format.name, columns, error.worst);
}

}  // namespace

RING_KERNEL_CASE(accurate, "agrees with float64 at odd shapes, in every format") {
  Dice dice(3);
  const int token_counts[] = {1, 2, 3, 4, 5, 7, 8, 9, 12, 13, 17, kMany};
  for (const Format& format : formats()) {
    for (const int columns : {1, 15, 16, 17, 31, 33, 100, 200, 256}) {
      Error error;
      for (int rows = 1; rows <= 40; ++rows) {
        const RandomMatrix weight(format, rows, columns, dice);
        measure(kernels, weight, token_counts[rows % std::size(token_counts)], dice, error);
      }
      require_accurate(format, columns, error);
    }
  }
}

RING_KERNEL_CASE(accurate_wide, "agrees with float64 over 4,096 columns, in every format") {
  Dice dice(4);
  for (const Format& format : formats()) {
    Error error;
    for (const int rows : {1, 3, 8}) {
      const RandomMatrix weight(format, rows, 4096, dice);
      for (const int tokens : {1, 5, 11, kMany}) measure(kernels, weight, tokens, dice, error);
    }
    require_accurate(format, 4096, error);
  }
}

RING_KERNEL_CASE(accurate_tall, "finds the scale of every row block, a partial last one included") {
  Dice dice(5);
  for (const Format& format : formats()) {
    Error error;
    for (const int rows : {127, 128, 129, 300}) {
      const RandomMatrix weight(format, rows, 150, dice);
      for (const int tokens : {1, 9, kMany}) measure(kernels, weight, tokens, dice, error);
    }
    require_accurate(format, 150, error);
  }
}

// The gap moves the weights through every phase of a register; the untouchable page is then close
// behind the last byte, or close before the first.
RING_KERNEL_CASE(phases, "reads no byte outside the weights, at every byte phase") {
  Dice dice(6);
  for (const Format& format : formats()) {
    for (const int columns : {1, 15, 17, 31, 33, 100}) {
      Error error;
      for (size_t gap = 0; gap < 16; ++gap) {
        for (const Against side : {Against::end, Against::begin}) {
          const RandomMatrix weight(format, 5, columns, dice, gap, side);
          for (const int tokens : {1, 9, kMany}) measure(kernels, weight, tokens, dice, error);
          Guarded<float> row(columns);
          for (int r = 0; r < 5; ++r) kernels.read_row(weight.matrix(), r, row.data());
        }
      }
      require_accurate(format, columns, error);
    }
  }
}

RING_KERNEL_CASE(companions, "gives a token the same bits alone and among up to 512 others") {
  Dice dice(7);
  constexpr int kRows = 7, kTokens = 512;
  for (const Format& format : formats()) {
    for (const int columns : {33, 300}) {
      const RandomMatrix weight(format, kRows, columns, dice);
      Guarded<float> x(kTokens * columns), alone(kTokens * kRows), among(kTokens * kRows);
      fill_activations(x.data(), x.count(), dice);
      multiply(kernels, weight.matrix(), 0, kRows, x.data(), kTokens, alone.data(), kRows, 1);
      std::vector<int> group_sizes = {512};
      for (int tokens = 2; tokens <= 40; ++tokens) group_sizes.push_back(tokens);
      for (const int together : group_sizes) {
        std::fill_n(among.data(), among.count(), NAN);
        multiply(kernels, weight.matrix(), 0, kRows, x.data(), kTokens, among.data(), kRows,
                 together);
        require(is_same_bits(alone.data(), among.data(), alone.count()),
                "%s, %d columns: other bits with %d tokens together", format.name, columns,
                together);
      }
    }
  }
}

RING_KERNEL_CASE(row_ranges, "gives a row the same bits in whatever range of rows it is computed") {
  Dice dice(8);
  constexpr int kRows = 13, kColumns = 200;
  for (const Format& format : formats()) {
    const RandomMatrix weight(format, kRows, kColumns, dice);
    for (const int tokens : {1, 6, 11, kMany}) {
      Guarded<float> x(tokens * kColumns), whole(tokens * kRows), split(tokens * kRows);
      fill_activations(x.data(), x.count(), dice);
      multiply(kernels, weight.matrix(), 0, kRows, x.data(), tokens, whole.data(), kRows, tokens);
      for (int cut = 0; cut <= kRows; ++cut) {
        std::fill_n(split.data(), split.count(), 1234.5f);
        multiply(kernels, weight.matrix(), cut, kRows, x.data(), tokens, split.data(), kRows,
                 tokens);
        for (int i = 0; i < tokens * kRows; ++i) {
          if (i % kRows < cut) require(split[i] == 1234.5f, "row %d was written", i % kRows);
        }
        multiply(kernels, weight.matrix(), 0, cut, x.data(), tokens, split.data(), kRows, tokens);
        require(is_same_bits(whole.data(), split.data(), whole.count()),
                "%s: other bits when cut before row %d", format.name, cut);
      }
    }
  }
}

RING_KERNEL_CASE(strides, "writes its own outputs and nothing between them") {
  Dice dice(9);
  constexpr int kRows = 6, kStride = 11, kColumns = 45;
  for (const Format& format : formats()) {
    const RandomMatrix weight(format, kRows, kColumns, dice);
    for (const int tokens : {1, 4, 8, 9, 14, kMany}) {
      Guarded<float> x(tokens * kColumns), dense(tokens * kRows), spread(tokens * kStride);
      fill_activations(x.data(), x.count(), dice);
      std::fill_n(spread.data(), spread.count(), 1234.5f);
      multiply(kernels, weight.matrix(), 0, kRows, x.data(), tokens, dense.data(), kRows, tokens);
      multiply(kernels, weight.matrix(), 0, kRows, x.data(), tokens, spread.data(), kStride,
               tokens);
      for (int i = 0; i < tokens * kStride; ++i) {
        const int row = i % kStride;
        const float expected = row < kRows ? dense[i / kStride * kRows + row] : 1234.5f;
        require(spread[i] == expected, "%s, %d tokens: output %d is %g, expected %g", format.name,
                tokens, i, static_cast<double>(spread[i]), static_cast<double>(expected));
      }
    }
  }
}

namespace {

// NaN must stand exactly where `is_hit` says, and all else must have the bits of `clean`.
template <typename IsHit>
void require_nan_only(const float* found, const float* clean, int tokens, int rows, IsHit is_hit,
                      const char* what, int at) {
  for (int i = 0; i < tokens * rows; ++i) {
    const int token = i / rows, row = i % rows;
    if (is_hit(token, row)) {
      require(std::isnan(found[i]), "%s at %d does not show in token %d row %d", what, at, token,
              row);
    } else {
      require(is_same_bits(&found[i], &clean[i], 1), "%s at %d shows in token %d row %d", what, at,
              token, row);
    }
  }
}

}  // namespace

RING_KERNEL_CASE(nan_codes, "turns a NaN code into NaN in its own row and nowhere else") {
  Dice dice(10);
  constexpr int kRows = 6;
  for (const Format& format : formats()) {
    if (format.dtype != Dtype::f8_e4m3) continue;
    for (const int columns : {1, 16, 33, 47, 150}) {
      RandomMatrix weight(format, kRows, columns, dice);
      for (const int tokens : {1, 5, 9, kMany}) {
        Guarded<float> x(tokens * columns), clean(tokens * kRows), found(tokens * kRows);
        fill_activations(x.data(), x.count(), dice);
        multiply(kernels, weight.matrix(), 0, kRows, x.data(), tokens, clean.data(), kRows, tokens);
        for (int at = 0; at < kRows * columns; ++at) {
          const uint8_t kept = weight.bytes()[at];
          weight.bytes()[at] = at % 2 == 0 ? 0x7f : 0xff;
          multiply(kernels, weight.matrix(), 0, kRows, x.data(), tokens, found.data(), kRows,
                   tokens);
          weight.bytes()[at] = kept;
          const auto is_hit = [&](int, int row) { return row == at / columns; };
          require_nan_only(found.data(), clean.data(), tokens, kRows, is_hit, "a NaN code", at);
        }
      }
    }
  }
}

RING_KERNEL_CASE(nan_scales, "turns a NaN scale into NaN in its block's rows and nowhere else") {
  Dice dice(11);
  constexpr int kRows = 140, kColumns = 150;
  for (const Format& format : formats()) {
    if (format.block_rows == 0) continue;
    RandomMatrix weight(format, kRows, kColumns, dice);
    const Matrix& w = weight.matrix();
    for (const int tokens : {9, kMany}) {
      Guarded<float> x(tokens * kColumns), clean(tokens * kRows), found(tokens * kRows);
      fill_activations(x.data(), x.count(), dice);
      multiply(kernels, w, 0, kRows, x.data(), tokens, clean.data(), kRows, tokens);
      const int scales = (kRows + w.block_rows - 1) / w.block_rows * w.scale_columns;
      for (int at = 0; at < scales; at += 1 + scales / 20) {
        const float kept = weight.scales()[at];
        weight.scales()[at] = NAN;
        multiply(kernels, w, 0, kRows, x.data(), tokens, found.data(), kRows, tokens);
        weight.scales()[at] = kept;
        const auto is_hit = [&](int, int row) {
          return row / w.block_rows == at / w.scale_columns;
        };
        require_nan_only(found.data(), clean.data(), tokens, kRows, is_hit, "a NaN scale", at);
      }
    }
  }
}

RING_KERNEL_CASE(nan_tokens, "keeps a NaN in one token out of the tokens beside it") {
  Dice dice(12);
  constexpr int kRows = 6, kColumns = 47;
  for (const Format& format : formats()) {
    const RandomMatrix weight(format, kRows, kColumns, dice);
    for (const int tokens : {9, kMany}) {
      Guarded<float> x(tokens * kColumns), clean(tokens * kRows), found(tokens * kRows);
      fill_activations(x.data(), x.count(), dice);
      multiply(kernels, weight.matrix(), 0, kRows, x.data(), tokens, clean.data(), kRows, tokens);
      for (int at = 0; at < tokens * kColumns; at += 5) {
        const float kept = x[at];
        x[at] = NAN;
        multiply(kernels, weight.matrix(), 0, kRows, x.data(), tokens, found.data(), kRows, tokens);
        x[at] = kept;
        const auto is_hit = [&](int token, int) { return token == at / kColumns; };
        require_nan_only(found.data(), clean.data(), tokens, kRows, is_hit, "a NaN input", at);
      }
    }
  }
}
