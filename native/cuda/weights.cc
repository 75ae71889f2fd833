// See weights.h.
#include "weights.h"

namespace ring::cuda {

Status Weights::open(const Model& model, const Limits& limits, cudaStream_t stream) {
  model_ = &model;
  RING_TRY(scales_.open(model.scales.size(), "the scales of all weights"));
  if (!model.scales.empty()) {
    RING_GPU(cudaMemcpyAsync(scales_.data(), model.scales.data(),
                             model.scales.size() * sizeof(float), cudaMemcpyHostToDevice, stream));
  }
  RING_TRY(list(model, limits, stream));
  RING_TRY(memory_.open(used_, "the dense weights"));
  RING_TRY(list(model, limits, stream));
  RING_GPU(cudaStreamSynchronize(stream));
  return {};
}

Status Weights::list(const Model& model, const Limits& limits, cudaStream_t stream) {
  used_ = 0;
  layers.assign(model.layers.size(), Layer{});
  embedding = placed(model.embedding, nullptr);
  head = placed(model.head, nullptr);
  if (!limits.head_in_ram) RING_TRY(put(model.head, stream, &head));
  if (model.head.data == model.embedding.data) embedding.data = head.data;
  RING_TRY(put(model.final_norm, stream, &final_norm));
  for (size_t index = 0; index < layers.size(); ++index) {
    const bool with_mlp = index >= static_cast<size_t>(limits.mlps_in_ram);
    RING_TRY(list_layer(model.layers[index], with_mlp, stream, layers[index]));
  }
  return {};
}

Status Weights::list_layer(const LayerWeights& from, bool with_mlp, cudaStream_t stream,
                           Layer& to) {
  RING_TRY(put(from.input_norm, stream, &to.input_norm));
  RING_TRY(put(from.post_norm, stream, &to.post_norm));
  RING_TRY(put(from.query_norm, stream, &to.query_norm));
  RING_TRY(put(from.key_norm, stream, &to.key_norm));
  RING_TRY(put(from.qkv_bias, stream, &to.qkv_bias));
  RING_TRY(put(from.attention_out_bias, stream, &to.attention_out_bias));
  RING_TRY(put(from.router_bias, stream, &to.router_bias));
  RING_TRY(put(from.qkv, stream, &to.qkv));
  RING_TRY(put(from.attention_out, stream, &to.attention_out));
  RING_TRY(put(from.router, stream, &to.router));
  if (!with_mlp) {
    to.mlp = {placed(from.mlp.gate, nullptr), placed(from.mlp.up, nullptr),
              placed(from.mlp.down, nullptr)};
    return {};
  }
  RING_TRY(put(from.mlp.gate, stream, &to.mlp.gate));
  RING_TRY(put(from.mlp.up, stream, &to.mlp.up));
  return put(from.mlp.down, stream, &to.mlp.down);
}

Matrix Weights::placed(const Matrix& matrix, const uint8_t* data) const {
  Matrix out = matrix;
  out.data = data;
  if (matrix.scales != nullptr)
    out.scales = scales_.data() + (matrix.scales - model_->scales.data());
  return out;
}

Status Weights::put(const void* from, size_t bytes, cudaStream_t stream, const uint8_t** at) {
  if (memory_.data() != nullptr) {
    *at = memory_.data() + used_;
    RING_GPU(cudaMemcpyAsync(memory_.data() + used_, from, bytes, cudaMemcpyHostToDevice, stream));
  }
  used_ += (bytes + kMatrixAlignment - 1) / kMatrixAlignment * kMatrixAlignment;
  return {};
}

Status Weights::put(const Matrix& matrix, cudaStream_t stream, Matrix* out) {
  if (!matrix.present()) return {};
  const uint8_t* at = nullptr;
  RING_TRY(put(matrix.data, bytes_of(matrix), stream, &at));
  *out = placed(matrix, at);
  return {};
}

Status Weights::put(const Vector& vector, cudaStream_t stream, const float** out) {
  if (vector.empty()) return {};
  const uint8_t* at = nullptr;
  RING_TRY(put(vector.data(), vector.size() * sizeof(float), stream, &at));
  *out = reinterpret_cast<const float*>(at);
  return {};
}

}  // namespace ring::cuda
