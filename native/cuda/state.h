// State of the CUDA backend and the parts of a layer, in the order in which they happen: layer.cc,
// mix.cc, foresee.cc, and head.cc at the end; hits.cc is layers one after the other, inram.cc what
// the processor computes of them. Everything is
// allocated at open. Work is given to one compute stream in the order of the calls and copies into
// slots to another; a function waits only where it hands data to the caller.
#pragma once
#include <string>
#include <vector>

#include "../backend.h"
#include "graphs.h"
#include "kernels.h"
#include "lent.h"
#include "memory.h"
#include "slots.h"
#include "trail.h"
#include "weights.h"

namespace ring::cuda {

// Rows of logits that are computed at once.
constexpr int kHeadRows = 8;
// Room for the first bad layer in front of them.
constexpr size_t kBadBytes = 16;

// Rows of activations that own their memory.
class RowArray {
 public:
  // With a copy in F16 where tensor cores may take it.
  Status open(size_t rows, int columns, bool with_narrow, const char* what) {
    RING_TRY(wide_.open(rows * static_cast<size_t>(columns), what));
    if (!with_narrow) return {};
    RING_TRY(narrow_.open(rows * static_cast<size_t>(columns), what));
    return factors_.open(rows, what);
  }
  Activations rows() const { return {wide_.data(), narrow_.data(), factors_.data()}; }
  float* wide() const { return wide_.data(); }

 private:
  DeviceArray<float> wide_;
  DeviceArray<uint16_t> narrow_;
  DeviceArray<float> factors_;
};

// The residual stream and its normed copy.
struct Stream {
  DeviceArray<float> residual;  // [tokens][hidden]
  RowArray normed;              // [tokens][hidden], input of attention, MLP, router or head
};

// What one open step needs from begin to sample.
struct StepState {
  int32_t tokens = 0;
  // Positions that its longest sequence attends to; rounded up where graphs are kept by it.
  int32_t longest = 0;
  std::vector<int32_t> ids;
  std::vector<Part> parts;
  Parcel input;  // ids and positions, sent by begin
  const int32_t* device_ids = nullptr;
  const uint8_t* device_rows = nullptr;  // of the embedding, where that stays in RAM
  Positions where{};
  Stream stream, early;       // early: at most limit::ahead_tokens
  DeviceArray<int32_t> bad;   // first layer whose values were not finite, or -1
  DeviceArray<float> shared;  // [tokens][hidden], outputs of the shared expert
  // Routing of the current layer, [tokens][top_k]: there and here.
  DeviceArray<uint16_t> experts;
  DeviceArray<float> weights;
  DeviceArray<uint8_t> order;
  std::vector<uint16_t> chosen;
  std::vector<int32_t> pairs;       // by expert, rising within each
  std::vector<int32_t> first_pair;  // [experts + 1] where an expert's pairs begin
  // Outputs of routed experts: by pair = token * top_k + rank in steps of at most
  // limit::unordered_tokens, by row in flight in larger ones, which add them to `routed` at once.
  DeviceArray<float> pair_output;
  DeviceArray<uint8_t> pair_known;  // [pairs] whether the layer's output is there
  DeviceArray<float> routed;        // [tokens][hidden]

  bool keeps_pairs() const { return tokens <= limit::unordered_tokens; }
};

struct Gpu {
  Gpu(const Model& model, const Limits& limits)
      : model(model), shape(model.shape), limits(limits) {}
  ~Gpu();

  const Model& model;
  const Shape& shape;
  const Limits limits;
  Products products = Products::tensor;
  bool are_experts_suitable = false;  // for tensor cores, all of them
  cudaStream_t compute = nullptr;
  const int32_t* stopped = nullptr;  // of the queue, while layers are put that run by themselves
  Weights weights;
  Lent lent;  // outlives the copies from it
  Slots slots;
  DeviceArray<uint8_t> keys, values;  // [layer][block][kv head][token][head_dim]
  StepState steps[limit::steps_open];
  // Scratch of whoever runs; work follows work.
  DeviceArray<float> qkv, attention_parts, router_logits, ahead_weights, head_logits;
  DeviceArray<int32_t> attention_tickets;  // [tokens][kv heads], 0 between launches
  DeviceArray<uint16_t> ahead_experts;
  RowArray attended, activated, early_rows, head_rows;
  // Rows [tokens][hidden] on their way to the processor, from it, and there again.
  PinnedArray<float> given, taken;
  DeviceArray<float> arrived;
  int64_t rows_in_flight = 0;  // of routed experts, at most
  Trail trail;
  Graphs graphs;
  Parcel lists;  // of mix and sample
  PinnedArray<uint8_t> results;
  // Of steps of at most limit::ahead_tokens, what the processor computes on, and its outputs.
  PinnedArray<float> hosted;
  Status fault;  // what a function met that cannot say so
  std::string description, identity;

