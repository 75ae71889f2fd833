// Speed of the CPU products on the expert shapes of Ring-1T, flash and mini, each as a share of a
// ceiling measured in turn with it: one token against a loop that only reads the same bytes, many
// tokens against a loop that only multiplies and adds in registers. Weights come from a pool larger
// than the caches and have the values that real ones have: random codes would be full of
// subnormals, which some processors multiply slowly.
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include "cpu/cpu.h"

namespace {

using ring::Dtype;
using ring::Kernels;
using ring::Matrix;
using ring::Pool;
using ring::cpu::Scratch;

constexpr size_t kPoolBytes = size_t{1} << 30;
constexpr int kBlock = 128;  // rows and columns of a block of scales
// Codes start at any byte: direct reads land anywhere.
size_t phase = 0;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

uint8_t e4m3_of(double value) {
  const double magnitude = std::min(std::fabs(value), 448.0);
  int exponent = 0;
  std::frexp(magnitude, &exponent);
  exponent = std::max(exponent - 1, -6);
  const int units = static_cast<int>(std::lrint(std::ldexp(magnitude, 3 - exponent)));
  const int bits = units < 8 ? units : ((exponent + 7) << 3) + units - 8;
  return static_cast<uint8_t>(std::min(bits, 0x7e) | (value < 0 ? 0x80 : 0));
}

// Normally distributed codes, the largest of a block near 448.
uint8_t* make_weights() {
  void* memory =
      mmap(nullptr, kPoolBytes + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
  madvise(memory, kPoolBytes, MADV_HUGEPAGE);
  auto* bytes = static_cast<uint8_t*>(memory);
  srand48(1);
  std::vector<uint8_t> codes(1 << 16);
  for (uint8_t& code : codes) {
    double sum = -6;
    for (int i = 0; i < 12; ++i) sum += drand48();
    code = e4m3_of(sum * 110);
  }
  uint64_t state = 88172645463325252ull;
  for (size_t i = 0; i < kPoolBytes + 64; ++i) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    bytes[i] = codes[state & 0xffff];
  }
  return bytes;
}

struct Spread {
  double median, least, most;
};

Spread spread_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return {values[values.size() / 2], values.front(), values.back()};
}

typedef uint64_t Words __attribute__((vector_size(64)));

// Reads whole cache lines and adds them, fetching `ahead` lines on or (0) leaving that to the
// processor: what memory can deliver, whatever the phase of the weights.
__attribute__((target_clones("avx512f", "avx2", "default"))) uint64_t read_only(const uint8_t* p,
                                                                                size_t bytes,
                                                                                int ahead) {
  const auto* line = reinterpret_cast<const Words*>((reinterpret_cast<uintptr_t>(p) + 63) & ~63ull);
  const size_t lines = (bytes - 63) / 64;
  Words a = {}, b = {}, c = {}, d = {};
  for (size_t i = 0; i + 4 <= lines; i += 4) {
    if (ahead > 0) {
      for (int k = 0; k < 4; ++k) __builtin_prefetch(line + i + k + ahead);
    }
    a += line[i];
    b += line[i + 1];
    c += line[i + 2];
    d += line[i + 3];
  }
  const Words all = a + b + c + d;
  return all[0] ^ all[1] ^ all[2] ^ all[3] ^ all[4] ^ all[5] ^ all[6] ^ all[7];
}

// Multiply-adds in registers only: 12 independent sums hide the latency on every processor we know.
#define RING_CEILING(name, isa, lanes)                                                 \
  __attribute__((target(isa))) double name(int64_t rounds) {                           \
    typedef float V __attribute__((vector_size(4 * lanes)));                           \
    V s0 = {}, s1 = {}, s2 = {}, s3 = {}, s4 = {}, s5 = {};                            \
    V s6 = {}, s7 = {}, s8 = {}, s9 = {}, s10 = {}, s11 = {};                          \
    V a = s0 + 0.5f, b = s0 + 0.25f;                                                   \
    for (int64_t i = 0; i < rounds; ++i) {                                             \
      asm volatile("" : "+x"(a), "+x"(b));                                             \
      s0 = a * b + s0, s1 = a * b + s1, s2 = a * b + s2, s3 = a * b + s3;              \
      s4 = a * b + s4, s5 = a * b + s5, s6 = a * b + s6, s7 = a * b + s7;              \
      s8 = a * b + s8, s9 = a * b + s9, s10 = a * b + s10, s11 = a * b + s11;          \
      asm volatile("" : "+x"(s0), "+x"(s1), "+x"(s2), "+x"(s3), "+x"(s4), "+x"(s5));   \
      asm volatile("" : "+x"(s6), "+x"(s7), "+x"(s8), "+x"(s9), "+x"(s10), "+x"(s11)); \
    }                                                                                  \
    return 2.0 * 12 * lanes * static_cast<double>(rounds);                             \
  }

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC optimize("fp-contract=fast")
RING_CEILING(multiply_only_512, "avx512f", 16)
RING_CEILING(multiply_only_256, "avx2,fma", 8)
#pragma GCC pop_options
#endif
#if defined(__x86_64__)
RING_CEILING(multiply_only_128, "sse4.2", 4)
#endif

double multiply_only(const Kernels& kernels, int64_t rounds) {
#if defined(__x86_64__)
  if (strncmp(kernels.isa, "avx512", 6) == 0) return multiply_only_512(rounds);
  if (strcmp(kernels.isa, "avx2") == 0) return multiply_only_256(rounds);
  return multiply_only_128(rounds);
#else
  (void)kernels, (void)rounds;
  return 0;
#endif
}

struct Bench {
  const Kernels& kernels;
  const uint8_t* weights;
  int repeats;
  volatile uint64_t sink = 0;

