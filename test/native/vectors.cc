// The kernels over single vectors: norm, dot products, scaled sums, softmax and SwiGLU, against
// float64, at every length around a register's, with nothing read or written past the ends. Also
// which table of kernels is chosen.
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

constexpr int kCounts[] = {1, 2, 15, 16, 17, 31, 32, 33, 48, 49, 100, 128, 200, 256, 4096};
constexpr double kErrorMax = 1e-6;

void fill(Guarded<float>& values, Dice& dice) {
  fill_activations(values.data(), values.count(), dice);
}

void fill(Guarded<uint16_t>& values, Dice& dice) {
  for (size_t i = 0; i < values.count(); ++i) values[i] = bf16_truncated(dice.gaussian());
}

double value_of(float value) { return value; }
double value_of(uint16_t code) { return bf16_value(code); }

template <typename Element, typename Dots>
void require_dots(Dots dots) {
  Dice dice(20);
  for (const int count : kCounts) {
    for (const int rows : {1, 3, 4, 9}) {
      Guarded<float> a(count), out(rows);
      Guarded<Element> b(static_cast<size_t>(rows) * count);
      fill(a, dice);
      fill(b, dice);
      dots(a.data(), b.data(), count, rows, out.data());
      Error error;
      for (int r = 0; r < rows; ++r) {
        const Element* row = b.data() + static_cast<size_t>(r) * count;
        double expected = 0, magnitude = 0;
        for (int i = 0; i < count; ++i) {
          expected += a[i] * value_of(row[i]);
          magnitude += std::fabs(a[i] * value_of(row[i]));
        }
        error.add(out[r], expected, magnitude);
        float alone;
        dots(a.data(), row, count, 1, &alone);
        require(alone == out[r], "%d elements: row %d of %d has other bits alone", count, r, rows);
      }
      require(error.worst <= kErrorMax, "%d elements: off by %.3g", count, error.worst);
    }
  }
}

template <typename Element, typename AddRows>
void require_sums(AddRows add_rows) {
  Dice dice(21);
  for (const int count : kCounts) {
    for (const int rows : {1, 2, 7}) {
      Guarded<Element> x(static_cast<size_t>(rows) * count);
      Guarded<float> y(count), factors(rows);
      fill(x, dice);
      fill(y, dice);
      fill(factors, dice);
      std::vector<double> expected(count), magnitude(count);
      std::vector<float> one_by_one(count);
      for (int i = 0; i < count; ++i) {
        one_by_one[i] = y[i];
        expected[i] = y[i];
        magnitude[i] = std::fabs(y[i]);
        for (int r = 0; r < rows; ++r) {
          const double term = factors[r] * value_of(x[static_cast<size_t>(r) * count + i]);
          expected[i] += term;
          magnitude[i] += std::fabs(term);
        }
      }
      add_rows(factors.data(), x.data(), rows, y.data(), count);
      for (int r = 0; r < rows; ++r) {
        add_rows(factors.data() + r, x.data() + static_cast<size_t>(r) * count, 1,
                 one_by_one.data(), count);
      }
      Error error;
      for (int i = 0; i < count; ++i) {
        error.add(y[i], expected[i], magnitude[i]);
        require(y[i] == one_by_one[i], "%d elements: element %d has other bits", count, i);
      }
      // Two roundings a row, each at most half a unit of the last place.
      require(error.worst <= rows * 0x1p-23, "%d elements: off by %.3g", count, error.worst);
    }
  }
}

}  // namespace

RING_KERNEL_CASE(dots, "dots agree with float64, and each with itself alone") {
  require_dots<float>(kernels.dots);
}

RING_KERNEL_CASE(dots_bf16, "dots_bf16 agree with float64, and each with itself alone") {
  require_dots<uint16_t>(kernels.dots_bf16);
}

RING_KERNEL_CASE(sums, "add_rows agrees with float64, and with a row at a time") {
  require_sums<float>(kernels.add_rows);
}

RING_KERNEL_CASE(sums_bf16, "add_rows_bf16 agrees with float64, and with a row at a time") {
  require_sums<uint16_t>(kernels.add_rows_bf16);
}

