// A random model, and a session that runs steps of it on a backend through the table: the part of
// the device, with experts in slots of the backend's own or where they lie. It judges nothing but
// what a backend must never refuse.
#pragma once
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "backend.h"
#include "cpu/processor.h"
#include "harness.h"
#include "reference.h"

namespace ring::test {

constexpr int kLayers = 4, kHidden = 64, kExperts = 12, kTopK = 3, kWidth = 32, kVocabulary = 80;
constexpr int kBlockTokens = 8, kContext = 200, kBlocks = 60;
inline const Format kBlocksOf128 = {"FP8 in 128x128 blocks", Dtype::f8_e4m3, 128, 128};
inline const Format kRowScales = {"FP8 with row scales", Dtype::f8_e4m3, 1, 0};
inline const Format kBf16 = {"BF16", Dtype::bf16, 0, 0};

inline void require_ok(const Status& status) { require(!status.failed(), "%s", status.text); }

// A model with one dense layer and three MoE layers, its weights at odd places.
class RandomModel {
 public:
  Model model;

  // `shared`: width and format of the shared experts, as of the others where they are not given.
  explicit RandomModel(const Format& format, bool with_biases = false, int shared_width = kWidth,
                       const Format* shared = nullptr)
      : dice_(90) {
    Shape& s = model.shape;
    s = {};
    s.layers = kLayers;
    s.hidden = kHidden;
    s.heads = 4;
    s.kv_heads = 2;
    s.head_dim = 16;
    s.rotary_dim = 8;
    s.experts = kExperts;
    s.top_k = kTopK;
    s.groups = 4;
    s.groups_kept = 2;
    s.first_moe_layer = 1;
    s.vocabulary = kVocabulary;
    s.sampleable = kVocabulary - 3;
    s.routed_scale = 2.5f;
    s.epsilon = 1e-6f;
    s.rope_magnitude = 1;
    reserve_scales();
    model.embedding = matrix({"F32", Dtype::f32, 0, 0}, kVocabulary, kHidden);
    model.head = matrix(kBf16, kVocabulary, kHidden);
    model.final_norm = vector(kHidden);
    for (int i = 0; i < 4; ++i) model.rope_inverse.push_back(std::pow(10000.0f, -i / 4.0f));
    model.layers.resize(kLayers);
    for (int index = 0; index < kLayers; ++index) {
      LayerWeights& w = model.layers[index];
      w.input_norm = vector(kHidden);
      w.post_norm = vector(kHidden);
      w.query_norm = vector(16);
      w.key_norm = vector(16);
      w.qkv = matrix(format, s.qkv_rows(), kHidden);
      w.attention_out = matrix(format, kHidden, 64);
      if (with_biases) {
        w.qkv_bias = vector(s.qkv_rows());
        w.attention_out_bias = vector(kHidden);
      }
      w.mlp = index == 0 ? mlp(format, 96) : mlp(shared ? *shared : format, shared_width);
      if (index == 0) continue;
      w.router = matrix({"F32", Dtype::f32, 0, 0}, kExperts, kHidden, 10);
      w.router_bias = vector(kExperts, 0.1, 0);
    }
    for (int expert = 0; expert < (kLayers - 1) * kExperts; ++expert)
      model.experts.push_back(mlp(format, kWidth));
  }
  uint8_t* bytes_of(const Matrix& matrix) { return const_cast<uint8_t*>(matrix.data); }

 private:
  void reserve_scales() { model.scales.reserve(1 << 16); }
  Vector vector(int count, double size = 0.2, double mean = 1) {
    Vector values(count);
    for (float& value : values) value = static_cast<float>(mean + size * dice_.gaussian());
    return values;
  }
  Matrix matrix(const Format& format, int rows, int columns, float larger = 4) {
    const size_t gap = static_cast<size_t>(dice_.below(7)) * test::bytes_of(format.dtype);
    matrices_.push_back(std::make_unique<RandomMatrix>(format, rows, columns, dice_, gap));
    Matrix made = matrices_.back()->matrix();
    if (made.dtype == Dtype::f32) {
      auto* values = reinterpret_cast<float*>(matrices_.back()->bytes());
      for (int i = 0; i < rows * columns; ++i) values[i] *= larger;
    }
    if (made.scales == nullptr) return made;
    const size_t count =
        static_cast<size_t>((rows + made.block_rows - 1) / made.block_rows) * made.scale_columns;
    const float* from = made.scales;
    made.scales = model.scales.data() + model.scales.size();
    for (size_t i = 0; i < count; ++i) model.scales.push_back(from[i] * larger);
    return made;
  }
  Mlp mlp(const Format& format, int width) {
    return {matrix(format, width, kHidden), matrix(format, width, kHidden),
            matrix(format, kHidden, width)};
  }

