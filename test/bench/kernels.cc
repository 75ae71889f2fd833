// Speed of the CPU products on the shapes of Ring-1T, flash and mini, each as a share of what the
// machine can do, measured in turn with it: the time that reading the weights takes, or that the
// multiply-adds take in registers, whichever is longer (ceilings.h). Weights come from a pool
// larger than the caches and have the values that real ones have: random codes would be full of
// subnormals, which some processors multiply slowly. `ring_bench --help` lists how to run a part.
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "ceilings.h"
#include "cpu/bandwidth.h"
#include "cpu/cpu.h"

namespace {

using namespace ring;
using namespace ring::bench;
using ring::cpu::Cpu;

constexpr const char* kHelp =
    "ring_bench [--math f32|bf16] [--tokens 1,2,4,8,16,64,256] [--threads 1,2] [--phase 0,5]\n"
    "           [--only TEXT] [--repeats 5] [--quick]\n"
    "Products of the CPU backend; RING_ISA chooses the instruction set. --only: matrices whose "
    "name\n"
    "holds the text, such as '1T' or 'experts'. --phase: byte of a cache line where weights "
    "begin.\n"
    "--quick: 3 repeats, 1 and 256 tokens.\n";

struct Choice {
  std::vector<int> tokens = {1, 2, 4, 8, 16, 64, 256}, threads, phases = {5};
  std::string only;
  int repeats = 5;
  Math math = Math::f32;
};

constexpr size_t kPoolBytes = size_t{1} << 30;
constexpr int kBlock = 128;  // rows and columns of a block of scales
// What a measurement should at least take, in bytes read or operations done.
// What bounds a product: multiplying in registers, or reading, fetching so many lines ahead.
constexpr int kAhead[] = {0, 16, 64};
constexpr int kBounds = 1 + static_cast<int>(std::size(kAhead));
constexpr double kLeastBytes = 128e6, kLeastOperations = 4e9;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// --- weights ------------------------------------------------------------------------------------

uint8_t e4m3_of(double value) {
  const double magnitude = std::min(std::fabs(value), 448.0);
  int exponent = 0;
  std::frexp(magnitude, &exponent);
  exponent = std::max(exponent - 1, -6);
  const int units = static_cast<int>(std::lrint(std::ldexp(magnitude, 3 - exponent)));
  const int bits = units < 8 ? units : ((exponent + 7) << 3) + units - 8;
  return static_cast<uint8_t>(std::min(bits, 0x7e) | (value < 0 ? 0x80 : 0));
}

uint16_t bf16_of(double value) {
  const float single = static_cast<float>(value);
  uint32_t bits;
  memcpy(&bits, &single, sizeof bits);
  return static_cast<uint16_t>(bits >> 16);
}

// Normally distributed numbers from `phase` on: FP8 codes, the largest of a block near 448, or
// BF16.
void fill_weights(uint8_t* bytes, size_t phase, Dtype dtype) {
  srand48(1);
  const auto normal = [] {
    double sum = -6;
    for (int i = 0; i < 12; ++i) sum += drand48();
    return sum;
  };
  std::vector<uint16_t> numbers(1 << 16);
  for (uint16_t& number : numbers)
    number = dtype == Dtype::f8_e4m3 ? e4m3_of(normal() * 110) : bf16_of(normal() * 0.02);
  const size_t width = dtype == Dtype::f8_e4m3 ? 1 : 2;
  uint64_t state = 88172645463325252ull;
  for (size_t at = phase; at + width <= kPoolBytes; at += width) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    memcpy(bytes + at, &numbers[state & 0xffff], width);
  }
}

// --- measuring ----------------------------------------------------------------------------------

struct Spread {
  double median, least, most;
};

Spread spread_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return {values[values.size() / 2], values.front(), values.back()};
}

struct Bench {
  const Choice& choice;
  const Kernels& kernels;
  const uint8_t* weights;  // the pool, at the phase
  Model& model;            // the one that cpu has
  Cpu& cpu;
  std::vector<float> scales = std::vector<float>(1 << 14, 0.01f);
  uint64_t sink = 0;

