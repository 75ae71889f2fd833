// The CUDA backend through its table, on the emulation or on hardware: a random model gives what
// the CPU backend gives, and the same bits whatever lies in which slot, in whatever groups experts
// come, whatever is computed beside a sequence, and however late copies are.
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "cpu/hosted.h"
#include "cudas.h"
#include "cudasessions.h"

using namespace ring;
using namespace ring::test;

extern "C" const Backend* ring_backend();

namespace {

// Only the emulation can be late, or short of memory, when it is told to.
void require_emulation() {
  if (!is_emulation()) skip("hardware cannot be told to");
}

// A prompt of two sequences and a few tokens of each after it.
std::vector<Result> speak(Session& session, const Waves& waves = {}, uint64_t seed = 1) {
  const std::vector<int32_t> first = ids_of(30, seed), second = ids_of(7, seed + 1);
  std::vector<Result> results = {session.run({{first, 0, 0}, {second, 0, 20}}, waves)};
  for (int i = 0; i < 3; ++i) {
    results.push_back(session.run(
        {{{(i * 7 + 3) % kVocabulary}, 30 + i, 0}, {{(i * 5 + 1) % kVocabulary}, 7 + i, 20}},
        waves));
  }
  return results;
}

}  // namespace

RING_CASE(cuda_probe, "cuda: the probe finds a device, its memory and its capability") {
  BackendProbe probe;
  require(ring_probe(&probe) == 0, "it says: %s", probe.reason);
  require(probe.memory_bytes > 0 && probe.free_bytes > 0 && probe.compute_major >= 8 &&
              strlen(probe.driver) >= 4 && probe.name[0] != '\0',
          "it leaves out something");
  require(ring_backend()->version == kBackendVersion, "the table has another version");
}

namespace {

// Of a prompt that meets no near tie in any router: activations in F16 would decide it otherwise.
constexpr uint64_t kCertain = 11;

}  // namespace

RING_CASE(cuda_as_cpu, "cuda: routes, log-probabilities and tokens are the CPU backend's") {
  for (const char* products : {"plain", "tensor"}) {
    const Setting setting("RING_CUDA_KERNELS", products);
    for (const Format& format : {kBlocksOf128, kRowScales, kBf16}) {
      for (const Dtype kv : {Dtype::bf16, Dtype::f32}) {
        if (kv == Dtype::bf16 && format.dtype == Dtype::bf16) continue;
        const RandomModel random(format, format.dtype == Dtype::bf16);
        Session cpu(cpu_backend(), random.model, kv, 0);
        Session gpu(ring_backend(), random.model, kv, 36);
        const std::vector<Result> expected = speak(cpu, {}, kCertain),
                                  found = speak(gpu, {}, kCertain);
        // Keys and values that round to the other BF16 neighbour weigh more than F32 products.
        const double most = strcmp(products, "tensor") == 0 ? 5e-3
                            : kv == Dtype::bf16             ? 2e-3
                                                            : 2e-5;
        for (size_t i = 0; i < expected.size(); ++i) {
          require(found[i].experts == expected[i].experts, "%s, %s, step %zu: routes otherwise",
                  products, format.name, i);
          require(found[i].next == expected[i].next, "%s, %s, step %zu: another token", products,
                  format.name, i);
          const double off = difference(found[i], expected[i]);
          require_error(off, most, format.name);
        }
      }
    }
  }
}

RING_CASE(cuda_slots,
          "cuda: the same bits for every number of slots, grouping and order of experts") {
  for (const char* products : {"plain", "tensor"}) {
    const Setting setting("RING_CUDA_KERNELS", products);
    const RandomModel random(kBlocksOf128);
    Session all(ring_backend(), random.model, Dtype::bf16, 36);
    const std::vector<Result> expected = speak(all);
    struct Way {
      int slots;
      Waves waves;
    };
    for (const Way& way : {Way{36, {1, true}}, Way{5, {5, false}}, Way{3, {2, true}}, Way{1, {}}}) {
      Session some(ring_backend(), random.model, Dtype::bf16, way.slots);
      const std::vector<Result> found = speak(some, way.waves);
      for (size_t i = 0; i < found.size(); ++i) require_same(found[i], expected[i], products);
    }
  }
}

