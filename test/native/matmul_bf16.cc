// BF16 products (--math bf16): close to float64 in every format, with bits that depend on nothing
// but the row and the token, and beside them the F32-accurate products as they are without. Skipped
// where the processor has no such products.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "backend.h"
#include "isa.h"
#include "reference.h"

using namespace ring;
using namespace ring::test;

namespace {

constexpr double kRelativeMax = 3e-3;

const Kernels& kernels_of_bf16() {
  const Kernels* kernels = choose_kernels("avx512bf16");
  if (kernels == nullptr) skip("this processor has no avx512bf16");
  return *kernels;
}

// out[token][row] of rows [row_begin, row_end), computed `together` tokens at a time.
void multiply(Matmul matmul, const Matrix& weight, int row_begin, int row_end, const float* x,
              int tokens, float* out, int together) {
  Guarded<float> scratch(kMatmulScratch);
  for (int token = 0; token < tokens; token += together) {
    matmul(weight, row_begin, row_end, x + static_cast<int64_t>(token) * weight.columns,
           std::min(together, tokens - token), out + static_cast<int64_t>(token) * weight.rows,
           weight.rows, scratch.data());
  }
}

bool is_same_bits(Guarded<float>& a, Guarded<float>& b) {
  return memcmp(a.data(), b.data(), a.count() * sizeof(float)) == 0;
}

void measure(const Kernels& kernels, const RandomMatrix& weight, Guarded<float>& x, int tokens,
             Error& error) {
  const Matrix& w = weight.matrix();
  Guarded<float> out(static_cast<size_t>(tokens) * w.rows);
  multiply(kernels.matmul_bf16, w, 0, w.rows, x.data(), tokens, out.data(), tokens);
  for (int r = 0; r < w.rows; ++r) {
    for (int t = 0; t < tokens; ++t) {
      double expected = 0, magnitude = 0;
      for (int k = 0; k < w.columns; ++k) {
        const double term = weight.value(r, k) * x[static_cast<size_t>(t) * w.columns + k];
        expected += term;
        magnitude += std::fabs(term);
      }
      error.add(out[static_cast<size_t>(t) * w.rows + r], expected, magnitude);
    }
  }
}

}  // namespace

RING_CASE(bf16_accurate, "BF16 products agree with float64 to 3e-3, in every format") {
  const Kernels& kernels = kernels_of_bf16();
  Dice dice(40);
  for (const Format& format : formats()) {
    for (const int columns : {63, 64, 100, 256, 2048, 4100}) {
      Error error;
      for (const int rows : {1, 7, 130}) {
        const RandomMatrix weight(format, rows, columns, dice);
        for (const int tokens : {1, 3, 8, 17, kKeptTokens + 3}) {
          Guarded<float> x(static_cast<size_t>(tokens) * columns);
          fill_activations(x.data(), x.count(), dice);
          measure(kernels, weight, x, tokens, error);
        }
      }
      require(error.relative() <= kRelativeMax, "%s, %d columns: relative error %.3g", format.name,
              columns, error.relative());
    }
  }
}

RING_CASE(bf16_tiny, "BF16 products keep activations that are too small for a BF16 of their own") {
  const Kernels& kernels = kernels_of_bf16();
  Dice dice(41);
  for (const Format& format : formats()) {
    if (format.dtype == Dtype::f32) continue;
    const RandomMatrix weight(format, 20, 300, dice);
    Guarded<float> x(300);
    fill_activations(x.data(), x.count(), dice);
    for (size_t i = 0; i < x.count(); ++i) x[i] *= 1e-36f;
    Error error;
    measure(kernels, weight, x, 1, error);
    require(error.relative() <= kRelativeMax, "%s: relative error %.3g", format.name,
            error.relative());
  }
}

RING_CASE(bf16_codes, "BF16 products multiply each e4m3 code exactly in each column") {
  const Kernels& kernels = kernels_of_bf16();
  constexpr int kColumns = 130;
  Guarded<uint8_t> codes(256 * kColumns);
  for (int i = 0; i < 256 * kColumns; ++i) codes[i] = static_cast<uint8_t>(i / kColumns);
  Matrix weight;
  weight.data = codes.data();
  weight.dtype = Dtype::f8_e4m3;
  weight.rows = 256;
  weight.columns = kColumns;
  Guarded<float> x(kColumns * kColumns), out(kColumns * 256);
  for (int i = 0; i < kColumns * kColumns; ++i) x[i] = i / kColumns == i % kColumns ? 1.0f : 0.0f;
  multiply(kernels.matmul_bf16, weight, 0, 256, x.data(), kColumns, out.data(), kColumns);
  for (int i = 0; i < kColumns * 256; ++i) {
    const double expected = e4m3_value(static_cast<uint8_t>(i % 256));
    require(std::isnan(expected) ? std::isnan(out[i]) : out[i] == expected,
            "code 0x%02x in column %d is %g, expected %g", i % 256, i / 256,
            static_cast<double>(out[i]), expected);
  }
}