  Matrix matrix(const uint8_t* data, int rows, int columns, Dtype dtype) const;
  double seconds_to_read(const uint8_t* data, size_t bytes, int ahead);
  double seconds_to_multiply(double operations);
  template <typename Work>
  void measure(const std::string& name, int rows, int columns, int tokens, size_t bytes,
               const Work& work);
  void linear(const std::string& name, int rows, int columns, Dtype dtype, int tokens);
  void experts(const std::string& name, int hidden, int width, int tokens);
};

Matrix Bench::matrix(const uint8_t* data, int rows, int columns, Dtype dtype) const {
  Matrix w;
  w.data = data, w.rows = rows, w.columns = columns, w.dtype = dtype;
  if (dtype == Dtype::f8_e4m3) {
    w.scales = scales.data();
    w.block_rows = w.block_columns = kBlock, w.scale_columns = (columns + kBlock - 1) / kBlock;
  }
  return w;
}

// Shared out as the products are. How far to fetch ahead is best differs from minute to minute.
double Bench::seconds_to_read(const uint8_t* data, size_t bytes, int ahead) {
  constexpr size_t kPiece = size_t{1} << 17;
  const double start = now();
  std::vector<uint64_t> seen(cpu.pool.threads() * 8);
  cpu.pool.run(static_cast<int>((bytes + kPiece - 1) / kPiece), [&](int piece, int thread) {
    const size_t first = piece * kPiece;
    seen[thread * 8] ^= ring::cpu::read_only(data + first, std::min(kPiece, bytes - first), ahead);
  });
  const double seconds = now() - start;
  for (const uint64_t one : seen) sink ^= one;
  return seconds;
}

double Bench::seconds_to_multiply(double operations) {
  std::vector<double> done(cpu.pool.threads() * 8);
  const double start = now();
  cpu.pool.run(cpu.pool.threads(), [&](int, int thread) {
    done[thread * 8] += multiply_only(kernels.isa, choice.math == Math::bf16, 2'000'000);
  });
  double all = 0;
  for (const double one : done) all += one;
  return operations * (now() - start) / all;
}

// work(data): the products with the `bytes` of weights at data.
template <typename Work>
void Bench::measure(const std::string& name, int rows, int columns, int tokens, size_t bytes,
                    const Work& work) {
  const int sets = static_cast<int>((kPoolBytes - 64) / bytes);
  const double operations =
      2.0 * tokens * rows * columns * (name.find("experts") == std::string::npos ? 1 : 24);
  const double times = std::min(kLeastBytes / static_cast<double>(bytes),
                                kLeastOperations * cpu.pool.threads() / operations);
  const int count = std::clamp(static_cast<int>(std::ceil(times)), 1, sets);
  int at = 0;
  const auto next = [&] {
    at = at + count > sets ? 0 : at;
    const uint8_t* data = weights + at * bytes;
    at += count;
    return data;
  };
  // Each bound is measured before and after the product, as often as that.
  // The fastest of several tries would be a bound of luckier moments than the product had.
  std::vector<double> gigabytes, gigaflops, shares[kBounds];
  const auto bound = [&](int which) {
    return which == 0 ? seconds_to_multiply(operations * count)
                      : seconds_to_read(next(), count * bytes, kAhead[which - 1]);
  };
  for (int repeat = -1; repeat < choice.repeats; ++repeat) {
    double before[kBounds];
    for (int which = 0; which < kBounds; ++which) before[which] = bound(which);
    const uint8_t* data = next();
    const double start = now();
    for (int i = 0; i < count; ++i) work(data + i * bytes);
    const double seconds = now() - start;
    if (repeat < 0) continue;  // caches, pages and clocks settle
    gigabytes.push_back(static_cast<double>(bytes) * count / seconds / 1e9);
    gigaflops.push_back(operations * count / seconds / 1e9);
    for (int which = 0; which < kBounds; ++which) {
      const double around = (before[which] + bound(which)) / 2;
      shares[which].push_back(around / seconds);
    }
  }
  // Of the ways to read the quickest; then whichever of reading and multiplying takes longer.
  Spread share = spread_of(shares[1]);
  for (int which = 2; which < kBounds; ++which) {
    const Spread other = spread_of(shares[which]);
    if (other.median < share.median) share = other;
  }
  const Spread multiplying = spread_of(shares[0]);
  if (multiplying.median > share.median) share = multiplying;
  printf("%-26s %6d x %-5d %5zu %7d %6d %8.1f %9.1f   %.2f [%.2f to %.2f]\n", name.c_str(), rows,
         columns, static_cast<size_t>(reinterpret_cast<uintptr_t>(weights) & 63),
         cpu.pool.threads(), tokens, spread_of(gigabytes).median, spread_of(gigaflops).median,
         share.median, share.least, share.most);
  fflush(stdout);
}

