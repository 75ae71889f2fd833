// The weights as native sees them: pointers into maps, shapes, and scales widened to F32. Built
// once at open by tables.cc and read-only afterwards, so any thread may read it without a lock.
// It must not know tensor names: those stay in TypeScript.
#pragma once
#include <cstdint>
#include <vector>

#include "contract.h"

namespace ring {

// A linear weight [rows][columns], row-major, as it lies in the checkpoint, at any byte phase.
struct Matrix {
  // Not owned: in a FileMap or in resident memory as long as the device is open, or in a slot; null
  // for an expert that lies in no memory of its own.
  const uint8_t* data = nullptr;
  const float* scales = nullptr;  // owned by Model::scales; [ceil(rows/block_rows)][scale_columns]
  int32_t rows = 0;
  int32_t columns = 0;
  int32_t block_rows = 1;
  int32_t block_columns = 0;  // 0: one scale for the whole row, or none
  int32_t scale_columns = 0;
  Dtype dtype = Dtype::none;

  bool present() const { return rows > 0; }
};

// Norms and biases, widened to F32. Empty when the checkpoint has none.
using Vector = std::vector<float>;

struct Mlp {
  Matrix gate, up, down;
};

struct LayerWeights {
  Vector input_norm, post_norm, query_norm, key_norm, qkv_bias, attention_out_bias, router_bias;
  Matrix qkv, attention_out, router;
  Mlp mlp;  // the dense MLP below first_moe_layer, else the shared expert (may be absent)
};

struct Shape {
  int32_t layers, hidden, heads, kv_heads, head_dim, rotary_dim;
  int32_t experts, top_k, groups, groups_kept, first_moe_layer;
  int32_t vocabulary;
  int32_t sampleable;  // ids from here on are padding and are never sampled
  float routed_scale, epsilon;
  float rope_magnitude;

  int32_t moe_layers() const { return layers - first_moe_layer; }
  int32_t qkv_rows() const { return (heads + 2 * kv_heads) * head_dim; }
  bool is_moe(int32_t layer) const { return layer >= first_moe_layer; }
};

struct Model {
  Shape shape;
  Matrix embedding, head;
  Vector final_norm;
  Vector rope_inverse;  // [rotary_dim / 2], inverse frequencies
  std::vector<LayerWeights> layers;
  std::vector<Mlp> experts;  // [MoE layer][expert]; their data is null unless they are mapped
  std::vector<float> scales;
};

}  // namespace ring
