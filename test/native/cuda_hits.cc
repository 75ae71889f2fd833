// Layers of the CUDA backend that run without the host, on the emulation: the bits of layers that
// it looks after, however many experts have slots, and one graph for a token whose experts all do.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <mutex>
#include <thread>
#include <vector>

#include "cuda/graphs.h"
#include "cudas.h"
#include "cudasessions.h"

using namespace ring;
using namespace ring::test;

namespace {

// After a prompt of two sequences: single tokens of either and of both, and a short piece.
std::vector<std::vector<Piece>> later_steps() {
  std::vector<std::vector<Piece>> steps;
  for (int i = 0; i < 2; ++i) steps.push_back({{{i * 7 + 3}, 9 + i, 0}, {{i * 5 + 1}, 4 + i, 20}});
  for (int i = 0; i < 4; ++i) steps.push_back({{{i * 3 + 2}, 11 + i, 0}});
  steps.push_back({{ids_of(9, 4), 15, 0}, {{8}, 6, 20}});
  return steps;
}

void speak_prompt(Session& session) { session.run({{ids_of(9, 1), 0, 0}, {ids_of(4, 2), 0, 20}}); }

std::vector<Result> watched(const Model& model, InRam in_ram = {}) {
  Session session(ring_backend(), model, Dtype::bf16, 36, in_ram);
  speak_prompt(session);
  std::vector<Result> results;
  for (const std::vector<Piece>& pieces : later_steps()) results.push_back(session.run(pieces));
  return results;
}

// Returns how many layers stopped.
int require_same_by_hits(const Model& model, const std::vector<Result>& expected, int slots,
                         const Waves& waves, const char* what, InRam in_ram = {}) {
  Session session(ring_backend(), model, Dtype::bf16, slots, in_ram);
  speak_prompt(session);
  size_t step = 0;
  int stops = 0;
  for (const std::vector<Piece>& pieces : later_steps())
    require_same(session.run_hits(pieces, waves, &stops), expected[step++], what);
  return stops;
}

// Every expert has its slot.
void fill_all(Session& session, const Model& model) {
  uint64_t ticket = 0;
  for (int32_t expert = 0; expert < (kLayers - 1) * kExperts; ++expert) {
    require_ok(session.backend().fill(session.self(), expert, expert,
                                      &model.experts[static_cast<size_t>(expert)], &ticket));
  }
  for (uint64_t done = 0; done < ticket;)
    require_ok(session.backend().filled(session.self(), &done));
}

}  // namespace

RING_CASE(cuda_hits,
          "cuda: layers by themselves have the bits of others, for any number of slots") {
  struct Way {
    const char* products;
    const Format& format;
    std::vector<int> slots;
  };
  for (const Way& way : {Way{"tensor", kBlocksOf128, {36, 20, 4}}, Way{"tensor", kRowScales, {30}},
                         Way{"tensor", kBf16, {36}}, Way{"plain", kBlocksOf128, {20}}}) {
    const Setting setting("RING_CUDA_KERNELS", way.products);
    const RandomModel random(way.format);
    const std::vector<Result> expected = watched(random.model);
    for (const int slots : way.slots) {
      const uint64_t before = emulated::counts().graphs;
      const int stops =
          require_same_by_hits(random.model, expected, slots, {3, slots == 20}, way.products);
      require(slots == 36 ? emulated::counts().graphs > before : stops > 0, "%d slots: %d stops",
              slots, stops);
    }
  }
}

RING_CASE(cuda_hits_stopped, "cuda: a graph that is stopped leaves what the host goes on from") {
  const RandomModel random(kBlocksOf128);
  Session session(ring_backend(), random.model, Dtype::bf16, 36);
  const std::vector<Piece> token = {{{4}, 0, 0}};
  const Result expected = session.run(token);
  int stops = 0;
  for (int round = 0; round < 4; ++round)
    require_same(session.run_hits(token, {}, &stops), expected, "hits");
  require(stops == 0, "%d layers stopped", stops);
  for (int32_t slot = 0; slot < 36; ++slot) session.backend().give_up(session.self(), slot);
  const uint64_t before = emulated::counts().graphs;
  require_same(session.run_hits(token, {}, &stops), expected, "misses");
  require(stops == kLayers - 1 && emulated::counts().graphs == before + 1, "%d layers stopped",
          stops);
}

RING_CASE(cuda_hits_shared,
          "cuda: layers by themselves, shared experts of another shape or format") {
  for (const bool is_wide : {true, false}) {
    const RandomModel random(kBlocksOf128, true, is_wide ? 64 : kWidth, is_wide ? nullptr : &kBf16);
    require_same_by_hits(random.model, watched(random.model), 36, {}, "another shared expert");
  }
}