RING_CASE(cuda_late,
          "cuda: the same bits when copies are late and kernels run at the last moment") {
  require_emulation();
  const RandomModel random(kRowScales);
  Session prompt(ring_backend(), random.model, Dtype::bf16, 36);
  const std::vector<Result> expected = speak(prompt);
  for (const char* delay : {"0", "300"}) {
    const Setting setting("RING_DELAY_US", delay);
    Session late(ring_backend(), random.model, Dtype::bf16, 2);
    const std::vector<Result> found = speak(late);
    for (size_t i = 0; i < found.size(); ++i) require_same(found[i], expected[i], delay);
  }
}

RING_CASE(cuda_large,
          "cuda: the same bits for a prompt in one large step, in small ones and by token") {
  const RandomModel random(kBlocksOf128);
  const std::vector<int32_t> ids = ids_of(150, 3);
  const auto piece = [&](int begin, int end) {
    return Piece{std::vector<int32_t>(ids.begin() + begin, ids.begin() + end), begin, 4};
  };
  Session session(ring_backend(), random.model, Dtype::bf16, 12);
  const Result large = session.run({piece(0, 150)}, {4, false});
  session.run({piece(0, 100)}, {12, true});
  const Result small = session.run({piece(100, 150)}, {5, true});
  require(large.logits == small.logits, "two steps give other bits");
  session.run({piece(100, 149)});
  const Result single = session.run({piece(149, 150)});
  require(large.logits == single.logits, "a token alone gives other bits");
  const Result among =
      session.run({{ids_of(9, 4), 0, 30}, piece(149, 150), {ids_of(3, 5), 0, 35}}, {2, true});
  require(std::equal(large.logits.begin(), large.logits.end(), among.logits.begin() + kVocabulary),
          "a token among others gives other bits");
}

RING_CASE(cuda_ahead, "cuda: looking ahead scores as the CPU does, and changes nothing") {
  const Setting setting("RING_CUDA_KERNELS", "plain");
  const RandomModel random(kBlocksOf128);
  Session cpu(cpu_backend(), random.model, Dtype::f32, 0);
  Session gpu(ring_backend(), random.model, Dtype::f32, 36);
  Session quiet(ring_backend(), random.model, Dtype::f32, 36);
  const std::vector<Piece> pieces = {{ids_of(6, 6), 0, 0}, {ids_of(5, 7), 0, 9}};
  const Result expected = quiet.run(pieces);
  Session* const both[] = {&cpu, &gpu};
  Result results[2];
  for (Session* session : both) require_ok(session->begin(pieces));
  const size_t tokens = 11;
  for (int layer = 0; layer < kLayers; ++layer) {
    std::vector<int32_t> wanted[2];
    for (int b = 0; b < 2; ++b) wanted[b] = both[b]->attend(layer, results[b]);
    if (layer == 0) continue;
    for (int b = 0; b < 2; ++b) require_ok(both[b]->backend().share(both[b]->self(), 0, layer));
    const size_t half = wanted[0].size() / 2;
    // With none of the experts, with some, and behind the next layer's attention.
    for (const size_t mixed : {size_t{0}, half}) {
      for (int b = 0; b < 2; ++b) {
        if (mixed > 0) both[b]->mix(layer, {wanted[b].begin(), wanted[b].begin() + half}, {});
      }
      for (const bool attended : {false, true}) {
        if (layer + 1 >= kLayers) continue;
        std::vector<uint16_t> experts[2];
        std::vector<float> scores[2];
        for (int b = 0; b < 2; ++b) {
          const Backend& backend = both[b]->backend();
          experts[b].resize(tokens * kTopK);
          scores[b].resize(tokens * kExperts);
          if (attended) require_ok(backend.attend_ahead(both[b]->self(), 0, layer));
          require_ok(backend.look_ahead(both[b]->self(), 0, layer, kLayers - 1, attended,
                                        experts[b].data(), scores[b].data()));
        }
        require(experts[0] == experts[1], "layer %d: other experts", layer);
        for (size_t i = 0; i < scores[0].size(); ++i) {
          require(std::fabs(scores[0][i] - scores[1][i]) <= 1e-5, "layer %d: score %g, not %g",
                  layer, static_cast<double>(scores[1][i]), static_cast<double>(scores[0][i]));
        }
      }
    }
    for (int b = 0; b < 2; ++b) {
      both[b]->mix(layer, {wanted[b].begin() + half, wanted[b].end()}, {});
      require_ok(both[b]->backend().settle(both[b]->self(), 0, layer));
    }
  }
  require_ok(gpu.sample(results[1]));
  require_same(results[1], expected, "after looking ahead");
}

