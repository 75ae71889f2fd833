// The backend's table and what the shared library exports. A function of the table checks that
// nothing has gone wrong before, and does one thing.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <new>

#include "state.h"

namespace ring::cuda {
namespace {

Gpu& of(void* self) { return *static_cast<Gpu*>(self); }

Status open_backend(const Model* model, const Limits* limits, void** self) {
  auto gpu = std::make_unique<Gpu>(*model, *limits);
  RING_TRY(gpu->open());
  *self = gpu.release();
  return {};
}

// To as many splits as a power of two says, so that what is launched changes rarely.
int32_t round_up_positions(int32_t positions, int32_t context) {
  int32_t rounded = kSplitPositions;
  while (rounded < positions) rounded *= 2;
  return std::max(positions, std::min(rounded, context));
}

// Of the embedding that stays in RAM, the rows of a step's tokens, one after the other.
void gather_embedding(const Gpu& gpu, StepState& step, const StepInput& input) {
  const size_t each = row_bytes_of(gpu.model.embedding);
  uint8_t* row = step.input.place(static_cast<size_t>(input.tokens) * each, &step.device_rows);
  for (int32_t token = 0; token < input.tokens; ++token)
    row = std::copy_n(gpu.model.embedding.data + static_cast<size_t>(input.ids[token]) * each, each,
                      row);
}

// Where every token stands, and the angles of its rotation, as they lie in the parcel.
Status send_input(Gpu& gpu, StepState& step, const StepInput& input) {
  const Shape& s = gpu.shape;
  const int32_t block_tokens = gpu.limits.kv_block_tokens;
  const auto tokens = static_cast<size_t>(input.tokens);
  const auto half = static_cast<size_t>(s.rotary_dim / 2);
  size_t blocks = 0;
  for (const Part& part : step.parts)
    blocks += static_cast<size_t>((part.position + part.tokens + block_tokens - 1) / block_tokens);
  step.input.clear();
  int32_t* ids = step.input.place(tokens, &step.device_ids);
  if (gpu.gathers_embedding()) gather_embedding(gpu, step, input);
  int32_t* position = step.input.place(tokens, &step.where.position);
  int32_t* first_block = step.input.place(tokens, &step.where.first_block);
  float* cos = step.input.place(tokens * half, &step.where.cos);
  float* sin = step.input.place(tokens * half, &step.where.sin);
  int32_t* block = step.input.place(blocks, &step.where.blocks);
  std::copy_n(input.ids, tokens, ids);
  step.longest = 0;
  int32_t placed = 0;
  for (const Part& part : step.parts) {
    for (int32_t i = 0; i < part.tokens; ++i) {
      position[part.first_token + i] = part.position + i;
      first_block[part.first_token + i] = placed;
    }
    const int32_t end = part.position + part.tokens;
    const int32_t of_part = (end + block_tokens - 1) / block_tokens;
    block = std::copy_n(part.blocks, of_part, block);
    placed += of_part;
    step.longest = std::max(step.longest, end);
  }
  if (input.tokens <= limit::ahead_tokens)
    step.longest = round_up_positions(step.longest, gpu.limits.context);
  for (size_t token = 0; token < tokens; ++token) {
    // Angle and its sine in F32, as the published modeling code takes them.
    const auto at = static_cast<float>(position[token]);
    for (size_t i = 0; i < half; ++i) {
      const float angle = at * gpu.model.rope_inverse[i];
      cos[token * half + i] = std::cos(angle) * s.rope_magnitude;
      sin[token * half + i] = std::sin(angle) * s.rope_magnitude;
    }
  }
  return step.input.send(gpu.compute);
}

Status begin(void* self, int32_t step_index, const StepInput* input) {
  Gpu& gpu = of(self);
  RING_TRY(gpu.fault);
  StepState& step = gpu.steps[step_index];
  if (input->tokens > gpu.limits.step_tokens || input->parts > gpu.limits.parts) {
    return failure(Code::bad_argument, "a step of %d tokens in %d parts is larger than %d in %d",
                   input->tokens, input->parts, gpu.limits.step_tokens, gpu.limits.parts);
  }
  // The lists of this step's predecessor may still be on their way, if it was given up.
  RING_TRY(gpu.wait());
  step.tokens = input->tokens;
  step.parts.assign(input->part, input->part + input->parts);
  step.ids.assign(input->ids, input->ids + input->tokens);
  RING_TRY(send_input(gpu, step, *input));
  RING_GPU(cudaMemsetAsync(step.bad.data(), 0xff, sizeof(int32_t), gpu.compute));
  Matrix embedding = gpu.weights.embedding;
  if (gpu.gathers_embedding()) embedding.data = step.device_rows;
  RING_GPU(embed(gpu.queue(), embedding, gpu.gathers_embedding(), step.device_ids, step.tokens,
                 step.stream.residual.data()));
  return {};
}

Status attend_layer(void* self, int32_t step_index, int32_t layer) {
  Gpu& gpu = of(self);
  RING_TRY(gpu.fault);
  StepState& step = gpu.steps[step_index];
  return attend(gpu, step, layer, step.stream, step.bad.data());
}
Status route_layer(void* self, int32_t step, int32_t layer, uint16_t* experts, float* weights,
                   float* scores) {
  return route(of(self), of(self).steps[step], layer, experts, weights, scores);
}
Status share_layer(void* self, int32_t step, int32_t layer) {
  return share(of(self), of(self).steps[step], layer);
}
Status attend_ahead_layer(void* self, int32_t step, int32_t layer) {
  return attend_ahead(of(self), of(self).steps[step], layer);
}
Status look_ahead_layer(void* self, int32_t step, int32_t layer, int32_t later_layer, bool attended,
                        uint16_t* experts, float* scores) {
  return look_ahead(of(self), of(self).steps[step], layer, later_layer, attended, experts, scores);
}
Status mix_layer(void* self, int32_t step, int32_t layer, const ReadyExpert* experts,
                 int32_t count) {
  return mix(of(self), of(self).steps[step], layer, experts, count);
}
Status settle_layer(void* self, int32_t step, int32_t layer) {
  return settle(of(self), of(self).steps[step], layer);
}
Status sample_step(void* self, int32_t step, const Sampling* sampling, const HeadOutput* output) {
  RING_TRY(of(self).fault);
  return sample(of(self), of(self).steps[step], sampling, *output);
}

// The table lets these say nothing, so whoever comes next hears of it.
void note(Gpu& gpu, const Status& status) {
  if (status.failed() && !gpu.fault.failed()) gpu.fault = status;
}
void copy_kv_block(void* self, int32_t from, int32_t to, int32_t tokens) {
  note(of(self), copy_kv(of(self), from, to, tokens));
}
void read_kv_block(void* self, int32_t block, int32_t tokens, uint8_t* into) {
  note(of(self), read_kv(of(self), block, tokens, into));
}
void write_kv_block(void* self, int32_t block, int32_t tokens, const uint8_t* from) {
  note(of(self), write_kv(of(self), block, tokens, from));
}

Status open_slots(void* self, int32_t count) {
  Gpu& gpu = of(self);
  return gpu.slots.open(gpu.model, gpu.weights, count, gpu.compute);
}
Status fill_slot(void* self, int32_t slot, int32_t expert, const Mlp* host, uint64_t* ticket) {
  return of(self).slots.fill(slot, expert, *host, of(self).compute, ticket);
}
Status filled_slots(void* self, uint64_t* ticket) { return of(self).slots.filled(ticket); }
void give_up_slot(void* self, int32_t slot) { of(self).slots.give_up(slot); }
Status run_hit_layers(void* self, int32_t step, int32_t layer, HitRun* run) {
  RING_TRY(of(self).fault);
  return run_hits(of(self), of(self).steps[step], step, layer, run);
}

Status read_step_input(void* self, int32_t step, float* rows) {
  return read_input(of(self), of(self).steps[step], rows);
}
Status take_step_outputs(void* self, int32_t step, const int32_t* pairs, int32_t count,
                         const float* outputs) {
  return take_outputs(of(self), of(self).steps[step], pairs, count, outputs);
}
Status free_memory(void*, uint64_t* bytes) {
  size_t free_bytes = 0, all_bytes = 0;
  RING_GPU(cudaMemGetInfo(&free_bytes, &all_bytes));
  *bytes = free_bytes;
  return {};
}

Status lend(void* self, const uint8_t* data, uint64_t bytes) {
  return of(self).lent.add(data, bytes);
}

const char* identify(void* self) { return of(self).identity.c_str(); }
const char* describe(void* self) { return of(self).description.c_str(); }
void close_backend(void* self) { delete static_cast<Gpu*>(self); }

Backend make_table() {
  Backend table{};
  table.version = kBackendVersion;
  table.name = "cuda";
  table.open = open_backend;
  table.begin = begin;
  table.attend = attend_layer;
  table.route = route_layer;
  table.share = share_layer;
  table.attend_ahead = attend_ahead_layer;
  table.look_ahead = look_ahead_layer;
  table.mix = mix_layer;
  table.settle = settle_layer;
  table.sample = sample_step;
  table.copy_kv = copy_kv_block;
  table.read_kv = read_kv_block;
  table.write_kv = write_kv_block;
  table.identify = identify;
  table.describe = describe;
  table.close = close_backend;
  table.open_slots = open_slots;
  table.fill = fill_slot;
  table.filled = filled_slots;
  table.lend = lend;
  table.give_up = give_up_slot;
  table.run_hits = run_hit_layers;
  table.read_input = read_step_input;
  table.take_outputs = take_step_outputs;
  table.free_memory = free_memory;
  return table;
}

// The sentence that says why there is no device to compute on; null where there is one.
const char* missing_device(cudaError_t error, int driver) {
  if (error == cudaErrorInsufficientDriver && driver == 0) return "no NVIDIA driver is installed";
  if (error == cudaErrorInsufficientDriver)
    return "the NVIDIA driver is older than this program needs; install a newer one";
  if (error == cudaErrorNoDevice) return "no NVIDIA GPU is visible to the driver";
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

int32_t refuse(BackendProbe* probe, const char* reason) {
  snprintf(probe->reason, sizeof probe->reason, "%s", reason);
  cudaGetLastError();
  return 1;
}

constexpr int kLeastMajor = 8;  // of compute capability: tensor cores for F16 as they are used here

int32_t probe_device(BackendProbe* probe) {
  *probe = {};
  int driver = 0, count = 0;
  cudaDriverGetVersion(&driver);
  snprintf(probe->driver, sizeof probe->driver, "%d.%d", driver / 1000, driver % 1000 / 10);
  cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess && count == 0) error = cudaErrorNoDevice;
  if (const char* reason = missing_device(error, driver)) return refuse(probe, reason);
  cudaDeviceProp device;
  error = cudaGetDeviceProperties(&device, 0);
  if (error != cudaSuccess) return refuse(probe, cudaGetErrorString(error));
  snprintf(probe->name, sizeof probe->name, "%.63s", device.name);
  probe->memory_bytes = device.totalGlobalMem;
  probe->compute_major = device.major;
  probe->compute_minor = device.minor;
  if (device.major < kLeastMajor) {
    return refuse(
        probe, "the GPU is older than compute capability 8.0, which the kernels are written for");
  }
  size_t free_bytes = 0, all_bytes = 0;
  error = cudaSetDevice(0);
  if (error == cudaSuccess) error = cudaMemGetInfo(&free_bytes, &all_bytes);
  if (error != cudaSuccess) return refuse(probe, cudaGetErrorString(error));
  probe->free_bytes = free_bytes;
  return 0;
}

}  // namespace
}  // namespace ring::cuda

#define RING_EXPORT extern "C" __attribute__((visibility("default")))

RING_EXPORT const ring::Backend* ring_backend() {
  static const ring::Backend table = ring::cuda::make_table();
  return &table;
}

RING_EXPORT int32_t ring_probe(ring::BackendProbe* probe) {
  return ring::cuda::probe_device(probe);
}
