// Whole layers and whole tokens through the backend's table, as the engine drives it: one sequence,
// the same step again and again, so that its experts lie in slots from the second on and layers run
// by themselves; and, for comparison, layer by layer. Between two steps more weights are read than
// any cache holds.
#include <algorithm>
#include <cstring>

#include "door.h"
#include "sections.h"
#include "shapes.h"
#include "synthetic.h"

namespace ring::gpu {
namespace {

using test::require;

constexpr int kBlockTokens = 64;

void require_ok(const Status& status) { require(!status.failed(), "%s", status.text); }

// The step of one token behind `position` others, whose keys and values are random.
class Decode {
 public:
  Decode(const SyntheticModel& synthetic, int position)
      : backend_(*door().backend),
        model_(synthetic.model),
        shape_(model_.shape),
        position_(position) {
    const int blocks = position / kBlockTokens + 1;
    Limits limits{};
    limits.step_tokens = limits.parts = 1;
    limits.context = blocks * kBlockTokens;
    limits.kv_blocks = blocks;
    limits.kv_block_tokens = kBlockTokens;
    limits.kv_dtype = Dtype::bf16;
    require_ok(backend_.open(&model_, &limits, &self_));
    const size_t moe_layers = static_cast<size_t>(shape_.moe_layers());
    // A token of each layer at a time, one to choose anew beside it.
    slots_ = static_cast<int32_t>(moe_layers) * shape_.top_k;
    require_ok(backend_.open_slots(self_, slots_));
    held_.assign(model_.experts.size(), -1);
    chosen_.resize(moe_layers * shape_.top_k);
    for (int block = 0; block < blocks; ++block) blocks_.push_back(block);
    const std::vector<uint8_t> kv = make_here(
        Dtype::bf16, int64_t{2} * shape_.layers * shape_.kv_heads * kBlockTokens * shape_.head_dim,
        81);
    for (int block = 0; block < blocks; ++block)
      backend_.write_kv(self_, block, kBlockTokens, kv.data());
  }
  ~Decode() { backend_.close(self_); }
  Decode(const Decode&) = delete;
  Decode& operator=(const Decode&) = delete;

  // Layers by themselves, as the engine runs them where all hit; the first step of all is none
  // such.
  void run(bool by_themselves) {
    const int32_t id = 3;
    Part part{};
    part.tokens = 1;
    part.position = position_;
    part.rows = Rows::last;
    part.target = -1;
    part.sampled = true;
    part.blocks = blocks_.data();
    const StepInput input = {1, 1, &id, &part};
    require_ok(backend_.begin(self_, 0, &input));
    by_themselves ? run_hits() : run_layers();
    int32_t next = -1;
    float logprob = 0;
    Sampling greedy{};
    greedy.top_p = greedy.repetition = 1;
    HeadOutput out{};
    out.rows = 1;
    out.next = &next;
    out.logprobs = &logprob;
    require_ok(backend_.sample(self_, 0, &greedy, &out));
    require(next >= 0 && (drawn_ < 0 || next == drawn_), "the same step draws another token");
    drawn_ = next;
    ++steps_;
  }

  // Of the last step that ran by itself: from the first layer to the end of the last.
  double layers_seconds() const { return layers_seconds_; }

 private:
  void run_layers() {
    for (int layer = 0; layer < shape_.layers; ++layer) {
      require_ok(backend_.attend(self_, 0, layer));
      if (shape_.is_moe(layer)) run_experts(layer);
    }
  }

  void run_hits() {
    std::vector<uint16_t> experts(chosen_.size());
    std::vector<float> weights(chosen_.size());
    HitRun run = {0, experts.data(), weights.data(), nullptr};
    const double start = now();
    require_ok(backend_.run_hits(self_, 0, 0, &run));
    layers_seconds_ = now() - start;
    require(run.stopped == shape_.layers, "layer %d stops although its experts lie in slots",
            run.stopped);
    require(experts == chosen_, "the same step routes otherwise by itself");
  }

  void run_experts(int layer) {
    const auto moe = static_cast<size_t>(layer - shape_.first_moe_layer);
    std::vector<uint16_t> experts(static_cast<size_t>(shape_.top_k));
    std::vector<float> weights(experts.size());
    require_ok(backend_.route(self_, 0, layer, experts.data(), weights.data(), nullptr));
    require_ok(backend_.share(self_, 0, layer));
    uint16_t* const before = &chosen_[moe * experts.size()];
    if (steps_ > 0)
      require(std::equal(experts.begin(), experts.end(), before), "the same step routes otherwise");
    std::copy(experts.begin(), experts.end(), before);
    if (steps_ == 0) fill(moe, experts);
    std::sort(experts.begin(), experts.end());
    std::vector<ReadyExpert> ready;
    for (const uint16_t expert : experts) {
      const size_t of_model = moe * static_cast<size_t>(shape_.experts) + expert;
      ready.push_back({expert, &model_.experts[of_model], held_[of_model]});
    }
    require_ok(backend_.mix(self_, 0, layer, ready.data(), static_cast<int32_t>(ready.size())));
    require_ok(backend_.settle(self_, 0, layer));
  }

