// State of the CPU backend and the parts of a layer, in the order in which they happen: attend.cc,
// route.cc, mix.cc, and head.cc at the end. Buffers are allocated at open and grow with the first
// large step; afterwards a step allocates nothing. One step uses the pool at a time.
#pragma once
#include <atomic>
#include <memory>
#include <new>
#include <vector>

#include "../backend.h"
#include "kernels.h"
#include "pool.h"

namespace ring::cpu {

// The kernels that RING_ISA names, or the best; an error where it names what is not here.
Status usual_kernels(const Kernels** kernels);

// Floats that begin on a cache line, as the kernels' scratch must.
class Scratch {
 public:
  explicit Scratch(int64_t count)
      : floats_(static_cast<float*>(::operator new(count * sizeof(float), kLine))) {}
  float* data() { return floats_.get(); }

 private:
  static constexpr std::align_val_t kLine{64};
  struct Free {
    void operator()(float* p) const { ::operator delete(p, kLine); }
  };
  std::unique_ptr<float, Free> floats_;
};

// KV of all sequences: per layer [block][kv head][token in block][head_dim], keys and values apart,
// as F32 or BF16. Anonymous memory that the system hands out on first use.
struct KvStore {
  uint8_t* keys = nullptr;
  uint8_t* values = nullptr;
  int64_t bytes = 0;  // of each of the two
  int64_t layer_bytes = 0;
  int64_t head_bytes = 0;  // one kv head of one block
  int32_t element_bytes = 0;

  Status open(const Shape& shape, const Limits& limits);
  ~KvStore();
};

// What one open step needs from begin to sample. Capacities follow Limits::step_tokens.
struct StepState {
  int32_t tokens = 0;
  std::vector<int32_t> ids;
  std::vector<Part> parts;
  std::vector<int32_t> part_of_token;
  std::vector<int32_t> position;  // of every token in its sequence
  std::vector<float> cos, sin;    // [tokens][rotary_dim / 2]
  std::vector<float> residual;    // [tokens][hidden]
  std::vector<float> normed;      // [tokens][hidden], input of attention, MLP or head
  std::vector<float> qkv;         // [tokens][qkv rows]
  std::vector<float> attended;    // [tokens][heads * head_dim]
  std::vector<float> delta;       // [tokens][hidden], what a sublayer adds
  std::vector<float> shared;      // [tokens][hidden], outputs of the shared expert
  std::vector<float> gate, up;    // [tokens][width of the dense MLP or of the shared expert]
  // Routing of the current layer, [tokens][top_k].
  std::vector<float> router_logits;  // [tokens][experts]
  std::vector<uint16_t> experts;
  std::vector<float> weights;
  // Outputs of routed experts, by pair = token * top_k + rank; in steps above
  // limit::unordered_tokens they are added to `routed` at once and the rows are used again.
  std::vector<float> pair_output;         // [pairs][hidden]
  std::vector<uint8_t> pair_known;        // [pairs] whether the layer's output is there
  std::vector<float> pair_gate, pair_up;  // [pairs in flight][expert width]
  std::vector<float> pair_input;          // [pairs in flight][hidden], gathered
  std::vector<float> routed;              // [tokens][hidden]
  std::vector<int32_t> pair_of_row;       // rows in flight -> pair
  // [tokens][hidden] of at most limit::ahead_tokens: the stream as it is known before its layer is
  // done, behind the next layer's attention.
  std::vector<float> early_stream, early_normed;
  std::atomic<int32_t> bad_layer{-1};  // first layer whose values were not finite
};

struct Cpu {
  Cpu(const Model& model, const Limits& limits, const Kernels& kernels, int threads)
      : model(model),
        shape(model.shape),
        limits(limits),
        kernels(kernels),
        matmul(limits.math == Math::bf16 ? kernels.matmul_bf16 : kernels.matmul),
        pool(threads) {}

  const Model& model;
  const Shape& shape;
  const Limits limits;
  const Kernels& kernels;
  const Matmul matmul;  // as Limits::math says
  Pool pool;
  KvStore kv;
  StepState steps[limit::steps_open];
  std::vector<Scratch> thread_scratch;            // [thread]: kMatmulScratch
  std::vector<std::vector<float>> thread_scores;  // [thread]: attention scores of one kv group
  std::vector<float> row_logits;                  // logits of a few rows at a time
  std::string description;
  std::string identity;

  // Rows of one piece of a product: enough pieces to share out, none smaller than pays for
  // preparing the activations and for starting to fetch.
  int piece_rows(int rows, int products) const;
  // out[token][row] = weight . x, rows and (when there are many) tokens shared out over the
  // threads.
  void linear(const Matrix& weight, const float* x, int tokens, float* out) {
    linear_by(matmul, weight, x, tokens, out);
  }
  // The same, F32-accurate whatever Limits::math says.
  void linear_f32(const Matrix& weight, const float* x, int tokens, float* out) {
    linear_by(kernels.matmul, weight, x, tokens, out);
  }
  void linear_by(Matmul products, const Matrix& weight, const float* x, int tokens, float* out);
  // Normalises every token; marks the layer when a value is not finite.
  void normalise(StepState& step, const Vector& weight, int layer);
  // down(silu(gate x) * (up x)) of the dense or shared MLP, from step.normed into out
  // [tokens][hidden].
  void dense_mlp(StepState& step, const Mlp& mlp, float* out);
};

// Room for a step of so many tokens, unless it has it. Throws bad_alloc.
void size_step(const Cpu& cpu, StepState& step, int32_t tokens);

Status attend(Cpu& cpu, StepState& step, int32_t layer);
Status route(Cpu& cpu, StepState& step, int32_t layer, uint16_t* experts, float* weights,
             float* scores);
Status share(Cpu& cpu, StepState& step, int32_t layer);
// What a router would choose by logits [tokens][experts], which become probabilities.
void choose_early(Cpu& cpu, const Vector& bias, int tokens, uint16_t* experts, float* scores);
Status attend_ahead(Cpu& cpu, StepState& step, int32_t layer);
Status look_ahead(Cpu& cpu, StepState& step, int32_t layer, int32_t later_layer, bool attended,
                  uint16_t* experts, float* scores);
Status mix(Cpu& cpu, StepState& step, int32_t layer, const ReadyExpert* experts, int32_t count);
// What experts are computed on, and outputs of pairs that were computed elsewhere: see Backend.
Status read_input(const Cpu& cpu, const StepState& step, float* rows);
Status take_outputs(Cpu& cpu, StepState& step, const int32_t* pairs, int32_t count,
                    const float* outputs);
Status settle(Cpu& cpu, StepState& step, int32_t layer);
Status sample(Cpu& cpu, StepState& step, const Sampling* sampling, const HeadOutput& output);
// kv.cc: see Backend.
void copy_kv(Cpu& cpu, int32_t from, int32_t to, int32_t tokens);
void read_kv(const Cpu& cpu, int32_t block, int32_t tokens, uint8_t* into);
void write_kv(Cpu& cpu, int32_t block, int32_t tokens, const uint8_t* from);

}  // namespace ring::cpu