RING_CASE(cuda_in_ram, "cuda: weights that stay in RAM give what they give on the GPU") {
  const Setting setting("RING_CUDA_KERNELS", "plain");
  for (const Format& format : {kBlocksOf128, kBf16}) {
    const RandomModel random(format);
    Session all(ring_backend(), random.model, Dtype::f32, 36);
    const std::vector<Result> expected = speak(all, {}, kCertain);
    // The head; the dense MLP; and shared experts, of one layer or all.
    for (const InRam in_ram :
         {InRam{true, 0}, InRam{true, 1}, InRam{false, 2}, InRam{true, kLayers + 1}}) {
      Session some(ring_backend(), random.model, Dtype::f32, 36, in_ram);
      const std::vector<Result> found = speak(some, {}, kCertain);
      for (size_t i = 0; i < found.size(); ++i) {
        require(found[i].experts == expected[i].experts && found[i].next == expected[i].next,
                "%s, %d MLPs, step %zu: another token", format.name, in_ram.mlps, i);
        require_error(difference(found[i], expected[i]), 2e-5, format.name);
      }
      require(in_ram.mlps == 0 || strstr(some.backend().identify(some.self()), "processor"),
              "what is kept of it is taken for the GPU's");
    }
  }
}

RING_CASE(cuda_in_ram_bits,
          "cuda: weights that stay in RAM give the same bits by the prompt and by token") {
  const RandomModel random(kBlocksOf128);
  const std::vector<int32_t> ids = ids_of(150, 3);
  Session session(ring_backend(), random.model, Dtype::bf16, 12, {true, 3});
  const auto piece = [&](int begin, int end) {
    return Piece{std::vector<int32_t>(ids.begin() + begin, ids.begin() + end), begin, 4};
  };
  const Result large = session.run({piece(0, 150)}, {4, false});
  session.run({piece(0, 149)}, {12, true});
  require_same(Result{session.run({piece(149, 150)}).logits, {}, {}, {}, {}},
               Result{large.logits, {}, {}, {}, {}}, "a token alone");
}