  Dice dice_;
  std::vector<std::unique_ptr<RandomMatrix>> matrices_;
};

// A sequence's tokens, from a position on.
struct Piece {
  std::vector<int32_t> ids;
  int position = 0;
  int first_block = 0;  // its blocks are this one and those behind it
};

struct Result {
  std::vector<float> logits;  // [row][vocabulary], of the last token of every piece
  std::vector<int32_t> next;
  std::vector<uint16_t> experts;  // [MoE layer][token][top_k]
  std::vector<float> weights;
  std::vector<float> scores;  // [MoE layer][token][experts], of run_hits
};

// How a layer's experts come: so many at a time, rising or falling.
struct Waves {
  int at_once = kExperts;
  bool falling = false;
};

// Weights that a backend leaves in RAM: see Limits.
struct InRam {
  bool head = false;
  int mlps = 0;
};

class Session {
 public:
  // slots 0: weights are computed with where they lie.
  Session(const Backend* backend, const Model& model, Dtype kv, int slots, InRam in_ram = {})
      : backend_(backend), model_(model), slots_(slots) {
    Limits limits{};
    limits.step_tokens = 160;
    limits.parts = 4;
    limits.context = kContext;
    limits.kv_blocks = kBlocks;
    limits.kv_block_tokens = kBlockTokens;
    limits.kv_dtype = kv;
    limits.threads = 2;
    limits.head_in_ram = in_ram.head;
    limits.mlps_in_ram = in_ram.mlps;
    if (in_ram.head || in_ram.mlps > 0) {
      require_ok(cpu::lend_processor(model_, limits, &processor_));
      limits.processor = processor_.get();
    }
    require_ok(backend_->open(&model_, &limits, &self_));
    if (slots_ > 0) require_ok(backend_->open_slots(self_, slots_));
    holds_.assign(static_cast<size_t>(slots_), -1);
  }
  ~Session() { backend_->close(self_); }
  void* self() const { return self_; }
  // Whether experts are computed with only when their copies have been told to be done.
  bool waits = true;
  const Backend& backend() const { return *backend_; }

  Status begin(const std::vector<Piece>& pieces, int step = 0) {
    ids_.clear();
    parts_.clear();
    blocks_.clear();
    for (const Piece& piece : pieces) {
      std::vector<int32_t> blocks(kContext / kBlockTokens);
      for (size_t i = 0; i < blocks.size(); ++i)
        blocks[i] = (piece.first_block + static_cast<int32_t>(i)) % kBlocks;
      blocks_.push_back(blocks);
      Part part{};
      part.first_token = static_cast<int32_t>(ids_.size());
      part.tokens = static_cast<int32_t>(piece.ids.size());
      part.position = piece.position;
      part.rows = Rows::last;
      part.target = -1;
      part.sampled = true;
      ids_.insert(ids_.end(), piece.ids.begin(), piece.ids.end());
      parts_.push_back(part);
    }
    for (size_t i = 0; i < parts_.size(); ++i) parts_[i].blocks = blocks_[i].data();
    const StepInput input = {tokens(), static_cast<int32_t>(parts_.size()), ids_.data(),
                             parts_.data()};
    return backend_->begin(self_, step, &input);
  }
  int32_t tokens() const { return static_cast<int32_t>(ids_.size()); }

  // Attention and routing of a layer; lists the wanted experts.
  std::vector<int32_t> attend(int layer, Result& result) {
    require_ok(backend_->attend(self_, 0, layer));
    if (!model_.shape.is_moe(layer)) return {};
    const size_t pairs = static_cast<size_t>(tokens()) * kTopK, at = result.experts.size();
    result.experts.resize(at + pairs);
    result.weights.resize(at + pairs);
    require_ok(backend_->route(self_, 0, layer, &result.experts[at], &result.weights[at], nullptr));
    std::vector<int32_t> wanted(result.experts.begin() + static_cast<int64_t>(at),
                                result.experts.end());
    std::sort(wanted.begin(), wanted.end());
    wanted.erase(std::unique(wanted.begin(), wanted.end()), wanted.end());
    return wanted;
  }

  void mix(int layer, std::vector<int32_t> wanted, const Waves& waves) {
    if (waves.falling) std::reverse(wanted.begin(), wanted.end());
    const int at_once = slots_ > 0 ? std::min(waves.at_once, slots_) : waves.at_once;
    for (size_t first = 0; first < wanted.size(); first += static_cast<size_t>(at_once)) {
      const size_t count = std::min(wanted.size() - first, static_cast<size_t>(at_once));
      std::vector<ReadyExpert> ready;
      for (size_t i = 0; i < count; ++i) {
        const int32_t expert = (layer - 1) * kExperts + wanted[first + i];
        ready.push_back({wanted[first + i], &model_.experts[expert],
                         slots_ > 0 ? place(expert, wanted, first, count, layer) : -1});
      }
      if (waits) wait_for_copies();
      require_ok(backend_->mix(self_, 0, layer, ready.data(), static_cast<int32_t>(count)));
    }
  }