RING_KERNEL_CASE(sums_in_middle, "add_rows leaves what follows its elements alone") {
  for (const int count : kCounts) {
    std::vector<float> x(count + 16, 1.0f), y(count + 16, 2.0f);
    const float factor = 3.0f;
    kernels.add_rows(&factor, x.data(), 1, y.data(), count);
    for (int i = 0; i < count + 16; ++i) {
      require(y[i] == (i < count ? 5.0f : 2.0f), "%d elements: element %d is %g", count, i,
              static_cast<double>(y[i]));
    }
  }
}

RING_KERNEL_CASE(norms, "rms_norm agrees with float64, also onto its own input") {
  Dice dice(22);
  for (const int count : kCounts) {
    for (const float epsilon : {1e-6f, 1e-2f}) {
      Guarded<float> x(count), weight(count), out(count);
      fill(x, dice);
      fill(weight, dice);
      double squares = 0;
      for (int i = 0; i < count; ++i) squares += static_cast<double>(x[i]) * x[i];
      const double factor = 1 / std::sqrt(squares / count + epsilon);
      const float mean = kernels.rms_norm(x.data(), weight.data(), out.data(), count, epsilon);
      require(std::fabs(mean - squares / count) <= kErrorMax * squares / count,
              "%d elements: mean square %.9g, expected %.9g", count, static_cast<double>(mean),
              squares / count);
      Error error;
      for (int i = 0; i < count; ++i) {
        const double expected = weight[i] * (x[i] * factor);
        error.add(out[i], expected, std::fabs(expected));
      }
      require(error.worst <= kErrorMax, "%d elements: off by %.3g", count, error.worst);
      kernels.rms_norm(x.data(), weight.data(), x.data(), count, epsilon);
      require(memcmp(x.data(), out.data(), static_cast<size_t>(count) * 4) == 0,
              "%d elements: other bits in place", count);
    }
  }
}

RING_KERNEL_CASE(norms_of_zero, "rms_norm of zeros is zeros") {
  Guarded<float> x(40), weight(40), out(40);
  for (int i = 0; i < 40; ++i) x[i] = 0, weight[i] = 1;
  require(kernels.rms_norm(x.data(), weight.data(), out.data(), 40, 1e-6f) == 0, "mean is not 0");
  for (int i = 0; i < 40; ++i) require(out[i] == 0, "element %d is not 0", i);
}

RING_KERNEL_CASE(norms_of_nan, "rms_norm reports a value that is not finite, wherever it stands") {
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    for (int at = 0; at < 49; ++at) {
      Guarded<float> x(49), weight(49), out(49);
      for (int i = 0; i < 49; ++i) x[i] = i == at ? bad : 1.0f, weight[i] = 1;
      const float mean = kernels.rms_norm(x.data(), weight.data(), out.data(), 49, 1e-6f);
      require(!std::isfinite(mean), "%g at %d gives mean %g", static_cast<double>(bad), at,
              static_cast<double>(mean));
    }
  }
}

namespace {

// Of an exponential and what follows it: a few roundings of 2^-24.
constexpr double kExponentialMax = 4 * 0x1p-24;

double silu(double gate) { return gate / (1 + std::exp(-gate)); }

}  // namespace

RING_KERNEL_CASE(swiglu,
                 "swiglu agrees with float64 to a few units of the last place, at any gate") {
  constexpr int kCount = 40001;
  Guarded<float> gate(kCount), up(kCount);
  std::vector<double> expected(kCount);
  for (int i = 0; i < kCount; ++i) {
    // Up to 80: beyond, silu itself leaves the range of normal numbers.
    gate[i] = static_cast<float>((i - kCount / 2) * 80.0 / (kCount / 2));
    up[i] = i % 2 == 0 ? 1.0f : -3.0f;
    expected[i] = silu(gate[i]) * up[i];
  }
  kernels.swiglu(gate.data(), up.data(), kCount);
  for (int i = 0; i < kCount; ++i) {
    require(std::fabs(gate[i] - expected[i]) <= kExponentialMax * std::fabs(expected[i]),
            "element %d is %.9g, expected %.9g", i, static_cast<double>(gate[i]), expected[i]);
  }
}

RING_KERNEL_CASE(swiglu_ends, "swiglu of a gate of any size is finite, and of NaN is NaN") {
  for (const float gate : {-INFINITY, -1e30f, -1000.0f, -104.0f, -88.0f, 88.0f, 1e30f, NAN}) {
    float out = gate;
    const float one = 1;
    kernels.swiglu(&out, &one, 1);
    if (std::isnan(gate) || std::isinf(gate)) {
      require(std::isnan(out), "silu(%g) is %g", static_cast<double>(gate),
              static_cast<double>(out));
    } else {
      require(std::fabs(out - silu(gate)) <= 1e-36 + 1e-6 * std::fabs(silu(gate)), "silu(%g) is %g",
              static_cast<double>(gate), static_cast<double>(out));
    }
  }
}

