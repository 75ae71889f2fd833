// KV blocks between steps: what may be asked of them is checked here, the backend copies. Which
// tokens a block holds is known to the engine alone.
#include "device.h"

namespace ring {

const char* Device::identify() const {
  return compute_ == nullptr ? "" : backend_->identify(compute_);
}

Status Device::check_block(int32_t block, int32_t tokens) const {
  RING_TRY(require_open());
  for (const Step& step : steps_) {
    if (step.phase != Phase::free)
      return failure(Code::busy, "step %d is open; KV blocks are moved between steps", step.serial);
  }
  if (block < 0 || block >= limits_.kv_blocks)
    return failure(Code::bad_argument, "there is no KV block %d; there are %d", block,
                   limits_.kv_blocks);
  if (tokens < 1 || tokens > limits_.kv_block_tokens)
    return failure(Code::bad_argument, "a KV block holds 1 to %d tokens, not %d",
                   limits_.kv_block_tokens, tokens);
  return {};
}

Status Device::check_kv_bytes(int32_t tokens, size_t length) const {
  const Shape& s = model_.shape;
  const size_t element_bytes = limits_.kv_dtype == Dtype::f32 ? 4 : 2;
  const size_t bytes = size_t{2} * static_cast<size_t>(s.layers) * static_cast<size_t>(s.kv_heads) *
                       static_cast<size_t>(s.head_dim) * element_bytes *
                       static_cast<size_t>(tokens);
  if (length != bytes)
    return failure(Code::bad_argument, "%d tokens have %zu bytes of keys and values, not %zu",
                   tokens, bytes, length);
  return {};
}

Status Device::copy_block(int32_t from, int32_t to, int32_t tokens) {
  RING_TRY(check_block(from, tokens));
  RING_TRY(check_block(to, tokens));
  if (from == to) return failure(Code::bad_argument, "KV block %d is copied onto itself", from);
  backend_->copy_kv(compute_, from, to, tokens);
  return {};
}

Status Device::read_block(int32_t block, int32_t tokens, uint8_t* into, size_t length) const {
  RING_TRY(check_block(block, tokens));
  RING_TRY(check_kv_bytes(tokens, length));
  backend_->read_kv(compute_, block, tokens, into);
  return {};
}

Status Device::write_block(int32_t block, int32_t tokens, const uint8_t* from, size_t length) {
  RING_TRY(check_block(block, tokens));
  RING_TRY(check_kv_bytes(tokens, length));
  backend_->write_kv(compute_, block, tokens, from);
  return {};
}

}  // namespace ring