void Bench::linear(const std::string& name, int rows, int columns, Dtype dtype, int tokens) {
  const size_t bytes = static_cast<size_t>(rows) * columns * (dtype == Dtype::f8_e4m3 ? 1 : 2);
  std::vector<float> x(static_cast<size_t>(tokens) * columns);
  std::vector<float> out(static_cast<size_t>(tokens) * rows);
  for (float& value : x) value = static_cast<float>(drand48() * 2 - 1);
  measure(name, rows, columns, tokens, bytes, [&](const uint8_t* data) {
    cpu.linear(matrix(data, rows, columns, dtype), x.data(), tokens, out.data());
  });
}

// Gate, up, SwiGLU and down of eight experts, each wanted by every token: what mix does.
void Bench::experts(const std::string& name, int hidden, int width, int tokens) {
  constexpr int kExperts = 8;
  const size_t matrix_bytes = static_cast<size_t>(hidden) * width;
  model.shape.hidden = hidden;
  model.shape.top_k = kExperts;
  cpu::StepState& step = cpu.steps[0];
  const size_t t = static_cast<size_t>(tokens), pairs = t * kExperts;
  step.tokens = tokens;
  step.normed.assign(t * hidden, 0.5f);
  step.weights.assign(pairs, 0.125f);
  step.routed.assign(t * hidden, 0.0f);
  step.experts.resize(pairs);
  for (size_t pair = 0; pair < pairs; ++pair) step.experts[pair] = pair % kExperts;
  for (std::vector<float>* rows : {&step.pair_output, &step.pair_input})
    rows->assign(pairs * hidden, 0.0f);
  for (std::vector<float>* rows : {&step.pair_gate, &step.pair_up})
    rows->assign(pairs * width, 0.0f);
  step.pair_of_row.resize(pairs);
  measure(name, width, hidden, tokens, 3 * kExperts * matrix_bytes, [&](const uint8_t* data) {
    Mlp mlps[kExperts];
    ReadyExpert ready[kExperts];
    for (int e = 0; e < kExperts; ++e) {
      const uint8_t* const own = data + 3 * e * matrix_bytes;
      mlps[e] = {matrix(own, width, hidden, Dtype::f8_e4m3),
                 matrix(own + matrix_bytes, width, hidden, Dtype::f8_e4m3),
                 matrix(own + 2 * matrix_bytes, hidden, width, Dtype::f8_e4m3)};
      ready[e] = {e, &mlps[e]};
    }
    if (cpu::mix(cpu, step, 0, ready, kExperts).failed()) abort();
  });
}

// --- what is measured ---------------------------------------------------------------------------

struct ModelShape {
  const char* name;
  int hidden, width, qkv_rows, heads_width;
};

constexpr ModelShape kModels[] = {{"mini", 2048, 512, 3072, 2048},
                                  {"flash", 4096, 1024, 5120, 4096},
                                  {"1T", 8192, 2048, 10240, 8192}};
// Of the 157,184 rows of the output heads.
constexpr int kHeadRows = 16384;

