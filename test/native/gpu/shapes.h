// The shapes of the three models, as far as kernels see them, and one that the emulation can
// compute in a blink. From their configurations (test/fixtures/configs).
#pragma once
#include <string>
#include <vector>

#include "model.h"

namespace ring::gpu {

struct ModelShape {
  std::string name;
  int hidden, width, dense_width, heads, kv_heads, head_dim, layers, dense_layers;
  int experts, top_k, groups, groups_kept, vocabulary;

  Shape shape() const {
    Shape s{};
    s.layers = layers;
    s.hidden = hidden;
    s.heads = heads;
    s.kv_heads = kv_heads;
    s.head_dim = head_dim;
    s.rotary_dim = head_dim / 2;
    s.experts = experts;
    s.top_k = top_k;
    s.groups = groups;
    s.groups_kept = groups_kept;
    s.first_moe_layer = dense_layers;
    s.vocabulary = s.sampleable = vocabulary;
    s.routed_scale = 2.5f;
    s.epsilon = 1e-6f;
    s.rope_magnitude = 1;
    return s;
  }
};

inline std::vector<ModelShape> model_shapes(bool is_tiny) {
  if (is_tiny) return {{"tiny", 128, 32, 64, 4, 2, 16, 3, 1, 16, 2, 4, 2, 96}};
  return {{"1T", 8192, 2048, 18432, 64, 8, 128, 80, 4, 256, 8, 8, 4, 157184},
          {"flash", 4096, 1024, 9216, 32, 4, 128, 32, 1, 256, 8, 8, 4, 157184},
          {"mini", 2048, 512, 5120, 16, 4, 128, 20, 1, 256, 8, 8, 4, 157184}};
}

}  // namespace ring::gpu