RING_CASE(bf16_companions, "BF16 products give a token the same bits alone and among others") {
  const Kernels& kernels = kernels_of_bf16();
  Dice dice(42);
  constexpr int kRows = 7, kTokens = 300;
  for (const Format& format : formats()) {
    for (const int columns : {33, 300, 2500}) {
      const RandomMatrix weight(format, kRows, columns, dice);
      Guarded<float> x(static_cast<size_t>(kTokens) * columns), alone(kTokens * kRows),
          among(kTokens * kRows);
      fill_activations(x.data(), x.count(), dice);
      multiply(kernels.matmul_bf16, weight.matrix(), 0, kRows, x.data(), kTokens, alone.data(), 1);
      for (const int together : {2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 100, 300}) {
        std::fill_n(among.data(), among.count(), NAN);
        multiply(kernels.matmul_bf16, weight.matrix(), 0, kRows, x.data(), kTokens, among.data(),
                 together);
        require(is_same_bits(alone, among), "%s, %d columns: other bits with %d tokens together",
                format.name, columns, together);
      }
    }
  }
}

RING_CASE(bf16_rows, "BF16 products give a row the same bits in whatever range of rows") {
  const Kernels& kernels = kernels_of_bf16();
  Dice dice(43);
  constexpr int kRows = 13, kColumns = 200;
  for (const Format& format : formats()) {
    const RandomMatrix weight(format, kRows, kColumns, dice);
    for (const int tokens : {1, 6, 11}) {
      Guarded<float> x(tokens * kColumns), whole(tokens * kRows), split(tokens * kRows);
      fill_activations(x.data(), x.count(), dice);
      multiply(kernels.matmul_bf16, weight.matrix(), 0, kRows, x.data(), tokens, whole.data(),
               tokens);
      for (int cut = 0; cut <= kRows; ++cut) {
        std::fill_n(split.data(), split.count(), NAN);
        multiply(kernels.matmul_bf16, weight.matrix(), cut, kRows, x.data(), tokens, split.data(),
                 tokens);
        multiply(kernels.matmul_bf16, weight.matrix(), 0, cut, x.data(), tokens, split.data(),
                 tokens);
        require(is_same_bits(whole, split), "%s: other bits when cut before row %d", format.name,
                cut);
      }
    }
  }
}

// The same numbers at every phase of a line, against either untouchable page.
RING_CASE(bf16_phases,
          "BF16 products have the same bits at every byte phase, reading no byte more") {
  const Kernels& kernels = kernels_of_bf16();
  for (const Format& format : formats()) {
    for (const int columns : {100, 256}) {
      for (const int tokens : {1, 9}) {
        Guarded<float> first(tokens * 9), out(tokens * 9);
        for (size_t gap = 0; gap < 64; gap += gap < 4 ? 1 : 5) {
          for (const Against side : {Against::end, Against::begin}) {
            Dice dice(44);
            const RandomMatrix weight(format, 9, columns, dice, gap, side);
            Guarded<float> x(static_cast<size_t>(tokens) * columns);
            fill_activations(x.data(), x.count(), dice);
            const bool is_first = gap == 0 && side == Against::end;
            multiply(kernels.matmul_bf16, weight.matrix(), 0, 9, x.data(), tokens,
                     is_first ? first.data() : out.data(), tokens);
            require(is_first || is_same_bits(first, out), "%s, %d columns: other bits at gap %zu",
                    format.name, columns, gap);
          }
        }
      }
    }
  }
}

RING_CASE(bf16_default, "the F32-accurate products beside BF16 ones are those of avx512vbmi") {
  const Kernels& with = kernels_of_bf16();
  const Kernels* without = choose_kernels("avx512vbmi");
  require(without != nullptr, "there is avx512bf16 and no avx512vbmi");
  Dice dice(45);
  for (const Format& format : formats()) {
    for (const int columns : {100, 2048}) {
      const RandomMatrix weight(format, 140, columns, dice, 5);
      for (const int tokens : {1, 2, 5, 17}) {
        Guarded<float> x(static_cast<size_t>(tokens) * columns), a(tokens * 140), b(tokens * 140);
        fill_activations(x.data(), x.count(), dice);
        multiply(with.matmul, weight.matrix(), 0, 140, x.data(), tokens, a.data(), tokens);
        multiply(without->matmul, weight.matrix(), 0, 140, x.data(), tokens, b.data(), tokens);
        require(is_same_bits(a, b), "%s, %d columns, %d tokens: other bits", format.name, columns,
                tokens);
      }
    }
  }
}

RING_KERNEL_CASE(bf16_refused, "the backend opens for BF16 products only where there are some") {
  const char* set = getenv("RING_ISA");
  const std::string kept = set != nullptr ? set : "";
  setenv("RING_ISA", kernels.isa, 1);
  Model model;
  model.shape = {};
  model.shape.layers = model.shape.kv_heads = model.shape.head_dim = 1;
  Limits limits{};
  limits.threads = limits.kv_blocks = limits.kv_block_tokens = 1;
  limits.math = Math::bf16;
  void* self = nullptr;
  const Status status = cpu_backend()->open(&model, &limits, &self);
  const std::string described = self != nullptr ? cpu_backend()->describe(self) : "";
  if (self != nullptr) cpu_backend()->close(self);
  if (set != nullptr)
    setenv("RING_ISA", kept.c_str(), 1);
  else
    unsetenv("RING_ISA");
  if (kernels.matmul_bf16 == nullptr) {
    require(status.code == Code::bad_argument && self == nullptr, "it opened");
    require(strstr(status.text, "--math bf16 needs a processor with AVX-512 BF16") != nullptr,
            "said: %s", status.text);
  } else {
    require(!status.failed(), "it did not open: %s", status.text);
    require(described.find("BF16 products") != std::string::npos, "described as %s",
            described.c_str());
  }
}
