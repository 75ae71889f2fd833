// The dense weights, norms and all scales in memory of the GPU: copied once at open, read-only
// afterwards. Matrices begin at aligned places there, whatever byte they lie at in the checkpoint.
// The embedding stays in RAM, since a step wants a few of its rows only; and what the limits leave
// there, the processor multiplies with. Of those the matrices here have scales and no data.
#pragma once
#include <vector>

#include "../backend.h"
#include "memory.h"

namespace ring::cuda {

constexpr size_t kMatrixAlignment = 256;

inline size_t bytes_of(const Matrix& matrix) {
  const size_t width = matrix.dtype == Dtype::f8_e4m3 ? 1 : matrix.dtype == Dtype::bf16 ? 2 : 4;
  return static_cast<size_t>(matrix.rows) * static_cast<size_t>(matrix.columns) * width;
}
inline size_t row_bytes_of(const Matrix& matrix) {
  return bytes_of(matrix) / static_cast<size_t>(matrix.rows);
}
inline size_t room_of(const Matrix& matrix) {
  return (bytes_of(matrix) + kMatrixAlignment - 1) / kMatrixAlignment * kMatrixAlignment;
}

// As LayerWeights; vectors that the checkpoint lacks are null.
struct Layer {
  const float *input_norm, *post_norm, *query_norm, *key_norm, *qkv_bias, *attention_out_bias,
      *router_bias;
  Matrix qkv, attention_out, router;
  Mlp mlp;
};

class Weights {
 public:
  Status open(const Model& model, const Limits& limits, cudaStream_t stream);

  Matrix embedding, head;
  const float* final_norm = nullptr;
  std::vector<Layer> layers;

  // A matrix of the model with its scales in memory of the GPU, its weights at `data` there.
  Matrix placed(const Matrix& matrix, const uint8_t* data) const;

 private:
  // Lists everything at rising places; copies it once there is memory.
  Status list(const Model& model, const Limits& limits, cudaStream_t stream);
  Status list_layer(const LayerWeights& from, bool with_mlp, cudaStream_t stream, Layer& to);
  Status put(const void* from, size_t bytes, cudaStream_t stream, const uint8_t** at);
  Status put(const Matrix& matrix, cudaStream_t stream, Matrix* out);
  Status put(const Vector& vector, cudaStream_t stream, const float** out);

  const Model* model_ = nullptr;
  DeviceArray<uint8_t> memory_;
  DeviceArray<float> scales_;
  size_t used_ = 0;
};

}  // namespace ring::cuda
