// What the parts of a layer share: memory for everything a step needs, waiting, and which products
// multiply with which weights.
#include "state.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace ring::cuda {
namespace {

// Of attention that is done in splits; where a step needs more, its tokens take turns.
constexpr int64_t kAttentionPartFloats = int64_t{16} << 20;
// Shared memory that every GPU gives a block, but for a word or two that kernels have of their own.
constexpr size_t kSharedBytes = (48 << 10) - 16;

int width_of_mlps(const Model& model) {
  int width = 0;
  for (const LayerWeights& layer : model.layers) {
    if (layer.mlp.gate.present()) width = std::max(width, layer.mlp.gate.rows);
  }
  if (!model.experts.empty()) width = std::max(width, model.experts.front().gate.rows);
  return width;
}

// What the parts of a grid can name, as far as tokens are one of them.
constexpr int32_t kTokensMost = 65535;

Status check(const Shape& s, const Limits& limits) {
  if (limits.math == Math::bf16)
    return failure(Code::bad_argument, "--math bf16 is of the CPU backend; leave it out");
  if (limits.step_tokens > kTokensMost)
    return failure(Code::bad_argument, "a step has at most %d tokens on a GPU, not %d", kTokensMost,
                   limits.step_tokens);
  if ((limits.head_in_ram || limits.mlps_in_ram > 0) && limits.processor == nullptr)
    return failure(Code::bad_argument, "weights stay in RAM, and no processor computes with them");
  const int group = s.heads / s.kv_heads;
  const size_t attention = sizeof(float) * kGroupMost * (s.head_dim + size_t{kSplitPositions});
  const size_t routing = sizeof(float) * (size_t{2} * s.experts + s.groups + s.top_k);
  const bool good = group <= kGroupMost && attention <= kSharedBytes &&
                    (s.moe_layers() <= 0 || (s.top_k <= 255 && routing <= kSharedBytes));
  if (good) return {};
  return failure(
      Code::bad_argument,
      "the CUDA backend has no kernels for this shape (%d query heads a KV head, at most "
      "%d; head dimension %d; %d experts)",
      group, kGroupMost, s.head_dim, s.experts);
}

Status choose_products(Products* products) {
  const char* wanted = getenv("RING_CUDA_KERNELS");
  if (wanted == nullptr || wanted[0] == '\0' || strcmp(wanted, "tensor") == 0) {
    *products = Products::tensor;
  } else if (strcmp(wanted, "plain") == 0) {
    *products = Products::plain;
  } else {
    return failure(Code::bad_argument, "RING_CUDA_KERNELS=%s is neither tensor nor plain", wanted);
  }
  return {};
}

Status open_step(Gpu& gpu, StepState& step) {
  const Shape& s = gpu.shape;
  const Limits& l = gpu.limits;
  const auto tokens = static_cast<size_t>(l.step_tokens);
  const auto hidden = static_cast<size_t>(s.hidden);
  const bool narrows = gpu.narrows(s.hidden);
  constexpr const char* kWhat = "the activations of a step";
  const size_t blocks =
      static_cast<size_t>(l.parts) * static_cast<size_t>(l.context / l.kv_block_tokens + 1);
  const size_t angles = tokens * static_cast<size_t>(s.rotary_dim / 2);
  const size_t rows = gpu.gathers_embedding() ? tokens * row_bytes_of(gpu.model.embedding) : 0;
  RING_TRY(step.input.open(3 * Parcel::bytes_of<int32_t>(tokens) + Parcel::bytes_of<uint8_t>(rows) +
                               Parcel::bytes_of<int32_t>(blocks) +
                               2 * Parcel::bytes_of<float>(angles),
                           kWhat));
  RING_TRY(step.stream.residual.open(tokens * hidden, kWhat));
  RING_TRY(step.stream.normed.open(tokens, s.hidden, narrows, kWhat));
  RING_TRY(step.bad.open(1, kWhat));
  if (s.moe_layers() <= 0) return {};
  const size_t pairs = tokens * static_cast<size_t>(s.top_k);
  const size_t early = std::min<size_t>(tokens, limit::ahead_tokens);
  RING_TRY(step.early.residual.open(early * hidden, kWhat));
  RING_TRY(step.early.normed.open(early, s.hidden, narrows, kWhat));
  RING_TRY(step.shared.open(tokens * hidden, kWhat));
  RING_TRY(step.experts.open(pairs, kWhat));
  RING_TRY(step.weights.open(pairs, kWhat));
  RING_TRY(step.order.open(pairs, kWhat));
  // Behind them the shared expert's, where layers run by themselves.
  RING_TRY(
      step.pair_output.open((static_cast<size_t>(gpu.rows_in_flight) + early) * hidden, kWhat));
  RING_TRY(step.pair_known.open(pairs, kWhat));
  RING_TRY(step.routed.open(tokens * hidden, kWhat));
  step.chosen.resize(pairs);
  step.pairs.resize(pairs);
  step.first_pair.resize(static_cast<size_t>(s.experts) + 1);
  return {};
}

Status open_scratch(Gpu& gpu) {
  const Shape& s = gpu.shape;
  const Limits& l = gpu.limits;
  const auto tokens = static_cast<size_t>(l.step_tokens);
  const bool has_narrow = gpu.products == Products::tensor;
  constexpr const char* kWhat = "the scratch of a step";
  const int64_t longest = attention_part_floats(s, 1, l.context);
  const int64_t wanted = attention_part_floats(s, l.step_tokens, l.context);
  RING_TRY(gpu.qkv.open(tokens * static_cast<size_t>(s.qkv_rows()), kWhat));
  RING_TRY(gpu.attention_parts.open(
      static_cast<size_t>(std::max(longest, std::min(wanted, kAttentionPartFloats))), kWhat));
  const size_t tickets = tokens * static_cast<size_t>(s.kv_heads);
  RING_TRY(gpu.attention_tickets.open(tickets, kWhat));
  RING_GPU(
      cudaMemsetAsync(gpu.attention_tickets.data(), 0, tickets * sizeof(int32_t), gpu.compute));
  RING_TRY(gpu.attended.open(tokens, s.heads * s.head_dim, has_narrow, kWhat));
  const size_t early = s.moe_layers() > 0 ? std::min<size_t>(tokens, limit::ahead_tokens) : 0;
  const size_t rows = std::max(tokens, static_cast<size_t>(gpu.rows_in_flight) + early);
  RING_TRY(gpu.activated.open(rows, width_of_mlps(gpu.model), has_narrow, kWhat));
  RING_TRY(gpu.head_rows.open(kHeadRows, s.hidden, gpu.narrows(s.hidden), kWhat));
  if (!l.head_in_ram) RING_TRY(gpu.head_logits.open(size_t{kHeadRows} * s.vocabulary, kWhat));
  if (l.processor != nullptr) {
    const size_t most = std::max(tokens, size_t{kHeadRows}) * static_cast<size_t>(s.hidden);
    RING_TRY(gpu.given.open(most));
    RING_TRY(gpu.taken.open(most));
    if (s.first_moe_layer > 0 && l.mlps_in_ram > 0) RING_TRY(gpu.arrived.open(most, kWhat));
  }
  size_t result_bytes = kBadBytes + sizeof(float) * kHeadRows * s.vocabulary;
  if (s.moe_layers() > 0) {
    const auto experts = static_cast<size_t>(s.experts), top_k = static_cast<size_t>(s.top_k);
    RING_TRY(gpu.trail.open(s, static_cast<int32_t>(early), gpu.compute));
    RING_TRY(gpu.router_logits.open(tokens * experts, kWhat));
    RING_TRY(gpu.early_rows.open(early, s.hidden, false, kWhat));
    RING_TRY(gpu.ahead_experts.open(early * top_k, kWhat));
    RING_TRY(gpu.ahead_weights.open(early * top_k, kWhat));
    RING_TRY(gpu.hosted.open(early * top_k * static_cast<size_t>(s.hidden)));
    result_bytes = std::max(result_bytes, tokens * (4 * experts + 6 * top_k));
    // A step of few tokens gives all it has at once, one of many as much as there is room for.
    const auto in_flight = static_cast<size_t>(gpu.rows_in_flight);
    RING_TRY(gpu.lists.open(
        2 * (2 * Parcel::bytes_of<Run>(experts) +
             Parcel::bytes_of<Tile>(experts + in_flight / kTileRows) +
             2 * Parcel::bytes_of<int32_t>(in_flight) + Parcel::bytes_of<int32_t>(tokens * top_k)),
        kWhat));
  } else {
    RING_TRY(gpu.lists.open(Parcel::bytes_of<int32_t>(kHeadRows), kWhat));
  }
  return gpu.results.open(result_bytes);
}

}  // namespace

