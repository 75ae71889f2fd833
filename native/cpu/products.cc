// See products.h.
#include "products.h"

#include <algorithm>
#include <cstring>
#include <mutex>

#include "../memory/slab.h"
#include "../timed.h"
#include "cpu.h"
#include "topology.h"

namespace ring::cpu {
namespace {

// Rows and columns of a matrix, and of a block that shares a scale.
constexpr int kSize = 2048, kBlock = 128;
constexpr uint64_t kMatrixBytes = uint64_t{kSize} * kSize;
constexpr uint64_t kExpertBytes = 3 * kMatrixBytes;
// That are computed together, and all that there are: more than the caches hold.
constexpr int kGroup = 8, kExperts = 3 * kGroup;
// More than these are many.
constexpr int kFewTokens = 16;
constexpr int kRoundsMost = 15;

// Codes of either sign from 2^-3 to 2^3: no NaN, and none that some processors multiply slowly.
void fill(Pool& pool, Slab& slab) {
  constexpr uint64_t kPiece = uint64_t{1} << 20;
  std::vector<uint8_t> codes(kPiece);
  uint32_t state = 1;
  for (uint8_t& code : codes) {
    state = state * 1664525u + 1013904223u;
    code = static_cast<uint8_t>(0x20 + (state >> 24) % 0x30 + ((state >> 16) & 0x80));
  }
  pool.run(static_cast<int>((slab.bytes() + kPiece - 1) / kPiece), [&](int piece, int) {
    const uint64_t at = piece * kPiece;
    memcpy(slab.data() + at, codes.data(), std::min(kPiece, slab.bytes() - at));
  });
}

// The caches, pages and clocks settle in a first round.
template <typename Round>
double median_seconds(double most, const Round& round) {
  round();
  std::vector<double> seconds;
  const double end = now() + most;
  do {
    const double begin = now();
    round();
    seconds.push_back(now() - begin);
  } while (seconds.size() < kRoundsMost && now() < end);
  std::sort(seconds.begin(), seconds.end());
  return seconds[seconds.size() / 2];
}

// Some experts that each of a step's tokens wants, as the backend has them.
class Group {
 public:
  Group(const Kernels& kernels, Math math, int threads)
      : limits_(limits_of(math)), cpu_(model_, limits_, kernels, threads) {
    for (int thread = 0; thread < threads; ++thread)
      cpu_.thread_scratch.emplace_back(kMatmulScratch);
  }

  Pool& pool() { return cpu_.pool; }

  // Steps of so many tokens that all want the same experts: many, whose weights come from memory;
  // of many tokens fewer, which take long enough. The more threads there are, the more there is to
  // do.
  void prepare(int tokens) {
    const bool is_many = tokens > kFewTokens;
    const int together = is_many ? std::clamp(pool().threads(), 2, kGroup) : kGroup;
    const size_t t = static_cast<size_t>(tokens), pairs = t * together;
    model_.shape.hidden = kSize;
    model_.shape.top_k = together;
    experts_ = is_many ? together : kExperts;
    StepState& step = cpu_.steps[0];
    step.tokens = tokens;
    step.normed.assign(t * kSize, 0.5f);
    step.experts.resize(pairs);
    for (size_t pair = 0; pair < pairs; ++pair)
      step.experts[pair] = static_cast<uint16_t>(pair % together);
    step.pair_known.assign(pairs, 0);
    step.pair_of_row.assign(pairs, 0);
    for (std::vector<float>* rows :
         {&step.pair_output, &step.pair_input, &step.pair_gate, &step.pair_up})
      rows->assign(pairs * kSize, 0.0f);
  }

  // Of such steps as many as it takes until each expert's weights were multiplied with.
  Status round(const Slab& weights) {
    const int together = model_.shape.top_k;
    for (int first = 0; first < experts_; first += together)
      RING_TRY(multiply(weights.data() + first * kExpertBytes, together));
    return {};
  }

