// First half of a layer: norm, projections, q/k norm, rotation, KV, attention, residual; in dense
// layers the MLP too. Every query walks the positions of its own sequence from first to last, on
// its own accumulators, so its result does not depend on which tokens share the step.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu.h"

namespace ring::cpu {
namespace {

uint16_t to_bf16(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >>
                               16);  // nearest, ties to even
}

// Half-split pairs: dimension i turns with i + rotary_dim / 2; the rest of the head passes through.
void rotate(float* head, const float* cos, const float* sin, int half) {
  for (int i = 0; i < half; ++i) {
    const float a = head[i], b = head[i + half];
    head[i] = a * cos[i] - b * sin[i];
    head[i + half] = b * cos[i] + a * sin[i];
  }
}

uint8_t* kv_at(uint8_t* base, const Cpu& cpu, int layer, int block, int kv_head, int slot) {
  const KvStore& kv = cpu.kv;
  return base + layer * kv.layer_bytes +
         (static_cast<int64_t>(block) * cpu.shape.kv_heads + kv_head) * kv.head_bytes +
         static_cast<int64_t>(slot) * cpu.shape.head_dim * kv.element_bytes;
}

void keep(uint8_t* target, const float* head, int count, int element_bytes) {
  if (element_bytes == 4) {
    memcpy(target, head, static_cast<size_t>(count) * 4);
    return;
  }
  auto* half = reinterpret_cast<uint16_t*>(target);
  for (int i = 0; i < count; ++i) half[i] = to_bf16(head[i]);
}

// Bias, q/k norm and rotation of one token's projections; its keys and values go to their block.
void finish_projection(Cpu& cpu, StepState& step, int layer, int token) {
  const Shape& s = cpu.shape;
  const LayerWeights& w = cpu.model.layers[layer];
  float* qkv = &step.qkv[static_cast<size_t>(token) * s.qkv_rows()];
  for (size_t i = 0; i < w.qkv_bias.size(); ++i) qkv[i] += w.qkv_bias[i];
  const int half = s.rotary_dim / 2;
  const float* cos = &step.cos[static_cast<size_t>(token) * half];
  const float* sin = &step.sin[static_cast<size_t>(token) * half];
  for (int head = 0; head < s.heads + s.kv_heads; ++head) {
    float* x = qkv + head * s.head_dim;
    const Vector& norm = head < s.heads ? w.query_norm : w.key_norm;
    if (!norm.empty()) cpu.kernels.rms_norm(x, norm.data(), x, s.head_dim, s.epsilon);
    rotate(x, cos, sin, half);
  }
  const Part& part = step.parts[step.part_of_token[token]];
  const int block = part.blocks[step.position[token] / cpu.limits.kv_block_tokens];
  const int slot = step.position[token] % cpu.limits.kv_block_tokens;
  for (int head = 0; head < s.kv_heads; ++head) {
    const float* key = qkv + (s.heads + head) * s.head_dim;
    keep(kv_at(cpu.kv.keys, cpu, layer, block, head, slot), key, s.head_dim, cpu.kv.element_bytes);
    keep(kv_at(cpu.kv.values, cpu, layer, block, head, slot), key + s.kv_heads * s.head_dim,
         s.head_dim, cpu.kv.element_bytes);
  }
}

// Attention of one token for the query heads that share one kv head (GQA: heads / kv_heads of
// them).
void attend_group(Cpu& cpu, StepState& step, int layer, int token, int kv_head, float* scores) {
  const Shape& s = cpu.shape;
  const Part& part = step.parts[step.part_of_token[token]];
  const int group = s.heads / s.kv_heads, dim = s.head_dim;
  const int visible = step.position[token] + 1;
  const int block_tokens = cpu.limits.kv_block_tokens;
  const bool wide = cpu.kv.element_bytes == 4;
  const float* queries =
      &step.qkv[static_cast<size_t>(token) * s.qkv_rows()] + kv_head * group * dim;
  float* out = &step.attended[static_cast<size_t>(token) * s.heads * dim] + kv_head * group * dim;
  const float scale = 1.0f / std::sqrt(static_cast<float>(dim));

  // Positions of a KV block lie one after the other.
  const auto for_blocks = [&](uint8_t* base, const auto& work) {
    for (int first = 0; first < visible; first += block_tokens) {
      work(kv_at(base, cpu, layer, part.blocks[first / block_tokens], kv_head, 0), first,
           std::min(block_tokens, visible - first));
    }
  };
  for_blocks(cpu.kv.keys, [&](const uint8_t* keys, int first, int count) {
    for (int q = 0; q < group; ++q) {
      float* row = scores + static_cast<size_t>(q) * visible + first;
      const float* query = queries + q * dim;
      if (wide)
        cpu.kernels.dots(query, reinterpret_cast<const float*>(keys), dim, count, row);
      else
        cpu.kernels.dots_bf16(query, reinterpret_cast<const uint16_t*>(keys), dim, count, row);
    }
  });
  for (int q = 0; q < group; ++q) {
    cpu.kernels.softmax(scores + static_cast<size_t>(q) * visible, visible, scale);
  }
  memset(out, 0, static_cast<size_t>(group) * dim * sizeof(float));
  for_blocks(cpu.kv.values, [&](const uint8_t* values, int first, int count) {
    for (int q = 0; q < group; ++q) {
      const float* shares = scores + static_cast<size_t>(q) * visible + first;
      float* sum = out + q * dim;
      if (wide)
        cpu.kernels.add_rows(shares, reinterpret_cast<const float*>(values), count, sum, dim);
      else
        cpu.kernels.add_rows_bf16(shares, reinterpret_cast<const uint16_t*>(values), count, sum,
                                  dim);
    }
  });
}

void add_residual(Cpu& cpu, StepState& step, const Vector& bias) {
  const Shape& s = cpu.shape;
  cpu.pool.run(step.tokens, [&](int token, int) {
    float* x = &step.residual[static_cast<size_t>(token) * s.hidden];
    float* delta = &step.delta[static_cast<size_t>(token) * s.hidden];
    for (size_t i = 0; i < bias.size(); ++i) delta[i] += bias[i];
    for (int i = 0; i < s.hidden; ++i) x[i] += delta[i];
  });
}

}  // namespace