Gpu::~Gpu() {
  if (compute == nullptr) return;
  cudaStreamSynchronize(compute);
  cudaStreamDestroy(compute);
}

Status Gpu::open() {
  RING_TRY(check(shape, limits));
  RING_TRY(choose_products(&products));
  RING_GPU(cudaSetDevice(0));
  RING_GPU(cudaStreamCreateWithFlags(&compute, cudaStreamNonBlocking));
  cudaDeviceProp device;
  RING_GPU(cudaGetDeviceProperties(&device, 0));
  const std::string capability = std::to_string(device.major) + "." + std::to_string(device.minor);
  const char* const kernels = products == Products::tensor ? "tensor" : "plain";
  description = std::string("cuda, ") + device.name + ", compute capability " + capability;
  if (products == Products::plain) description += ", plain products";
  identity = "cuda " + capability + " " + kernels + " kernels " + std::to_string(kKernelVersion);
  if (limits.mlps_in_ram > 0)
    identity += ", by the processor " + std::to_string(limits.mlps_in_ram) + " MLPs";

  are_experts_suitable = products == Products::tensor;
  for (const Mlp& expert : model.experts) {
    for (const Matrix* matrix : {&expert.gate, &expert.up, &expert.down}) {
      are_experts_suitable = are_experts_suitable && suits_tensor_cores(*matrix) &&
                             matrix->dtype == model.experts.front().gate.dtype;
    }
  }
  if (shape.moe_layers() > 0) {
    rows_in_flight = std::max<int64_t>(
        limits.step_tokens,
        std::min<int64_t>(limits.step_tokens, limit::unordered_tokens) * shape.top_k);
  }
  RING_TRY(weights.open(model, limits, compute));
  const size_t kv_bytes = kv_head_bytes() * static_cast<size_t>(shape.kv_heads) *
                          static_cast<size_t>(limits.kv_blocks) * static_cast<size_t>(shape.layers);
  RING_TRY(keys.open(kv_bytes, "keys and values; choose a smaller --ctx-size"));
  RING_TRY(values.open(kv_bytes, "keys and values; choose a smaller --ctx-size"));
  for (StepState& step : steps) RING_TRY(open_step(*this, step));
  return open_scratch(*this);
}

