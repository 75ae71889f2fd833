// KV blocks as bytes: one block's first tokens into another block, out of the backend, or in. Of a
// block, a kv head's tokens lie one after the other, so all three are copies of such runs. What the
// bytes are kept for, and where, nobody here knows.
#include <cstring>

#include "cpu.h"

namespace ring::cpu {
namespace {

// Calls `move(run, bytes)` for the first tokens of a block, [layer][keys, values][kv head].
template <typename Move>
void for_runs(const Cpu& cpu, int32_t block, int32_t tokens, const Move& move) {
  const KvStore& kv = cpu.kv;
  const int64_t run_bytes = static_cast<int64_t>(tokens) * cpu.shape.head_dim * kv.element_bytes;
  for (int32_t layer = 0; layer < cpu.shape.layers; ++layer) {
    for (uint8_t* base : {kv.keys, kv.values}) {
      for (int32_t head = 0; head < cpu.shape.kv_heads; ++head) {
        const int64_t at = (static_cast<int64_t>(block) * cpu.shape.kv_heads + head);
        move(base + layer * kv.layer_bytes + at * kv.head_bytes, static_cast<size_t>(run_bytes));
      }
    }
  }
}

}  // namespace

void copy_kv(Cpu& cpu, int32_t from, int32_t to, int32_t tokens) {
  const int64_t apart = static_cast<int64_t>(to - from) * cpu.shape.kv_heads * cpu.kv.head_bytes;
  for_runs(cpu, from, tokens, [&](uint8_t* run, size_t bytes) { memcpy(run + apart, run, bytes); });
}

void read_kv(const Cpu& cpu, int32_t block, int32_t tokens, uint8_t* into) {
  for_runs(cpu, block, tokens, [&](const uint8_t* run, size_t bytes) {
    memcpy(into, run, bytes);
    into += bytes;
  });
}

void write_kv(Cpu& cpu, int32_t block, int32_t tokens, const uint8_t* from) {
  for_runs(cpu, block, tokens, [&](uint8_t* run, size_t bytes) {
    memcpy(run, from, bytes);
    from += bytes;
  });
}

}  // namespace ring::cpu
