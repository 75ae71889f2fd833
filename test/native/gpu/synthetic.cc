// See synthetic.h.
#include "synthetic.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cmath>

namespace ring::gpu {
namespace {

using test::require;

constexpr int kBlock = 128;  // rows and columns that have one scale
constexpr size_t kScalesMost = 1 << 20;
constexpr size_t kPhase = 5;  // where checkpoints' tensors begin, nothing is aligned

}  // namespace

EndlessBytes::EndlessBytes(Dtype dtype, size_t piece_bytes, size_t pieces)
    : bytes_(piece_bytes * pieces) {
  const int file = memfd_create("random", 0);
  require(file >= 0 && ftruncate(file, static_cast<off_t>(piece_bytes)) == 0,
          "no memory for random bytes");
  void* const room = mmap(nullptr, bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  require(room != MAP_FAILED, "no room for random bytes");
  memory_ = static_cast<uint8_t*>(room);
  for (size_t piece = 0; piece < pieces; ++piece) {
    void* const at = mmap(memory_ + piece * piece_bytes, piece_bytes, PROT_READ | PROT_WRITE,
                          MAP_SHARED | MAP_FIXED, file, 0);
    require(at != MAP_FAILED, "random bytes cannot be mapped");
  }
  close(file);
  const std::vector<uint8_t> made =
      make_here(dtype, static_cast<int64_t>(piece_bytes) / test::bytes_of(dtype), 71);
  std::copy(made.begin(), made.end(), memory_);
}

EndlessBytes::~EndlessBytes() { munmap(memory_, bytes_); }

const uint8_t* EndlessBytes::next(size_t bytes) {
  require(bytes < bytes_, "a matrix is larger than the random bytes");
  if (next_ + bytes > bytes_) next_ = next_ % 2048 * 2;
  const uint8_t* const at = memory_ + next_;
  // Even steps keep numbers of two bytes whole.
  next_ += bytes + 2 * 67;
  return at;
}

SyntheticModel::SyntheticModel(const ModelShape& m, bool is_tiny)
    : fp8_(Dtype::f8_e4m3, is_tiny ? 1 << 20 : 64 << 20, is_tiny ? 2 : 32),
      bf16_(Dtype::bf16, is_tiny ? 1 << 20 : 64 << 20, is_tiny ? 2 : 64) {
  const Shape s = m.shape();
  model.shape = s;
  model.scales.reserve(kScalesMost);
  fp8_.next(kPhase);
  model.embedding = bf16(m.vocabulary, m.hidden);
  model.head = bf16(m.vocabulary, m.hidden);
  model.final_norm.assign(static_cast<size_t>(m.hidden), 1.0f);
  for (int i = 0; i < s.rotary_dim / 2; ++i)
    model.rope_inverse.push_back(
        std::pow(600000.0f, -2.0f * static_cast<float>(i) / static_cast<float>(s.rotary_dim)));
  for (int layer = 0; layer < m.layers; ++layer) {
    LayerWeights& w = model.layers.emplace_back();
    w.input_norm = w.post_norm = model.final_norm;
    w.query_norm.assign(static_cast<size_t>(m.head_dim), 1.0f);
    w.key_norm = w.query_norm;
    w.qkv = fp8(s.qkv_rows(), m.hidden);
    w.attention_out = fp8(m.hidden, m.heads * m.head_dim);
    w.mlp = mlp(s.is_moe(layer) ? m.width : m.dense_width);
    if (!s.is_moe(layer)) continue;
    w.router = bf16(m.experts, m.hidden);
    w.router_bias.assign(static_cast<size_t>(m.experts), 0.01f);
  }
  for (int expert = 0; expert < s.moe_layers() * m.experts; ++expert)
    model.experts.push_back(mlp(m.width));
}

Matrix SyntheticModel::fp8(int rows, int columns) {
  Matrix matrix;
  matrix.data = fp8_.next(static_cast<size_t>(rows) * columns);
  matrix.rows = rows;
  matrix.columns = columns;
  matrix.dtype = Dtype::f8_e4m3;
  matrix.block_rows = matrix.block_columns = kBlock;
  matrix.scale_columns = (columns + kBlock - 1) / kBlock;
  const size_t count = static_cast<size_t>((rows + kBlock - 1) / kBlock) * matrix.scale_columns;
  const auto [found, is_new] = scales_at_.try_emplace({rows, columns}, model.scales.size());
  if (is_new) {
    require(model.scales.size() + count <= kScalesMost, "too many scales");
    // Codes have a deviation of 100; outputs then have that of activations.
    const float scale = 0.01f / std::sqrt(static_cast<float>(columns));
    for (size_t i = 0; i < count; ++i)
      model.scales.push_back(scale * (1 + 0.1f * static_cast<float>(i % 7)));
  }
  matrix.scales = model.scales.data() + found->second;
  return matrix;
}

Matrix SyntheticModel::bf16(int rows, int columns) {
  Matrix matrix;
  matrix.data = bf16_.next(2 * static_cast<size_t>(rows) * columns);
  matrix.rows = rows;
  matrix.columns = columns;
  matrix.dtype = Dtype::bf16;
  return matrix;
}

Mlp SyntheticModel::mlp(int width) {
  const int hidden = model.shape.hidden;
  return {fp8(width, hidden), fp8(width, hidden), fp8(hidden, width)};
}

}  // namespace ring::gpu