  uint64_t round_bytes() const { return experts_ * kExpertBytes; }

 private:
  Status multiply(const uint8_t* weights, int experts) {
    Mlp mlps[kGroup];
    ReadyExpert ready[kGroup];
    for (int expert = 0; expert < experts; ++expert) {
      const uint8_t* own = weights + expert * kExpertBytes;
      mlps[expert] = {matrix(own), matrix(own + kMatrixBytes), matrix(own + 2 * kMatrixBytes)};
      ready[expert] = {expert, &mlps[expert]};
    }
    return mix(cpu_, cpu_.steps[0], 0, ready, experts);
  }

  static Limits limits_of(Math math) {
    Limits limits{};
    limits.math = math;
    return limits;
  }

  Matrix matrix(const uint8_t* data) const {
    Matrix weight;
    weight.data = data, weight.rows = weight.columns = kSize, weight.dtype = Dtype::f8_e4m3;
    weight.scales = scales_.data();
    weight.block_rows = weight.block_columns = kBlock, weight.scale_columns = kSize / kBlock;
    return weight;
  }

  const std::vector<float> scales_ = std::vector<float>((kSize / kBlock) * (kSize / kBlock), 0.01f);
  Model model_{};
  int experts_ = 0;
  const Limits limits_;
  Cpu cpu_;
};

int threads_of(int threads) { return threads > 0 ? threads : usable_cores(); }

Status fill_experts(Pool& pool, Slab& slab) {
  RING_TRY(slab.reserve(kExperts * kExpertBytes));
  fill(pool, slab);
  return {};
}

}  // namespace

Status measure_products(int threads, Math math, double seconds, const std::vector<int>& tokens,
                        std::vector<double>* bytes_per_second) {
  const Kernels* kernels;
  RING_TRY(usual_kernels(&kernels));
  bytes_per_second->assign(tokens.size(), 0);
  if (math == Math::bf16 && kernels->matmul_bf16 == nullptr) return {};
  Group group(*kernels, math, threads_of(threads));
  Slab slab;
  RING_TRY(fill_experts(group.pool(), slab));
  for (size_t at = 0; at < tokens.size(); ++at) {
    group.prepare(tokens[at]);
    Status status;
    const double taken = median_seconds(seconds, [&] {
      if (!status.failed()) status = group.round(slab);
    });
    RING_TRY(status);
    (*bytes_per_second)[at] = static_cast<double>(group.round_bytes()) / taken;
  }
  return {};
}

struct Multiplying::Running {
  Running(const Kernels& kernels, int threads) : group(kernels, Math::f32, threads) {}

  ~Running() { end(); }

  void end() {
    ends.store(true, std::memory_order_relaxed);
    if (thread.joinable()) thread.join();
  }

  void run() {
    while (!ends.load(std::memory_order_relaxed) && !status.failed())
      status = group.round(slab), bytes += group.round_bytes();
  }

  Group group;
  Slab slab;
  // Of the thread; read once it has ended.
  Status status;
  uint64_t bytes = 0;
  std::atomic<bool> ends{false};
  std::thread thread;
  double begin = 0;
};

Multiplying::Multiplying() = default;

Multiplying::~Multiplying() = default;

Status Multiplying::start(int threads) {
  const Kernels* kernels;
  RING_TRY(usual_kernels(&kernels));
  auto running = std::make_unique<Running>(*kernels, threads_of(threads));
  RING_TRY(fill_experts(running->group.pool(), running->slab));
  running->group.prepare(1);
  RING_TRY(running->group.round(running->slab));
  running_ = std::move(running);
  running_->begin = now();
  running_->thread = std::thread([one = running_.get()] { one->run(); });
  return {};
}

Status Multiplying::stop(double* bytes_per_second) {
  Running& running = *running_;
  running.end();
  const Status status = running.status;
  *bytes_per_second = static_cast<double>(running.bytes) / (now() - running.begin);
  running_.reset();
  return status;
}

}  // namespace ring::cpu