  void shape(Pool& pool, const char* name, int rows, int columns, int tokens);
};

void Bench::shape(Pool& pool, const char* name, int rows, int columns, int tokens) {
  const size_t bytes = static_cast<size_t>(rows) * columns;
  // About 256 MB of weights a measurement, or as many products as take as long.
  const int matrices = static_cast<int>((size_t{256} << 20) / bytes);
  const int count = std::max(1, tokens > 16 ? matrices / tokens : matrices);
  const int blocks = (columns + kBlock - 1) / kBlock;
  std::vector<float> scales(static_cast<size_t>((rows + kBlock - 1) / kBlock) * blocks, 0.01f);
  std::vector<float> x(static_cast<size_t>(tokens) * columns);
  std::vector<float> out(static_cast<size_t>(tokens) * rows);
  for (float& value : x) value = static_cast<float>(drand48() * 2 - 1);
  std::vector<Scratch> scratch;
  for (int i = 0; i < pool.threads(); ++i) scratch.emplace_back(ring::kMatmulScratch);
  const int pieces = (rows + kBlock - 1) / kBlock;
  size_t at = 0;
  const auto next = [&] { return weights + phase + at++ % matrices * bytes; };
  const auto compute = [&] {
    for (int i = 0; i < count; ++i) {
      Matrix w;
      w.data = next(), w.scales = scales.data(), w.rows = rows, w.columns = columns;
      w.block_rows = w.block_columns = kBlock, w.scale_columns = blocks, w.dtype = Dtype::f8_e4m3;
      pool.run(pieces, [&](int piece, int thread) {
        kernels.matmul(w, piece * kBlock, std::min((piece + 1) * kBlock, rows), x.data(), tokens,
                       out.data(), rows, scratch[thread].data());
      });
    }
    return 2.0 * tokens * static_cast<double>(bytes) * count;
  };
  const auto ceiling = [&](int ahead) -> double {
    if (tokens > 16) {
      std::vector<double> done(pool.threads() * 8);
      pool.run(pool.threads(),
               [&](int, int thread) { done[thread * 8] += multiply_only(kernels, 4'000'000); });
      double operations = 0;
      for (const double one : done) operations += one;
      return operations;
    }
    for (int i = 0; i < count; ++i) {
      const uint8_t* base = next();
      pool.run(pieces, [&](int piece, int) {
        const size_t first = static_cast<size_t>(piece) * kBlock * columns;
        const size_t last = std::min(first + static_cast<size_t>(kBlock) * columns, bytes);
        sink = sink + read_only(base + first, last - first, ahead);
      });
    }
    return 2.0 * tokens * static_cast<double>(bytes) * count;
  };
  const auto rate_of = [](const auto& work) {
    const double start = now();
    const double operations = work();
    return operations / (now() - start);
  };
  // The best of three ways to read, or the one way to multiply.
  const auto best_ceiling = [&] {
    double best = rate_of([&] { return ceiling(0); });
    for (const int ahead : {16, 64}) {
      if (tokens <= 16) best = std::max(best, rate_of([&] { return ceiling(ahead); }));
    }
    return best;
  };
  compute();
  best_ceiling();
  std::vector<double> rates, shares;
  for (int i = 0; i < repeats; ++i) {
    const double before = best_ceiling(), rate = rate_of(compute), after = best_ceiling();
    rates.push_back(rate);
    shares.push_back(rate / ((before + after) / 2));
  }
  const Spread rate = spread_of(rates), share = spread_of(shares);
  const double unit = tokens > 16 ? 1e9 : 2e9 * tokens;
  printf("%-16s %5d x %-5d %5zu %7d %8d %9.1f %s [%.1f to %.1f]   %.2f [%.2f to %.2f]\n", name,
         rows, columns, phase, pool.threads(), tokens, rate.median / unit,
         tokens > 16 ? "GFLOP/s" : "GB/s   ", rate.least / unit, rate.most / unit, share.median,
         share.least, share.most);
  fflush(stdout);
}

struct Model {
  const char* gate;
  const char* down;
  int hidden, width;
};

constexpr Model kModels[] = {{"mini gate, up", "mini down", 2048, 512},
                             {"flash gate, up", "flash down", 4096, 1024},
                             {"1T gate, up", "1T down", 8192, 2048}};

}  // namespace

int main(int argc, char** argv) {
  const int repeats = argc > 1 ? std::max(1, atoi(argv[1])) : 7;
  const Kernels* kernels = ring::choose_kernels(getenv("RING_ISA"));
  if (kernels == nullptr) {
    fprintf(stderr, "RING_ISA is not an instruction set of this processor\n");
    return 1;
  }
  const uint8_t* weights = make_weights();
  if (weights == nullptr) {
    fprintf(stderr, "no memory for 1 GiB of weights\n");
    return 1;
  }
  const int cores = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  printf("%s; shares: one token of a read-only loop, 256 tokens of multiply-adds in registers;\n",
         kernels->isa);
  printf("medians of %d [least to most]\n", repeats);
  printf("%-16s %13s %5s %7s %8s %9s\n", "matrix", "rows x columns", "phase", "threads", "tokens",
         "rate");
  Bench bench{*kernels, weights, repeats};
  for (const int threads : {1, cores}) {
    Pool pool(threads);
    for (const auto& [tokens, first] : {std::pair{1, 0}, {1, 5}, {256, 5}}) {
      phase = static_cast<size_t>(first);
      for (const Model& model : kModels) {
        bench.shape(pool, model.gate, model.width, model.hidden, tokens);
        bench.shape(pool, model.down, model.hidden, model.width, tokens);
      }
    }
    if (threads == cores) break;
  }
}