  void fill(size_t moe, const std::vector<uint16_t>& experts) {
    uint64_t ticket = 0;
    for (const uint16_t expert : experts) {
      const size_t of_model = moe * static_cast<size_t>(shape_.experts) + expert;
      held_[of_model] = next_slot_++;
      require_ok(backend_.fill(self_, held_[of_model], static_cast<int32_t>(of_model),
                               &model_.experts[of_model], &ticket));
    }
    for (uint64_t done = 0; done < ticket;) require_ok(backend_.filled(self_, &done));
  }

  const Backend& backend_;
  const Model& model_;
  const Shape& shape_;
  const int position_;
  void* self_ = nullptr;
  int32_t slots_ = 0, next_slot_ = 0, drawn_ = -1;
  int steps_ = 0;
  std::vector<int32_t> held_, blocks_;
  std::vector<uint16_t> chosen_;
  double layers_seconds_ = 0;
};

double bytes_of_mlp(const ModelShape& m, int width) { return 3.0 * m.hidden * width; }

double bytes_of_attention(const ModelShape& m, int positions) {
  const Shape s = m.shape();
  return static_cast<double>(m.hidden) * (s.qkv_rows() + m.heads * m.head_dim) +
         4.0 * positions * m.kv_heads * m.head_dim;
}

double bytes_of_moe_layer(const ModelShape& m, int positions) {
  return bytes_of_attention(m, positions) + 2.0 * m.experts * m.hidden +
         (m.top_k + 1) * bytes_of_mlp(m, m.width);
}

double bytes_of_layers(const ModelShape& m, int positions) {
  return m.dense_layers * (bytes_of_attention(m, positions) + bytes_of_mlp(m, m.dense_width)) +
         (m.layers - m.dense_layers) * bytes_of_moe_layer(m, positions);
}

// Steps of a model behind so many other positions.
void measure_steps(const Effort& effort, const Ceilings& ceilings, const ModelShape& m,
                   const SyntheticModel& synthetic, int position, const std::string& what,
                   Table& table) {
  Decode decode(synthetic, position);
  const auto seconds_of_step = [&](bool by_themselves) {
    const double start = now();
    decode.run(by_themselves);
    return now() - start;
  };
  seconds_of_step(false);
  const int tries = effort.is_tiny ? 1 : 30;
  std::vector<double> ratios, tokens, shares, layer_times, watched;
  const double floor = bytes_of_layers(m, position + 1) / ceilings.read_bytes;
  const double head_floor = 2.0 * m.vocabulary * m.hidden / ceilings.read_bytes;
  // The first few are given piece by piece, then recorded.
  for (int attempt = -3; attempt < tries; ++attempt) {
    const double seconds = seconds_of_step(true);
    if (attempt < 0) continue;
    layer_times.push_back(decode.layers_seconds() * 1e6 / m.layers);
    ratios.push_back(decode.layers_seconds() / floor);
    tokens.push_back(1 / seconds);
    shares.push_back((floor + head_floor) / seconds);
  }
  for (int attempt = -1; attempt < tries; ++attempt) {
    const double seconds = seconds_of_step(false);
    if (attempt >= 0) watched.push_back(1 / seconds);
  }
  const bool is_part = m.name == "1T";
  table.add(what + ": layers, of reading their weights", ratios, "times as long",
            is_part ? Bound{1.25, 1.15, true} : Bound{},
            text_of(figure_of(layer_times)) + " us each");
  if (is_part) return;
  const bool is_h200 = strstr(door().probe.name, "H200") != nullptr;
  const Bound asked = !is_h200            ? Bound{}
                      : m.name == "flash" ? Bound{300, 420}
                      : m.name == "mini"  ? Bound{700, 1200}
                                          : Bound{};
  table.add(what + ": whole tokens", tokens, "tokens/s", asked,
            text_of(figure_of(shares)) + " of reading");
  table.add(what + ": whole tokens, the host between layers", watched, "tokens/s", {});
}

// Of Ring-1T a few layers: all of it would take a minute to copy, and a layer is a layer.
ModelShape part_of(ModelShape m) {
  if (m.name != "1T") return m;
  m.layers = 7;
  m.dense_layers = 1;
  return m;
}

void measure_model(const Effort& effort, const Ceilings& ceilings, const ModelShape& whole,
                   Table& table) {
  const ModelShape m = part_of(whole);
  const SyntheticModel synthetic(m, effort.is_tiny);
  for (const int position : effort.is_tiny ? std::vector<int>{127} : std::vector<int>{127, 2047}) {
    const std::string what =
        m.name + ", one sequence, " + std::to_string(position + 1) + " positions, experts in slots";
    attempt(effort, table, what,
            [&] { measure_steps(effort, ceilings, m, synthetic, position, what, table); });
  }
}

}  // namespace

void measure_whole(const Effort& effort, const Ceilings& ceilings, Table& table) {
  for (const ModelShape& m : model_shapes(effort.is_tiny)) {
    attempt(effort, table, m.name, [&] { measure_model(effort, ceilings, m, table); });
  }
}

}  // namespace ring::gpu