  Result run(const std::vector<Piece>& pieces, const Waves& waves = {}) {
    Result result;
    require_ok(begin(pieces));
    for (int layer = 0; layer < kLayers; ++layer) {
      const std::vector<int32_t> wanted = attend(layer, result);
      if (wanted.empty()) continue;
      require_ok(backend_->share(self_, 0, layer));
      mix(layer, wanted, waves);
      require_ok(backend_->settle(self_, 0, layer));
    }
    require_ok(sample(result));
    return result;
  }

  // As run, but layers run by themselves where the backend finds their experts. `stops`: how many
  // did not.
  Result run_hits(const std::vector<Piece>& pieces, const Waves& waves = {}, int* stops = nullptr) {
    Result result;
    require_ok(begin(pieces));
    const size_t pairs = static_cast<size_t>(tokens()) * kTopK;
    result.experts.resize((kLayers - 1) * pairs);
    result.weights.resize((kLayers - 1) * pairs);
    result.scores.assign((kLayers - 1) * static_cast<size_t>(tokens()) * kExperts, NAN);
    HitRun run = {0, result.experts.data(), result.weights.data(), result.scores.data()};
    for (;;) {
      wait_for_copies();
      require_ok(backend_->run_hits(self_, 0, run.stopped, &run));
      if (run.stopped == kLayers) break;
      if (stops != nullptr) ++*stops;
      const auto first = result.experts.begin() + static_cast<int64_t>((run.stopped - 1) * pairs);
      std::vector<int32_t> wanted(first, first + static_cast<int64_t>(pairs));
      std::sort(wanted.begin(), wanted.end());
      wanted.erase(std::unique(wanted.begin(), wanted.end()), wanted.end());
      require_ok(backend_->share(self_, 0, run.stopped));
      mix(run.stopped, wanted, waves);
      require_ok(backend_->settle(self_, 0, run.stopped));
      if (++run.stopped == kLayers) break;
    }
    require_ok(sample(result));
    return result;
  }

  Status sample(Result& result) {
    const size_t rows = parts_.size();
    result.logits.assign(rows * kVocabulary, NAN);
    result.next.assign(rows, -1);
    std::vector<float> logprobs(rows);
    Sampling greedy{};
    greedy.top_p = greedy.repetition = 1;
    const std::vector<Sampling> sampling(rows, greedy);
    HeadOutput out{};
    out.rows = static_cast<int32_t>(rows);
    out.next = result.next.data();
    out.logprobs = logprobs.data();
    out.logits = result.logits.data();
    return backend_->sample(self_, 0, sampling.data(), &out);
  }

  void wait_for_copies() {
    for (uint64_t done = 0; done < last_ticket_;) {
      require_ok(backend_->filled(self_, &done));
      if (done < last_ticket_) usleep(50);
    }
  }

 private:
  // A slot that holds the expert, filled if need be; never one that this wave computes with.
  int32_t place(int32_t expert, const std::vector<int32_t>& wanted, size_t first, size_t count,
                int layer) {
    const auto found = std::find(holds_.begin(), holds_.end(), expert);
    if (found != holds_.end()) return static_cast<int32_t>(found - holds_.begin());
    const auto is_needed = [&](int32_t held) {
      for (size_t i = 0; i < count; ++i)
        if (held == (layer - 1) * kExperts + wanted[first + i]) return true;
      return false;
    };
    do next_slot_ = (next_slot_ + 1) % slots_;
    while (is_needed(holds_[static_cast<size_t>(next_slot_)]));
    // Nobody may fill a slot that is being filled.
    if (!waits && holds_[static_cast<size_t>(next_slot_)] >= 0) wait_for_copies();
    uint64_t ticket = 0;
    require_ok(backend_->fill(self_, next_slot_, expert, &model_.experts[expert], &ticket));
    ++last_ticket_;
    require(ticket == last_ticket_, "ticket %llu follows %llu",
            static_cast<unsigned long long>(ticket),
            static_cast<unsigned long long>(last_ticket_ - 1));
    holds_[static_cast<size_t>(next_slot_)] = expert;
    return next_slot_;
  }

  const Backend* backend_;
  const Model& model_;
  int slots_;
  std::shared_ptr<const Processor> processor_;
  void* self_ = nullptr;
  std::vector<int32_t> ids_;
  std::vector<Part> parts_;
  std::vector<std::vector<int32_t>> blocks_;
  std::vector<int32_t> holds_;
  int32_t next_slot_ = 0;
  uint64_t last_ticket_ = 0;
};

}  // namespace ring::test