RING_CASE(cuda_kv_blocks,
          "cuda: a copied, a fetched and a returned KV block hold what was computed") {
  const RandomModel random(kRowScales);
  for (const Dtype kv : {Dtype::bf16, Dtype::f32}) {
    Session session(ring_backend(), random.model, kv, 36);
    const std::vector<int32_t> ids = ids_of(13, 8);
    session.run({{ids, 0, 0}});
    const Result expected = session.run({{{5}, 13, 0}});
    const Backend& backend = session.backend();
    backend.copy_kv(session.self(), 0, 20, kBlockTokens);
    backend.copy_kv(session.self(), 1, 21, 5);
    require_same(session.run({{{5}, 13, 20}}), expected, "copied");
    const size_t each = size_t{kLayers} * 2 * 2 * 16 * (kv == Dtype::f32 ? 4 : 2);
    std::vector<uint8_t> first(each * kBlockTokens), second(each * 5);
    backend.read_kv(session.self(), 0, kBlockTokens, first.data());
    backend.read_kv(session.self(), 1, 5, second.data());
    session.run({{ids_of(20, 9), 0, 40}});
    backend.write_kv(session.self(), 40, kBlockTokens, first.data());
    backend.write_kv(session.self(), 41, 5, second.data());
    require_same(session.run({{{5}, 13, 40}}), expected, "written back");
    // The same bytes in the same order as the CPU's, up to rounding.
    Session cpu(cpu_backend(), random.model, kv, 0);
    cpu.run({{ids, 0, 0}});
    std::vector<uint8_t> of_cpu(first.size());
    cpu.backend().read_kv(cpu.self(), 0, kBlockTokens, of_cpu.data());
    const size_t count = first.size() / (kv == Dtype::f32 ? 4 : 2);
    Error error;
    for (size_t i = 0; i < count; ++i) {
      const auto value = [&](const std::vector<uint8_t>& bytes) {
        float wide = 0;
        if (kv == Dtype::f32)
          memcpy(&wide, &bytes[4 * i], 4);
        else
          memcpy(reinterpret_cast<uint8_t*>(&wide) + 2, &bytes[2 * i], 2);
        return static_cast<double>(wide);
      };
      error.add(value(first), value(of_cpu), 1);
    }
    require_error(error.relative(), 5e-3, "blocks");
  }
}

RING_CASE(cuda_damage, "cuda: an FP8 NaN code is reported at the layer where the CPU reports it") {
  for (const char* products : {"plain", "tensor"}) {
    const Setting setting("RING_CUDA_KERNELS", products);
    for (const int where : {0, 1, 2}) {
      RandomModel random(kBlocksOf128);
      const Model& m = random.model;
      const Matrix& damaged = where == 0   ? m.layers[1].qkv
                              : where == 1 ? m.layers[2].mlp.down
                                           : m.layers[0].mlp.gate;
      random.bytes_of(damaged)[17] = 0x7f;
      Session cpu(cpu_backend(), m, Dtype::bf16, 0), gpu(ring_backend(), m, Dtype::bf16, 36);
      Status told[2];
      Session* const both[] = {&cpu, &gpu};
      for (int b = 0; b < 2; ++b) {
        Result result;
        require_ok(both[b]->begin({{ids_of(5, 1), 0, 0}}));
        for (int layer = 0; layer < kLayers; ++layer) {
          const std::vector<int32_t> wanted = both[b]->attend(layer, result);
          if (wanted.empty()) continue;
          require_ok(both[b]->backend().share(both[b]->self(), 0, layer));
          both[b]->mix(layer, wanted, {});
          require_ok(both[b]->backend().settle(both[b]->self(), 0, layer));
        }
        told[b] = both[b]->sample(result);
      }
      require(told[1].code == Code::not_a_number && strcmp(told[0].text, told[1].text) == 0,
              "%s: says \"%s\", and the CPU \"%s\"", products, told[1].text, told[0].text);
      // The next step starts afresh.
      require_ok(gpu.begin({{ids_of(5, 1), 0, 0}}));
    }
  }
}