RING_CASE(cuda_hits_in_ram,
          "cuda: layers by themselves behind those whose MLP the processor computes") {
  const RandomModel random(kBlocksOf128);
  for (const InRam in_ram :
       {InRam{true, 0}, InRam{true, 1}, InRam{true, 3}, InRam{false, kLayers}}) {
    const std::vector<Result> expected = watched(random.model, in_ram);
    const uint64_t before = emulated::counts().graphs;
    const int stops = require_same_by_hits(random.model, expected, 36, {}, "in RAM", in_ram);
    require(in_ram.mlps == kLayers || emulated::counts().graphs > before, "%d MLPs: no graph",
            in_ram.mlps);
    // Shared experts in RAM stop their layers.
    require(stops >= static_cast<int>(later_steps().size()) * std::max(0, in_ram.mlps - 1),
            "%d stops", stops);
    require_same_by_hits(random.model, expected, 7, {2, true}, "in RAM, few slots", in_ram);
  }
}

RING_CASE(cuda_hits_late,
          "cuda: layers by themselves, copies late and kernels at the last moment") {
  const RandomModel random(kRowScales);
  const std::vector<Result> expected = watched(random.model);
  for (const char* delay : {"0", "200"}) {
    const Setting setting("RING_DELAY_US", delay);
    require_same_by_hits(random.model, expected, 7, {2, true}, delay);
  }
}

RING_CASE(cuda_hits_scores, "cuda: layers by themselves tell the scores that their routers gave") {
  const RandomModel random(kBlocksOf128);
  Session session(ring_backend(), random.model, Dtype::bf16, 36);
  const Result found = session.run_hits({{ids_of(3, 5), 0, 0}});
  require_ok(session.begin({{ids_of(3, 5), 0, 0}}));
  std::vector<uint16_t> experts(3 * kTopK);
  std::vector<float> weights(3 * kTopK), scores(3 * kExperts);
  Result unused;
  session.attend(0, unused);
  require_ok(session.backend().attend(session.self(), 0, 1));
  require_ok(
      session.backend().route(session.self(), 0, 1, experts.data(), weights.data(), scores.data()));
  require(std::equal(scores.begin(), scores.end(), found.scores.begin()), "other scores");
  for (const float score : found.scores) require(score > 0 && score < 1, "a layer told nothing");
}

RING_CASE(cuda_hits_graph, "cuda: a token whose experts all have slots is one graph and one wait") {
  const RandomModel random(kBlocksOf128);
  Session session(ring_backend(), random.model, Dtype::bf16, 36);
  fill_all(session, random.model);
  int stops = 0;
  for (int i = 0; i < 3; ++i) session.run_hits({{{i}, i, 0}}, {}, &stops);
  require(stops == 0, "%d layers stopped", stops);
  require_ok(session.begin({{{4}, 3, 0}}));
  std::vector<uint16_t> experts((kLayers - 1) * kTopK);
  std::vector<float> weights(experts.size());
  HitRun run = {0, experts.data(), weights.data(), nullptr};
  const emulated::Counts before = emulated::counts();
  require_ok(session.backend().run_hits(session.self(), 0, 0, &run));
  const emulated::Counts after = emulated::counts();
  require(run.stopped == kLayers, "layer %d stopped", run.stopped);
  require(after.graphs - before.graphs == 1 && after.waits - before.waits == 1 &&
              after.kernels == before.kernels,
          "%llu graphs, %llu waits and %llu kernels",
          static_cast<unsigned long long>(after.graphs - before.graphs),
          static_cast<unsigned long long>(after.waits - before.waits),
          static_cast<unsigned long long>(after.kernels - before.kernels));
}

RING_CASE(cuda_hits_pinning,
          "cuda: memory is pinned and tokens are recorded, at the same time and not at once") {
  const RandomModel random(kBlocksOf128);
  Session alone(ring_backend(), random.model, Dtype::bf16, 36);
  const Result expected = alone.run({{{4}, 0, 0}});
  Session session(ring_backend(), random.model, Dtype::bf16, 36);
  fill_all(session, random.model);
  const Setting setting("RING_EMULATED_PIN_US", "300");
  constexpr int kRanges = 4000;
  // Whole pages: two ranges on one would be refused.
  std::vector<uint8_t> memory((kRanges + 1) << 12);
  const uint8_t* const pages = memory.data() + (-reinterpret_cast<uintptr_t>(memory.data()) & 4095);
  std::atomic<bool> is_over{false};
  int tried = 0, pinned = 0;
  std::thread pinning([&] {
    for (; tried < kRanges && !is_over; ++tried) {
      const uint8_t* range = pages + (static_cast<size_t>(tried) << 12);
      if (!session.backend().lend(session.self(), range, 1 << 12).failed()) ++pinned;
    }
  });
  // Each number of tokens is recorded when it comes for the second time, or later.
  const auto speak = [&](int tokens) { session.run_hits({{ids_of(tokens, 1), 0, 0}}); };
  for (int round = 0; round < 8; ++round) {
    for (int tokens = 1; tokens <= 4; ++tokens) speak(tokens);
  }
  is_over = true;
  pinning.join();
  require(tried > 0 && pinned == tried, "%d of %d ranges are pinned", pinned, tried);
  speak(1);
  const uint64_t before = emulated::counts().graphs;
  require_same(session.run_hits({{{4}, 0, 0}}), expected, "recorded");
  require(emulated::counts().graphs == before + 1, "nothing is recorded any more");
}

