// The kernels over single vectors: norm, dot products and scaled sums, against float64, at every
// length around a register's, with nothing read or written past the ends. Also which table of
// kernels is chosen.
#include "backend.h"
#include "isa.h"
#include "reference.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

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

template <typename Element, typename Dot>
void require_dot(Dot dot) {
  Dice dice(20);
  for (const int count : kCounts) {
    Error error;
    for (int trial = 0; trial < 20; ++trial) {
      Guarded<float> a(count);
      Guarded<Element> b(count);
      fill(a, dice);
      fill(b, dice);
      double expected = 0, magnitude = 0;
      for (int i = 0; i < count; ++i) {
        expected += a[i] * value_of(b[i]);
        magnitude += std::fabs(a[i] * value_of(b[i]));
      }
      error.add(dot(a.data(), b.data(), count), expected, magnitude);
    }
    require(error.worst <= kErrorMax, "%d elements: off by %.3g", count, error.worst);
  }
}

template <typename Element, typename Add>
void require_scaled_sum(Add add) {
  Dice dice(21);
  for (const int count : kCounts) {
    Guarded<Element> x(count);
    Guarded<float> y(count);
    fill(x, dice);
    fill(y, dice);
    const auto factor = static_cast<float>(dice.gaussian());
    std::vector<double> expected(count), magnitude(count);
    for (int i = 0; i < count; ++i) {
      expected[i] = y[i] + factor * value_of(x[i]);
      magnitude[i] = std::fabs(y[i]) + std::fabs(factor * value_of(x[i]));
    }
    add(factor, x.data(), y.data(), count);
    Error error;
    for (int i = 0; i < count; ++i) error.add(y[i], expected[i], magnitude[i]);
    require(error.worst <= 0x1p-23, "%d elements: off by %.3g", count, error.worst);
  }
}

}  // namespace

RING_KERNEL_CASE(dots, "dot agrees with float64") { require_dot<float>(kernels.dot); }

RING_KERNEL_CASE(dots_bf16, "dot_bf16 agrees with float64") {
  require_dot<uint16_t>(kernels.dot_bf16);
}

RING_KERNEL_CASE(sums, "add_scaled agrees with float64 to two roundings") {
  require_scaled_sum<float>(kernels.add_scaled);
}

RING_KERNEL_CASE(sums_bf16, "add_scaled_bf16 agrees with float64 to two roundings") {
  require_scaled_sum<uint16_t>(kernels.add_scaled_bf16);
}

RING_KERNEL_CASE(sums_in_middle, "add_scaled leaves what follows its elements alone") {
  for (const int count : kCounts) {
    std::vector<float> x(count + 16, 1.0f), y(count + 16, 2.0f);
    kernels.add_scaled(3.0f, x.data(), y.data(), count);
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
  if (set != nullptr) setenv("RING_ISA", kept.c_str(), 1);
  else unsetenv("RING_ISA");
  require(status.code == Code::bad_argument && self == nullptr, "it opened");
  require(strstr(status.text, "RING_ISA=mmx") != nullptr, "said: %s", status.text);
}
