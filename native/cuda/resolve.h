// From what tokens have chosen to what their experts are computed by, on the GPU: one warp looks up
// slots and lists the rows of each expert, as the host does where it has a say (mix.cc).
#pragma once
#include "kernels.h"

namespace ring::cuda {

// Shared memory of resolve_hits.
inline size_t resolve_bytes(int pairs) { return 2 * sizeof(int32_t) * static_cast<size_t>(pairs); }

__device__ inline Matrix at_place(Matrix matrix, const uint8_t* data) {
  matrix.data = data;
  return matrix;
}

__device__ inline void list_expert(const Hits& hits, int expert, int pair, int row, int rows) {
  const SlotTable& table = hits.table;
  const Mlp& like = table.experts[expert];
  const uint8_t* slot = table.memory + table.slot_bytes * table.slot_of[expert];
  hits.lists.gated[pair] = {at_place(like.gate, slot), at_place(like.up, slot + table.up_at), row,
                            rows};
  hits.lists.down[pair] = {at_place(like.down, slot + table.down_at), {}, row, rows};
}

// `experts`: [tokens][top_k]. `shared`: resolve_bytes.
__device__ inline void resolve_hits(const Shape& s, const Hits& hits, const uint16_t* experts,
                                    int tokens, int32_t* shared) {
  const int pairs = tokens * s.top_k, lane = static_cast<int>(threadIdx.x);
  bool is_missing = false;
  for (int pair = lane; pair < pairs; pair += kLanes)
    is_missing = is_missing || hits.table.slot_of[experts[pair]] < 0;
  if (__ballot_sync(kAllLanes, is_missing) != 0) {
    if (lane == 0) *hits.stopped = hits.layer;
    return;
  }
  int32_t* first = shared;        // [pairs] the first pair with the same expert
  int32_t* rows = first + pairs;  // [pairs] rows of the expert; 0 where another pair is its first
  for (int pair = lane; pair < pairs; pair += kLanes) {
    int earliest = 0, count = 0;
    while (experts[earliest] != experts[pair]) ++earliest;
    for (int other = pair; earliest == pair && other < pairs; ++other)
      count += experts[other] == experts[pair] ? 1 : 0;
    first[pair] = earliest;
    rows[pair] = count;
  }
  __syncwarp();
  const HitLists& lists = hits.lists;
  for (int pair = lane; pair < pairs; pair += kLanes) {
    int start = 0, within = 0;
    for (int other = 0; other < first[pair]; ++other) start += rows[other];
    for (int other = first[pair]; other < pair; ++other)
      within += first[other] == first[pair] ? 1 : 0;
    lists.token_of_row[start + within] = pair / s.top_k;
    lists.pair_of_row[start + within] = pair;
    lists.tiles[pair] = {pair, start, rows[pair]};
    if (rows[pair] > 0) list_expert(hits, experts[pair], pair, start, rows[pair]);
  }
  if (hits.shared.gate.rows == 0) return;
  for (int token = lane; token < tokens; token += kLanes) {
    lists.token_of_row[pairs + token] = token;
    lists.pair_of_row[pairs + token] = pairs + token;
  }
  if (lane == 0) {
    lists.gated[pairs] = {hits.shared.gate, hits.shared.up, pairs, tokens};
    lists.down[pairs] = {hits.shared.down, {}, pairs, tokens};
    lists.tiles[pairs] = {pairs, pairs, tokens};
  }
}

}  // namespace ring::cuda