RING_CASE(cuda_hits_gone, "cuda: an expert whose slot is given up, or being filled, is no hit") {
  const RandomModel random(kBlocksOf128);
  Session session(ring_backend(), random.model, Dtype::bf16, 36);
  fill_all(session, random.model);
  const auto stops_at = [&] {
    require_ok(session.begin({{{4}, 0, 0}}));
    Result result;
    result.experts.resize((kLayers - 1) * kTopK);
    result.weights.resize(result.experts.size());
    HitRun run = {0, result.experts.data(), result.weights.data(), nullptr};
    require_ok(session.backend().run_hits(session.self(), 0, 0, &run));
    return std::pair(run.stopped, result.experts);
  };
  const auto [all, chosen] = stops_at();
  require(all == kLayers, "layer %d stops", all);
  const int32_t second = kExperts + chosen[kTopK + 1];  // of the second MoE layer
  session.backend().give_up(session.self(), second);
  require(stops_at().first == 2, "what is given up is a hit");
  uint64_t ticket = 0, done = 0;
  require_ok(session.backend().fill(session.self(), second, second,
                                    &random.model.experts[static_cast<size_t>(second)], &ticket));
  require(stops_at().first == 2, "what has not been told is a hit");
  while (done < ticket) require_ok(session.backend().filled(session.self(), &done));
  require(stops_at().first == kLayers, "what has been filled is none");
}

RING_CASE(cuda_hits_damage, "cuda: layers by themselves report an FP8 NaN code where others do") {
  RandomModel random(kBlocksOf128);
  random.bytes_of(random.model.layers[2].qkv)[17] = 0x7f;
  Session session(ring_backend(), random.model, Dtype::bf16, 36);
  fill_all(session, random.model);
  require_ok(session.begin({{{4}, 0, 0}}));
  Result result;
  result.experts.resize((kLayers - 1) * kTopK);
  result.weights.resize(result.experts.size());
  HitRun run = {0, result.experts.data(), result.weights.data(), nullptr};
  require_ok(session.backend().run_hits(session.self(), 0, 0, &run));
  const Status told = session.sample(result);
  require(told.code == Code::not_a_number && strstr(told.text, "layer 2") != nullptr, "it says: %s",
          told.text);
}

RING_CASE(cuda_graphs, "cuda: chains are recorded when they come again, and as many as are kept") {
  cuda::Graphs graphs;
  std::mutex undisturbed;
  const OnGpu<int32_t> words(1);
  int puts = 0;
  const auto run = [&](int tokens) {
    const uint64_t before = emulated::counts().graphs;
    require_ok(graphs.run({0, tokens, 256}, test_stream(), undisturbed, [&]() -> Status {
      ++puts;
      RING_GPU(cudaMemsetAsync(words.data(), tokens, sizeof(int32_t), test_stream()));
      return {};
    }));
    require(words.read()[0] == tokens * 0x01010101, "the chain has not run");
    return emulated::counts().graphs - before;
  };
  for (int round = 0; round < 4; ++round) {
    for (const int tokens : {1, 2}) require(run(tokens) == (round == 0 ? 0 : 1), "round %d", round);
  }
  require(puts == 4, "%d puts", puts);
  for (int tokens = 3; tokens < 40; ++tokens) run(tokens);
  require(run(1) == 0 && run(1) == 1, "the first is kept for ever");
}

RING_CASE(cuda_graphs_refused, "cuda: what CUDA does not record runs without a graph") {
  const OnGpu<int32_t> words(1);
  std::vector<int32_t> pageable(1);
  cudaEvent_t event = nullptr;
  require_gpu(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  require_gpu(cudaEventRecord(event, test_stream()));
  const auto fetch = [&] {
    return cudaMemcpyAsync(pageable.data(), words.data(), 4, cudaMemcpyDeviceToHost, test_stream());
  };
  for (int call = 0; call < 5; ++call) {
    cuda::Graphs graphs;
    std::mutex undisturbed;
    for (int round = 0; round < 3; ++round) {
      const uint64_t before = emulated::counts().graphs;
      require_ok(graphs.run({0, 1, 256}, test_stream(), undisturbed, [&]() -> Status {
        void* memory = nullptr;
        RING_GPU(cudaMemsetAsync(words.data(), round, sizeof(int32_t), test_stream()));
        if (call == 0) RING_GPU(cudaMalloc(&memory, 16));
        if (call == 1) RING_GPU(cudaStreamSynchronize(test_stream()));
        if (call == 2) RING_GPU(fetch());
        if (call == 3) RING_GPU(cudaStreamWaitEvent(test_stream(), event, 0));
        if (call == 4) RING_GPU(cudaEventQuery(event));
        RING_GPU(cudaFree(memory));
        return {};
      }));
      require(emulated::counts().graphs == before, "call %d is recorded", call);
      require(words.read()[0] == round * 0x01010101, "call %d: the chain has not run", call);
    }
  }
  require_gpu(cudaEventDestroy(event));
}