RING_CASE(cuda_absent, "cuda: an expert without weights adds nothing, as on the CPU") {
  const Setting setting("RING_CUDA_KERNELS", "plain");
  const RandomModel random(kBlocksOf128);
  Session cpu(cpu_backend(), random.model, Dtype::f32, 0);
  Session gpu(ring_backend(), random.model, Dtype::f32, 36);
  Session* const both[] = {&cpu, &gpu};
  Result results[2];
  for (int b = 0; b < 2; ++b) {
    require_ok(both[b]->begin({{ids_of(9, 3), 0, 0}}));
    for (int layer = 0; layer < kLayers; ++layer) {
      std::vector<int32_t> wanted = both[b]->attend(layer, results[b]);
      if (wanted.empty()) continue;
      require_ok(both[b]->backend().share(both[b]->self(), 0, layer));
      const ReadyExpert absent = {wanted[1], nullptr};
      require_ok(both[b]->backend().mix(both[b]->self(), 0, layer, &absent, 1));
      wanted.erase(wanted.begin() + 1);
      both[b]->mix(layer, wanted, {});
      require_ok(both[b]->backend().settle(both[b]->self(), 0, layer));
    }
    require_ok(both[b]->sample(results[b]));
  }
  require(results[0].experts == results[1].experts, "it routes otherwise");
  require_error(difference(results[1], results[0]), 2e-5, "logits");
}

RING_CASE(cuda_refusals,
          "cuda: what lies in no slot, or in another's, is refused and not computed with") {
  const RandomModel random(kBlocksOf128);
  Session session(ring_backend(), random.model, Dtype::bf16, 4);
  const Backend& backend = session.backend();
  Result result;
  require_ok(session.begin({{ids_of(2, 3), 0, 0}}));
  session.attend(0, result);
  const std::vector<int32_t> wanted = session.attend(1, result);
  const auto mixes = [&](int32_t slot) {
    const ReadyExpert ready = {wanted[0], &random.model.experts[wanted[0]], slot};
    return backend.mix(session.self(), 0, 1, &ready, 1);
  };
  uint64_t ticket = 0;
  const auto fills = [&](int32_t slot, int32_t expert) {
    const int32_t known = std::clamp(expert, 0, 35);
    return backend.fill(session.self(), slot, expert, &random.model.experts[known], &ticket);
  };
  require(mixes(-1).code == Code::bad_argument, "weights in RAM are taken");
  require(mixes(0).code == Code::bad_argument, "an empty slot is taken");
  require(mixes(4).code == Code::bad_argument, "a slot that is not there is taken");
  require_ok(fills(0, wanted[0] + kExperts));
  while (backend.filled(session.self(), &ticket).code == Code::ok && ticket < 1) usleep(50);
  require(mixes(0).code == Code::bad_argument, "the same expert of another layer is taken");
  require(fills(4, 0).code == Code::bad_order, "a slot that is not there is filled");
  require(fills(1, 36).code == Code::bad_order, "an expert that is not there is copied");
  require_ok(fills(0, wanted[0]));
  while (backend.filled(session.self(), &ticket).code == Code::ok && ticket < 2) usleep(50);
  require_ok(mixes(0));
}

RING_CASE(cuda_coming, "cuda: experts that are still being copied are computed as they come") {
  for (const Format* format : {&kBlocksOf128, &kBf16}) {
    const RandomModel random(*format);
    const std::vector<Piece> pieces = {{ids_of(9, 1), 0, 0}, {ids_of(2, 5), 0, 20}};
    Session expected(ring_backend(), random.model, Dtype::bf16, 36);
    const Result whole = expected.run(pieces);
    for (const char* delay : {"0", "300"}) {
      const Setting setting("RING_DELAY_US", delay);
      for (const int slots : {36, 7}) {
        Session session(ring_backend(), random.model, Dtype::bf16, slots);
        session.waits = false;
        require_same(session.run(pieces, {3, slots == 7}), whole, delay);
      }
    }
  }
}