Status Gpu::wait() {
  RING_GPU(cudaStreamSynchronize(compute));
  lists.clear();
  slots.note_compute_done();
  return {};
}

Status Gpu::make_room(size_t bytes) {
  if (lists.has_room(bytes)) return {};
  RING_TRY(wait());
  if (lists.has_room(bytes)) return {};
  return failure(Code::bad_argument, "a layer's experts do not fit into %zu bytes of lists", bytes);
}

size_t Gpu::kv_head_bytes() const {
  const size_t element_bytes = limits.kv_dtype == Dtype::f32 ? 4 : 2;
  return static_cast<size_t>(limits.kv_block_tokens) * static_cast<size_t>(shape.head_dim) *
         element_bytes;
}

LayerKv Gpu::kv_of(int layer) const {
  const size_t at = static_cast<size_t>(layer) * static_cast<size_t>(limits.kv_blocks) *
                    static_cast<size_t>(shape.kv_heads) * kv_head_bytes();
  return {keys.data() + at, values.data() + at, limits.kv_block_tokens,
          limits.kv_dtype == Dtype::f32};
}

Status Gpu::multiply(const Matrix& weight, const Activations& x, int rows, const Outputs& out) {
  const Run run = {weight, {}, 0, rows};
  RING_GPU(uses_tensor_cores(weight) ? multiply_on_tensor_cores(queue(), run, x, out)
                                     : multiply_plainly(queue(), run, x, out));
  return {};
}

Status Gpu::multiply_mlp(int32_t layer, const Activations& x, int rows, const Outputs& out) {
  if (layer < layers_in_ram())
    return multiply_mlp_in_ram(*this, model.layers[static_cast<size_t>(layer)].mlp, x.wide, rows,
                               out.adds, out.out);
  const Mlp& mlp = weights.layers[static_cast<size_t>(layer)].mlp;
  const Run gated = {mlp.gate, mlp.up, 0, rows};
  const bool on_tensor_cores =
      uses_tensor_cores(mlp.gate) && uses_tensor_cores(mlp.up) && mlp.gate.dtype == mlp.up.dtype;
  const Activations between = activated.rows();
  RING_GPU(on_tensor_cores ? multiply_on_tensor_cores(queue(), gated, x, {between.wide})
                           : multiply_plainly(queue(), gated, x, {between.wide}));
  if (takes_narrow(mlp.down)) RING_GPU(narrow(queue(), between, rows, mlp.gate.rows));
  return multiply(mlp.down, between, rows, out);
}

}  // namespace ring::cuda