void run(Bench& bench, Dtype dtype, int tokens) {
  const auto wanted = [&](const std::string& name) {
    return name.find(bench.choice.only) != std::string::npos;
  };
  for (const ModelShape& model : kModels) {
    const auto linear = [&](const char* what, int rows, int columns) {
      const std::string name = std::string(model.name) + " " + what;
      if (wanted(name)) bench.linear(name, rows, columns, dtype, tokens);
    };
    if (dtype == Dtype::f8_e4m3) {
      linear("gate, up", model.width, model.hidden);
      linear("down", model.hidden, model.width);
      const std::string name = std::string(model.name) + " 8 experts";
      if (wanted(name)) bench.experts(name, model.hidden, model.width, tokens);
    } else {
      linear("qkv, BF16", model.qkv_rows, model.hidden);
      linear("attention out, BF16", model.hidden, model.heads_width);
      linear("head, BF16", kHeadRows, model.hidden);
    }
  }
}

std::vector<int> numbers_of(const char* text) {
  std::vector<int> numbers;
  for (const char* p = text; *p != '\0';) {
    char* end = nullptr;
    const long number = strtol(p, &end, 10);
    if (end == p || number < 0 || number > 4096 || (*end != ',' && *end != '\0')) return {};
    numbers.push_back(static_cast<int>(number));
    p = *end == ',' ? end + 1 : end;
  }
  return numbers;
}

bool read_choice(int argc, char** argv, Choice& choice) {
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag == "--quick") {
      choice.repeats = 3;
      choice.tokens = {1, 256};
      continue;
    }
    if (++i >= argc) return false;
    const std::string value = argv[i];
    std::vector<int> numbers = numbers_of(argv[i]);
    if (flag == "--only") {
      choice.only = value;
    } else if (flag == "--math" && (value == "f32" || value == "bf16")) {
      choice.math = value == "bf16" ? Math::bf16 : Math::f32;
    } else if (numbers.empty()) {
      return false;
    } else if (flag == "--tokens") {
      choice.tokens = numbers;
    } else if (flag == "--threads") {
      choice.threads = numbers;
    } else if (flag == "--phase") {
      choice.phases = numbers;
    } else if (flag == "--repeats") {
      choice.repeats = std::max(1, numbers[0]);
    } else {
      return false;
    }
  }
  const auto has_zero = [](const std::vector<int>& all) {
    return std::find(all.begin(), all.end(), 0) != all.end();
  };
  return !has_zero(choice.tokens) && !has_zero(choice.threads);
}

int fail(const char* sentence) {
  fprintf(stderr, "ring_bench: %s\n", sentence);
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  const int cores = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  Choice choice;
  choice.threads = {1};
  if (cores > 1) choice.threads.push_back(cores);
  if (!read_choice(argc, argv, choice)) {
    fputs(kHelp, stderr);
    return 2;
  }
  const Kernels* kernels = choose_kernels(getenv("RING_ISA"));
  if (kernels == nullptr) return fail("RING_ISA is not an instruction set of this processor");
  if (choice.math == Math::bf16 && kernels->matmul_bf16 == nullptr)
    return fail("--math bf16 needs a processor with AVX-512 BF16");
  void* memory =
      mmap(nullptr, kPoolBytes + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return fail("no memory for 1 GiB of weights");
  madvise(memory, kPoolBytes, MADV_HUGEPAGE);
  auto* pool = static_cast<uint8_t*>(memory);

  printf("%s, %s products; share of reading the weights or of multiply-adds in registers,\n",
         kernels->isa, choice.math == Math::bf16 ? "BF16" : "F32-accurate");
  printf("whichever takes longer; medians of %d [least to most]\n", choice.repeats);
  printf("%-26s %6s x %-5s %5s %7s %6s %8s %9s   share\n", "matrix", "rows", "cols", "phase",
         "threads", "tokens", "GB/s", "GFLOP/s");
  Model model{};
  Limits limits{};
  limits.math = choice.math;
  for (const Dtype dtype : {Dtype::f8_e4m3, Dtype::bf16}) {
    for (const int phase : choice.phases) {
      fill_weights(pool, static_cast<size_t>(phase), dtype);
      for (const int threads : choice.threads) {
        Cpu cpu(model, limits, *kernels, threads);
        for (int i = 0; i < threads; ++i) cpu.thread_scratch.emplace_back(kMatmulScratch);
        Bench bench{choice, *kernels, pool + phase, model, cpu};
        for (const int tokens : choice.tokens) run(bench, dtype, tokens);
      }
    }
  }
}