Status attend(Cpu& cpu, StepState& step, int32_t layer) {
  const Shape& s = cpu.shape;
  const LayerWeights& w = cpu.model.layers[layer];
  cpu.normalise(step, w.input_norm, layer);
  cpu.linear(w.qkv, step.normed.data(), step.tokens, step.qkv.data());
  cpu.pool.run(step.tokens, [&](int token, int) { finish_projection(cpu, step, layer, token); });

  int longest = 0;
  for (int token = 0; token < step.tokens; ++token)
    longest = std::max(longest, step.position[token] + 1);
  const size_t scores = static_cast<size_t>(longest) * (s.heads / s.kv_heads);
  for (std::vector<float>& scratch : cpu.thread_scores) {
    if (scratch.size() < scores) scratch.resize(std::max(scores, scratch.size() * 2));
  }
  cpu.pool.run(step.tokens * s.kv_heads, [&](int piece, int thread) {
    attend_group(cpu, step, layer, piece / s.kv_heads, piece % s.kv_heads,
                 cpu.thread_scores[thread].data());
  });
  cpu.linear(w.attention_out, step.attended.data(), step.tokens, step.delta.data());
  add_residual(cpu, step, w.attention_out_bias);

  cpu.normalise(step, w.post_norm, layer);
  if (!s.is_moe(layer)) {
    cpu.dense_mlp(step, w.mlp, step.delta.data());
    add_residual(cpu, step, {});
  }
  return {};
}

}  // namespace ring::cpu