RING_CASE(cuda_hosted, "cuda: experts that were computed elsewhere are added with the others") {
  const Setting setting("RING_CUDA_KERNELS", "plain");
  const RandomModel random(kBlocksOf128);
  const std::vector<Piece> pieces = {{ids_of(3, 1), 0, 0}, {{7}, 0, 20}};
  Session expected(ring_backend(), random.model, Dtype::bf16, 36);
  Session session(ring_backend(), random.model, Dtype::bf16, 36);
  const Result whole = expected.run(pieces);
  Result result;
  require_ok(session.begin(pieces));
  HostExperts host;
  Limits limits{};
  limits.threads = 1;
  require_ok(host.open(random.model, limits));
  for (int layer = 0; layer < kLayers; ++layer) {
    const size_t before = result.experts.size();
    std::vector<int32_t> wanted = session.attend(layer, result);
    if (wanted.empty()) continue;
    const Backend& backend = session.backend();
    const uint16_t* chosen = &result.experts[before];
    std::vector<float> input(static_cast<size_t>(session.tokens()) * kHidden);
    require_ok(backend.read_input(session.self(), 0, input.data()));
    // Two of them, one from each end.
    const std::vector<int32_t> elsewhere = {wanted.front(), wanted.back()};
    std::vector<ReadyExpert> ready;
    for (const int32_t expert : elsewhere)
      ready.push_back(
          {expert, &random.model.experts[static_cast<size_t>((layer - 1) * kExperts + expert)]});
    require_ok(host.compute(input.data(), session.tokens(), chosen, ready.data(), 2));
    std::vector<int32_t> pairs;
    std::vector<float> outputs;
    for (int32_t pair = 0; pair < session.tokens() * kTopK; ++pair) {
      if (chosen[pair] != elsewhere[0] && chosen[pair] != elsewhere[1]) continue;
      pairs.push_back(pair);
      outputs.insert(outputs.end(), host.output(pair), host.output(pair) + kHidden);
    }
    wanted.erase(wanted.begin());
    wanted.pop_back();
    require_ok(backend.share(session.self(), 0, layer));
    session.mix(layer, wanted, {});
    require_ok(backend.take_outputs(session.self(), 0, pairs.data(),
                                    static_cast<int32_t>(pairs.size()), outputs.data()));
    require_ok(backend.settle(session.self(), 0, layer));
  }
  require_ok(session.sample(result));
  require(result.experts == whole.experts, "it routes otherwise");
  require_error(difference(result, whole), 2e-5, "logits");
}

RING_CASE(cuda_filling,
          "cuda: a slot that is being filled is not filled again, and may be computed with") {
  require_emulation();
  const Setting setting("RING_DELAY_US", "20000");
  const RandomModel random(kBlocksOf128);
  Session session(ring_backend(), random.model, Dtype::bf16, 2);
  const Backend& backend = session.backend();
  Result result;
  require_ok(session.begin({{ids_of(2, 3), 0, 0}}));
  session.attend(0, result);
  const int32_t expert = session.attend(1, result)[0];
  const Mlp* weights = &random.model.experts[expert];
  uint64_t ticket = 0;
  require_ok(backend.fill(session.self(), 0, expert, weights, &ticket));
  const ReadyExpert ready = {expert, weights, 0};
  require_ok(backend.mix(session.self(), 0, 1, &ready, 1));
  require(backend.fill(session.self(), 0, 0, weights, &ticket).code == Code::bad_order,
          "it is filled");
  require_ok(backend.filled(session.self(), &ticket));
  require(ticket == 0, "it is filled already");
  while (ticket < 1) require_ok(backend.filled(session.self(), &ticket));
  require_ok(backend.mix(session.self(), 0, 1, &ready, 1));
}

RING_CASE(cuda_memory, "cuda: where the GPU has too little memory, opening says for what") {
  require_emulation();
  const Setting setting("RING_EMULATED_MEMORY", "200000");
  const RandomModel random(kBlocksOf128);
  Limits limits{};
  limits.step_tokens = limits.parts = 4;
  limits.context = limits.kv_block_tokens = limits.kv_blocks = 16;
  limits.kv_dtype = Dtype::bf16;
  void* self = nullptr;
  const Status status = ring_backend()->open(&random.model, &limits, &self);
  require(status.code == Code::out_of_memory && self == nullptr, "it opened");
  require(strstr(status.text, "GB left for") != nullptr, "it says: %s", status.text);
}