RING_KERNEL_CASE(swiglu_anywhere, "swiglu gives an element the same bits wherever it stands") {
  Dice dice(23);
  constexpr int kCount = 100;
  Guarded<float> gate(kCount), up(kCount);
  fill(gate, dice);
  fill(up, dice);
  std::vector<float> alone(gate.data(), gate.data() + kCount);
  for (int i = 0; i < kCount; ++i) kernels.swiglu(&alone[i], &up[i], 1);
  for (const int cut : {0, 1, 15, 33, 64}) {
    Guarded<float> pieces(kCount);
    memcpy(pieces.data(), gate.data(), kCount * sizeof(float));
    kernels.swiglu(pieces.data(), up.data(), cut);
    kernels.swiglu(pieces.data() + cut, up.data() + cut, kCount - cut);
    require(memcmp(pieces.data(), alone.data(), kCount * sizeof(float)) == 0,
            "other bits when cut at %d", cut);
  }
}

RING_KERNEL_CASE(softmax, "softmax agrees with float64, also where scores lie far apart") {
  Dice dice(24);
  for (const int count : kCounts) {
    for (const double spread : {1.0, 30.0, 300.0}) {
      Guarded<float> x(count);
      for (int i = 0; i < count; ++i) x[i] = static_cast<float>(spread * dice.gaussian());
      std::vector<double> expected(x.data(), x.data() + count);
      constexpr float kScale = 0.25f;
      const double most = *std::max_element(expected.begin(), expected.end());
      double total = 0;
      for (double& value : expected) {
        // The difference is rounded to F32, as the scores themselves are.
        value = std::exp(static_cast<double>(static_cast<float>(value - most)) * kScale);
        total += value;
      }
      kernels.softmax(x.data(), count, kScale);
      for (int i = 0; i < count; ++i) {
        const double wanted = expected[i] / total;
        require(std::fabs(x[i] - wanted) <= kErrorMax * wanted + 1e-44,
                "%d scores: share %d is %.9g, expected %.9g", count, i, static_cast<double>(x[i]),
                wanted);
      }
    }
  }
}

RING_KERNEL_CASE(softmax_of_nan, "softmax with a NaN among the scores is NaN") {
  for (int at = 0; at < 35; ++at) {
    Guarded<float> x(35);
    for (int i = 0; i < 35; ++i) x[i] = i == at ? NAN : 1.0f;
    kernels.softmax(x.data(), 35, 1.0f);
    for (int i = 0; i < 35; ++i) require(std::isnan(x[i]), "share %d is a number", i);
  }
}

RING_CASE(isa_by_name, "an instruction set is chosen by name, and an unknown name by nobody") {
  const Kernels* portable = choose_kernels("portable");
  require(portable != nullptr && strcmp(portable->isa, "portable") == 0, "portable is missing");
  require(choose_kernels("mmx") == nullptr, "mmx was accepted");
  require(choose_kernels("AVX2") == nullptr, "names are lower case, yet AVX2 was accepted");
}

RING_CASE(isa_by_default, "no name, an empty one and auto choose the same instruction set") {
  const Kernels* best = choose_kernels(nullptr);
  require(best != nullptr, "there is none");
  require(choose_kernels("") == best && choose_kernels("auto") == best, "they differ");
  require(choose_kernels(best->isa) == best, "%s does not name itself", best->isa);
}

RING_CASE(isa_refused, "the backend refuses an instruction set that is not here, by name") {
  const char* set = getenv("RING_ISA");
  const std::string kept = set != nullptr ? set : "";
  setenv("RING_ISA", "mmx", 1);
  const Model model{};
  const Limits limits{};
  void* self = nullptr;
  const Status status = cpu_backend()->open(&model, &limits, &self);
  if (set != nullptr)
    setenv("RING_ISA", kept.c_str(), 1);
  else
    unsetenv("RING_ISA");
  require(status.code == Code::bad_argument && self == nullptr, "it opened");
  require(strstr(status.text, "RING_ISA=mmx") != nullptr, "said: %s", status.text);
}
