// KV blocks as bytes: one block's first tokens into another block, out of the GPU, or in. Of a
// block, a kv head's tokens lie one after the other, so the heads of a layer are one copy of equal
// runs. Comes between steps and waits.
#include "state.h"

namespace ring::cuda {
namespace {

// Calls `move(first run of a layer's heads, bytes of a run)`, keys before values.
template <typename Move>
Status for_heads(Gpu& gpu, int32_t block, int32_t tokens, const Move& move) {
  const Shape& s = gpu.shape;
  for (int32_t layer = 0; layer < s.layers; ++layer) {
    const LayerKv kv = gpu.kv_of(layer);
    for (uint8_t* base : {kv.keys, kv.values}) {
      RING_GPU(move(base + static_cast<size_t>(block) * s.kv_heads * gpu.kv_head_bytes(),
                    gpu.kv_head_bytes() / gpu.limits.kv_block_tokens * tokens));
    }
  }
  return gpu.wait();
}

}  // namespace

Status copy_kv(Gpu& gpu, int32_t from, int32_t to, int32_t tokens) {
  const size_t pitch = gpu.kv_head_bytes(), heads = static_cast<size_t>(gpu.shape.kv_heads);
  const int64_t apart = (static_cast<int64_t>(to) - from) * static_cast<int64_t>(heads * pitch);
  return for_heads(gpu, from, tokens, [&](uint8_t* run, size_t bytes) {
    return cudaMemcpy2DAsync(run + apart, pitch, run, pitch, bytes, heads, cudaMemcpyDeviceToDevice,
                             gpu.compute);
  });
}

Status read_kv(Gpu& gpu, int32_t block, int32_t tokens, uint8_t* into) {
  const size_t pitch = gpu.kv_head_bytes(), heads = static_cast<size_t>(gpu.shape.kv_heads);
  return for_heads(gpu, block, tokens, [&](const uint8_t* run, size_t bytes) {
    uint8_t* const to = into;
    into += bytes * heads;
    return cudaMemcpy2DAsync(to, bytes, run, pitch, bytes, heads, cudaMemcpyDeviceToHost,
                             gpu.compute);
  });
}

Status write_kv(Gpu& gpu, int32_t block, int32_t tokens, const uint8_t* from) {
  const size_t pitch = gpu.kv_head_bytes(), heads = static_cast<size_t>(gpu.shape.kv_heads);
  return for_heads(gpu, block, tokens, [&](uint8_t* run, size_t bytes) {
    const uint8_t* const source = from;
    from += bytes * heads;
    return cudaMemcpy2DAsync(run, pitch, source, bytes, bytes, heads, cudaMemcpyHostToDevice,
                             gpu.compute);
  });
}

}  // namespace ring::cuda
