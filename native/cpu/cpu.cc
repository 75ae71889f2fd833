// The CPU backend's table, its memory, and the pieces that several parts of a layer share.
#include "cpu.h"

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>

namespace ring::cpu {
namespace {

int width_of_mlps(const Model& model) {
  int width = 0;
  for (const LayerWeights& layer : model.layers) {
    if (layer.mlp.gate.present()) width = std::max(width, layer.mlp.gate.rows);
  }
  return width;
}

uint8_t* reserve(int64_t bytes) {
  void* memory = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return memory == MAP_FAILED ? nullptr : static_cast<uint8_t*>(memory);
}

Status open_backend(const Model* model, const Limits* limits, void** self) {
  const Kernels* kernels;
  RING_TRY(usual_kernels(&kernels));
  if (limits->math == Math::bf16 && kernels->matmul_bf16 == nullptr) {
    return failure(Code::bad_argument,
                   "--math bf16 needs a processor with AVX-512 BF16, and %s is in use here; leave "
                   "it out, or set RING_ISA=auto if it is set",
                   kernels->isa);
  }
  const int threads = limits->threads > 0 ? limits->threads : usable_cores();
  auto cpu = std::make_unique<Cpu>(*model, *limits, *kernels, threads);
  RING_TRY(cpu->kv.open(model->shape, *limits));
  for (int thread = 0; thread < threads; ++thread) cpu->thread_scratch.emplace_back(kMatmulScratch);
  cpu->thread_scores.resize(threads);
  cpu->description = std::string("cpu, ") + kernels->isa + ", " + std::to_string(threads) +
                     (threads == 1 ? " thread" : " threads") +
                     (limits->math == Math::bf16 ? ", BF16 products" : "");
  cpu->identity = std::string("cpu ") + kernels->isa +
                  (limits->math == Math::bf16 ? " bf16" : " f32") + " kernels " +
                  std::to_string(kKernelVersion);
  *self = cpu.release();
  return {};
}

Status begin(void* self, int32_t step_index, const StepInput* input) {
  Cpu& cpu = *static_cast<Cpu*>(self);
  StepState& step = cpu.steps[step_index];
  const Shape& s = cpu.shape;
  try {
    size_step(cpu, step, input->tokens);
  } catch (const std::bad_alloc&) {
    return failure(Code::out_of_memory, "no memory for a step of %d tokens; use a smaller batch",
                   input->tokens);
  }
  step.tokens = input->tokens;
  step.bad_layer.store(-1);
  step.parts.assign(input->part, input->part + input->parts);
  memcpy(step.ids.data(), input->ids, static_cast<size_t>(input->tokens) * sizeof(int32_t));
  for (int32_t index = 0; index < input->parts; ++index) {
    const Part& part = input->part[index];
    for (int32_t i = 0; i < part.tokens; ++i) {
      step.part_of_token[part.first_token + i] = index;
      step.position[part.first_token + i] = part.position + i;
    }
  }
  const int32_t half = s.rotary_dim / 2;
  for (int32_t token = 0; token < step.tokens; ++token) {
    cpu.kernels.read_row(cpu.model.embedding, step.ids[token],
                         &step.residual[static_cast<size_t>(token) * s.hidden]);
    // Angle and its sine in F32, as the published modeling code takes them.
    const float position = static_cast<float>(step.position[token]);
    for (int32_t i = 0; i < half; ++i) {
      const float angle = position * cpu.model.rope_inverse[i];
      step.cos[static_cast<size_t>(token) * half + i] = std::cos(angle) * s.rope_magnitude;
      step.sin[static_cast<size_t>(token) * half + i] = std::sin(angle) * s.rope_magnitude;
    }
  }
  return {};
}

Status attend_layer(void* self, int32_t step, int32_t layer) {
  Cpu& cpu = *static_cast<Cpu*>(self);
  return attend(cpu, cpu.steps[step], layer);
}
Status route_layer(void* self, int32_t step, int32_t layer, uint16_t* experts, float* weights,
                   float* scores) {
  Cpu& cpu = *static_cast<Cpu*>(self);
  return route(cpu, cpu.steps[step], layer, experts, weights, scores);
}
Status share_layer(void* self, int32_t step, int32_t layer) {
  Cpu& cpu = *static_cast<Cpu*>(self);
  return share(cpu, cpu.steps[step], layer);
}
Status attend_ahead_layer(void* self, int32_t step, int32_t layer) {
  Cpu& cpu = *static_cast<Cpu*>(self);
  return attend_ahead(cpu, cpu.steps[step], layer);
}

Status look_ahead_layer(void* self, int32_t step, int32_t layer, int32_t later_layer, bool attended,
                        uint16_t* experts, float* scores) {
  Cpu& cpu = *static_cast<Cpu*>(self);
  return look_ahead(cpu, cpu.steps[step], layer, later_layer, attended, experts, scores);
}
Status mix_layer(void* self, int32_t step, int32_t layer, const ReadyExpert* experts,
                 int32_t count) {
  Cpu& cpu = *static_cast<Cpu*>(self);
  return mix(cpu, cpu.steps[step], layer, experts, count);
}
Status settle_layer(void* self, int32_t step, int32_t layer) {
  Cpu& cpu = *static_cast<Cpu*>(self);
  return settle(cpu, cpu.steps[step], layer);
}
Status sample_step(void* self, int32_t step, const Sampling* sampling, const HeadOutput* output) {
  Cpu& cpu = *static_cast<Cpu*>(self);
  return sample(cpu, cpu.steps[step], sampling, *output);
}
void copy_kv_block(void* self, int32_t from, int32_t to, int32_t tokens) {
  copy_kv(*static_cast<Cpu*>(self), from, to, tokens);
}
void read_kv_block(void* self, int32_t block, int32_t tokens, uint8_t* into) {
  read_kv(*static_cast<Cpu*>(self), block, tokens, into);
}
void write_kv_block(void* self, int32_t block, int32_t tokens, const uint8_t* from) {
  write_kv(*static_cast<Cpu*>(self), block, tokens, from);
}
Status read_step_input(void* self, int32_t step, float* rows) {
  const Cpu& cpu = *static_cast<Cpu*>(self);
  return read_input(cpu, cpu.steps[step], rows);
}
Status take_step_outputs(void* self, int32_t step, const int32_t* pairs, int32_t count,
                         const float* outputs) {
  Cpu& cpu = *static_cast<Cpu*>(self);
  return take_outputs(cpu, cpu.steps[step], pairs, count, outputs);
}
const char* identify(void* self) { return static_cast<Cpu*>(self)->identity.c_str(); }
const char* describe(void* self) { return static_cast<Cpu*>(self)->description.c_str(); }
void close_backend(void* self) { delete static_cast<Cpu*>(self); }

}  // namespace

void size_step(const Cpu& cpu, StepState& step, int32_t tokens) {
  const Shape& s = cpu.shape;
  const size_t t = static_cast<size_t>(tokens);
  if (step.ids.size() >= t) return;
  const size_t width = static_cast<size_t>(width_of_mlps(cpu.model));
  step.ids.resize(t);
  step.part_of_token.resize(t);
  step.position.resize(t);
  step.cos.resize(t * s.rotary_dim / 2);
  step.sin.resize(t * s.rotary_dim / 2);
  step.residual.resize(t * s.hidden);
  step.normed.resize(t * s.hidden);
  step.qkv.resize(t * s.qkv_rows());
  step.attended.resize(t * s.heads * s.head_dim);
  step.delta.resize(t * s.hidden);
  step.gate.resize(t * width);
  step.up.resize(t * width);
  if (s.moe_layers() <= 0) return;
  const size_t pairs = std::max(t, std::min<size_t>(t, limit::unordered_tokens) * s.top_k);
  const size_t expert_width = static_cast<size_t>(cpu.model.experts.front().gate.rows);
  step.shared.resize(t * s.hidden);
  step.router_logits.resize(t * s.experts);
  step.experts.resize(t * s.top_k);
  step.weights.resize(t * s.top_k);
  step.pair_output.resize(pairs * s.hidden);
  step.pair_known.resize(t * s.top_k);
  const size_t early = std::min<size_t>(t, limit::ahead_tokens) * s.hidden;
  step.early_stream.resize(early);
  step.early_normed.resize(early);
  step.pair_input.resize(pairs * s.hidden);
  step.pair_gate.resize(pairs * expert_width);
  step.pair_up.resize(pairs * expert_width);
  step.pair_of_row.resize(pairs);
  step.routed.resize(t * s.hidden);
}

Status usual_kernels(const Kernels** kernels) {
  const char* wanted = getenv("RING_ISA");
  *kernels = choose_kernels(wanted);
  if (*kernels != nullptr) return {};
  return failure(Code::bad_argument,
                 "RING_ISA=%s is not an instruction set of this processor; try auto, portable, "
                 "avx2, avx512, avx512vbmi or avx512bf16",
                 wanted);
}

Status KvStore::open(const Shape& shape, const Limits& limits) {
  element_bytes = limits.kv_dtype == Dtype::f32 ? 4 : 2;
  head_bytes = static_cast<int64_t>(limits.kv_block_tokens) * shape.head_dim * element_bytes;
  layer_bytes = head_bytes * shape.kv_heads * limits.kv_blocks;
  bytes = layer_bytes * shape.layers;
  keys = reserve(bytes);
  values = reserve(bytes);
  if (keys == nullptr || values == nullptr) {
    return failure(Code::out_of_memory,
                   "no address space for %lld bytes of KV; choose a smaller --ctx-size",
                   static_cast<long long>(2 * bytes));
  }
  return {};
}

KvStore::~KvStore() {
  if (keys != nullptr) munmap(keys, static_cast<size_t>(bytes));
  if (values != nullptr) munmap(values, static_cast<size_t>(bytes));
}

int Cpu::piece_rows(int rows, int products) const {
  constexpr int kLeast = 32, kMost = 2 * kBlockRows;
  const int wanted =
      4 * pool.threads();  // a slow core then holds up a quarter of its share at most
  const int pieces_each = std::max(1, (wanted + products - 1) / products);
  const int even = (rows + pieces_each - 1) / pieces_each;
  return std::clamp((even + kLeast - 1) / kLeast * kLeast, kLeast, kMost);
}

void Cpu::linear_by(Matmul products, const Matrix& weight, const float* x, int tokens, float* out) {
  const int slabs = (tokens + kSlabTokens - 1) / kSlabTokens;
  const int rows = piece_rows(weight.rows, slabs);
  const int row_pieces = (weight.rows + rows - 1) / rows;
  pool.run(row_pieces * slabs, [&](int piece, int thread) {
    const int first = piece / slabs * rows, token = piece % slabs * kSlabTokens;
    products(weight, first, std::min(first + rows, weight.rows),
             x + static_cast<int64_t>(token) * weight.columns,
             std::min(kSlabTokens, tokens - token), out + static_cast<int64_t>(token) * weight.rows,
             weight.rows, thread_scratch[thread].data());
  });
}

void Cpu::normalise(StepState& step, const Vector& weight, int layer) {
  pool.run(step.tokens, [&](int token, int) {
    const size_t at = static_cast<size_t>(token) * shape.hidden;
    const float mean = kernels.rms_norm(&step.residual[at], weight.data(), &step.normed[at],
                                        shape.hidden, shape.epsilon);
    if (std::isfinite(mean)) return;
    int32_t none = -1;
    step.bad_layer.compare_exchange_strong(none, layer);
  });
}

void Cpu::dense_mlp(StepState& step, const Mlp& mlp, float* out) {
  linear(mlp.gate, step.normed.data(), step.tokens, step.gate.data());
  linear(mlp.up, step.normed.data(), step.tokens, step.up.data());
  pool.run(step.tokens, [&](int token, int) {
    const size_t at = static_cast<size_t>(token) * mlp.gate.rows;
    kernels.swiglu(&step.gate[at], &step.up[at], mlp.gate.rows);
  });
  linear(mlp.down, step.gate.data(), step.tokens, out);
}

}  // namespace ring::cpu

namespace ring {

const Backend* cpu_backend() {
  static const Backend table = {kBackendVersion,
                                "cpu",
                                cpu::open_backend,
                                cpu::begin,
                                cpu::attend_layer,
                                cpu::route_layer,
                                cpu::share_layer,
                                cpu::attend_ahead_layer,
                                cpu::look_ahead_layer,
                                cpu::mix_layer,
                                cpu::settle_layer,
                                cpu::sample_step,
                                cpu::copy_kv_block,
                                cpu::read_kv_block,
                                cpu::write_kv_block,
                                cpu::identify,
                                cpu::describe,
                                cpu::close_backend,
                                cpu::read_step_input,
                                cpu::take_step_outputs,
                                nullptr,
                                nullptr,
                                nullptr,
                                nullptr,
                                nullptr,
                                nullptr,
                                nullptr};
  return &table;
}

}  // namespace ring