  Status open();
  Queue queue() const { return {compute, stopped}; }
  // Waits for all that was given to the compute stream.
  Status wait();
  // Makes room for so many bytes in `lists`, waiting where what lies there may not be done with.
  Status make_room(size_t bytes);
  bool uses_tensor_cores(const Matrix& weight) const {
    return products == Products::tensor && suits_tensor_cores(weight);
  }
  // Whether the weight is multiplied with the F16 copy of activations.
  bool takes_narrow(const Matrix& weight) const {
    return products == Products::tensor && multiplies_narrow(weight);
  }
  // Whether rows so wide are kept in F16 too.
  bool narrows(int columns) const { return products == Products::tensor && columns % 16 == 0; }
  LayerKv kv_of(int layer) const;
  size_t kv_head_bytes() const;  // of one kv head of one block

  // out = weight . x for every row.
  Status multiply(const Matrix& weight, const Activations& x, int rows, const Outputs& out);
  // down(silu(gate x) * (up x)) of a layer's dense MLP or shared expert, without bias.
  Status multiply_mlp(int32_t layer, const Activations& x, int rows, const Outputs& out);
  // Layers whose MLP the processor computes come first.
  int32_t layers_in_ram() const {
    return limits.mlps_in_ram < shape.layers ? limits.mlps_in_ram : shape.layers;
  }
  bool gathers_embedding() const { return weights.embedding.data == nullptr; }
};

// layer.cc: `bad` may be null.
Status attend(Gpu& gpu, StepState& step, int32_t layer, Stream& stream, int32_t* bad);
Status route(Gpu& gpu, StepState& step, int32_t layer, uint16_t* experts, float* weights,
             float* scores);
Status choose_experts(Gpu& gpu, StepState& step, int32_t layer, const Choices& choices,
                      const Hits& hits);
// The host's own list of who chose which expert, for mix.
void sort_pairs(StepState& step, int experts, int pairs);
// hits.cc: `index` is the step's.
Status run_hits(Gpu& gpu, StepState& step, int32_t index, int32_t layer, HitRun* run);
// mix.cc
Status read_input(Gpu& gpu, const StepState& step, float* rows);
Status take_outputs(Gpu& gpu, StepState& step, const int32_t* pairs, int32_t count,
                    const float* outputs);
Status share(Gpu& gpu, StepState& step, int32_t layer);
Status mix(Gpu& gpu, StepState& step, int32_t layer, const ReadyExpert* experts, int32_t count);
Status settle(Gpu& gpu, StepState& step, int32_t layer);
PairOutputs pairs_of(const StepState& step);
// foresee.cc
Status attend_ahead(Gpu& gpu, StepState& step, int32_t layer);
Status look_ahead(Gpu& gpu, StepState& step, int32_t layer, int32_t later_layer, bool attended,
                  uint16_t* experts, float* scores);
// inram.cc: rows [rows][hidden] in memory of the GPU. `out` of the first lies in RAM, of the second
// there, where `adds` they are added to.
Status multiply_in_ram(Gpu& gpu, const Matrix& weight, const float* x, int rows, float* out);
Status multiply_mlp_in_ram(Gpu& gpu, const Mlp& mlp, const float* x, int rows, bool adds,
                           float* out);
// head.cc
Status sample(Gpu& gpu, StepState& step, const Sampling* sampling, const HeadOutput& out);
// kv.cc
Status copy_kv(Gpu& gpu, int32_t from, int32_t to, int32_t tokens);
Status read_kv(Gpu& gpu, int32_t block, int32_t tokens, uint8_t* into);
Status write_kv(Gpu& gpu, int32_t block, int32_t tokens, const uint8_t* from);

}  // namespace ring::cuda
