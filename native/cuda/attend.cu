// Attention: projections become queries, keys and values; then every query head attends to the
// positions of its own sequence, kSplitPositions of them a block, and whichever block is the last
// joins the parts, from first to last. How a sequence is split depends on its own length alone, so
// its results do not depend on which tokens share the step, nor on how many of its own do.
#include "block.h"
#include "kernels.h"
#include "stored.h"

namespace ring::cuda {
namespace {

constexpr int kHeadThreads = kLanes;  // a warp takes one head
constexpr int kThreads = 128;         // of a block that attends

__host__ __device__ inline int64_t qkv_rows(const Shape& s) {
  return static_cast<int64_t>(s.heads + 2 * s.kv_heads) * s.head_dim;
}

__device__ int64_t kv_offset(const LayerKv& kv, const Positions& where, const Shape& s, int token,
                             int position, int kv_head) {
  const int block = where.blocks[where.first_block[token] + position / kv.block_tokens];
  const int64_t row = (static_cast<int64_t>(block) * s.kv_heads + kv_head) * kv.block_tokens +
                      position % kv.block_tokens;
  return row * s.head_dim;
}

__device__ void keep(uint8_t* base, int64_t at, bool is_wide, float value) {
  if (is_wide)
    reinterpret_cast<float*>(base)[at] = value;
  else
    reinterpret_cast<uint16_t*>(base)[at] = bf16_of(value);
}

// Query heads, then key heads, then value heads; a warp for each and token.
__global__ void __launch_bounds__(kHeadThreads)
    finish_heads(const int32_t* stopped, const Shape s, const HeadWeights weights,
                 const Positions where, const LayerKv kv, float* qkv) {
  if (is_stopped(stopped)) return;
  const int head = static_cast<int>(blockIdx.x), token = static_cast<int>(blockIdx.y);
  const int lane = static_cast<int>(threadIdx.x), dim = s.head_dim;
  float* x = qkv + token * qkv_rows(s) + head * dim;
  if (weights.bias != nullptr) {
    for (int i = lane; i < dim; i += kLanes) x[i] += weights.bias[head * dim + i];
  }
  const bool is_query = head < s.heads, is_value = head >= s.heads + s.kv_heads;
  const float* norm = is_query ? weights.query_norm : weights.key_norm;
  if (!is_value && norm != nullptr) {
    float squares = 0;
    for (int i = lane; i < dim; i += kLanes) squares = fmaf(x[i], x[i], squares);
    const float mean = warp_sum(squares) / static_cast<float>(dim);
    const float factor = 1.0f / sqrtf(mean + s.epsilon);
    for (int i = lane; i < dim; i += kLanes) x[i] = norm[i] * (x[i] * factor);
  }
  __syncwarp();
  if (!is_value) {
    // Half-split pairs: dimension i turns with i + rotary_dim / 2; the rest passes through.
    const int half = s.rotary_dim / 2;
    for (int i = lane; i < half; i += kLanes) {
      const float cos = where.cos[token * half + i], sin = where.sin[token * half + i];
      const float a = x[i], b = x[i + half];
      x[i] = a * cos - b * sin;
      x[i + half] = b * cos + a * sin;
    }
    __syncwarp();
  }
  if (is_query) return;
  const int kv_head = is_value ? head - s.heads - s.kv_heads : head - s.heads;
  const int64_t at = kv_offset(kv, where, s, token, where.position[token], kv_head);
  for (int i = lane; i < dim; i += kLanes)
    keep(is_value ? kv.values : kv.keys, at + i, kv.is_wide, x[i]);
}

// Eight elements of a row that begins at a place for them, or one of any row.
__device__ inline void read_eight(const float* from, float (&out)[8]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float4 four = *reinterpret_cast<const float4*>(from + 4 * i);
    out[4 * i] = four.x, out[4 * i + 1] = four.y, out[4 * i + 2] = four.z, out[4 * i + 3] = four.w;
  }
}
__device__ inline void read_eight(const uint16_t* from, float (&out)[8]) {
  const uint4 words = *reinterpret_cast<const uint4*>(from);
  const uint32_t of[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    out[2 * i] = __uint_as_float(of[i] << 16);
    out[2 * i + 1] = __uint_as_float(of[i] & 0xffff0000u);
  }
}
__device__ inline float read_one(const float* from) { return *from; }
__device__ inline float read_one(const uint16_t* from) { return widen_bf16(*from); }

// Scores of one position for every query head of the group.
template <int kGroup, typename Element>
__device__ void score(const Element* key, const float* queries, int dim, float (&scores)[kGroup]) {
  const int whole = dim % 8 == 0 ? dim : 0;
  for (int d = 0; d < whole; d += 8) {
    float eight[8];
    read_eight(key + d, eight);
#pragma unroll
    for (int q = 0; q < kGroup; ++q) {
#pragma unroll
      for (int i = 0; i < 8; ++i) scores[q] = fmaf(queries[q * dim + d + i], eight[i], scores[q]);
    }
  }
  for (int d = whole; d < dim; ++d) {
    const float one = read_one(key + d);
#pragma unroll
    for (int q = 0; q < kGroup; ++q) scores[q] = fmaf(queries[q * dim + d], one, scores[q]);
  }
}

// Parts of one (token, query head, split): head_dim sums, then the largest score and the sum of
// exponentials.
__host__ __device__ inline int64_t part_floats(const Shape& s) { return s.head_dim + 2; }

__host__ __device__ inline int splits_of(int positions) {
  return (positions + kSplitPositions - 1) / kSplitPositions;
}

// Joins the splits of a query head at column d, from first to last.
__device__ float join_splits(const float* part, int splits, int dim, int d) {
  const int64_t each = dim + 2;  // as part_floats
  float most = part[dim];
  for (int i = 1; i < splits; ++i) most = larger(part[i * each + dim], most);
  float sum = 0, total = 0;
  for (int i = 0; i < splits; ++i) {
    const float* one = part + i * each;
    const float weight = expf(one[dim] - most);
    sum = fmaf(weight, one[d], sum);
    total = fmaf(weight, one[dim + 1], total);
  }
  return sum / total;
}

// Attends one token's group of query heads to one split. kGroup: at least the group's size, the
// spare heads' queries are zeros.
template <int kGroup, typename Element>
__global__ void __launch_bounds__(kThreads)
    attend_split(const int32_t* stopped, const Shape s, const Positions where, const LayerKv kv,
                 int first_token, int splits_most, const float* qkv, float* parts, int32_t* tickets,
                 float* out) {
  if (is_stopped(stopped)) return;
  RING_DYNAMIC_SHARED(float, shared);
  const int split = static_cast<int>(blockIdx.x), kv_head = static_cast<int>(blockIdx.y);
  const int token = first_token + static_cast<int>(blockIdx.z);
  const int group = s.heads / s.kv_heads, dim = s.head_dim;
  const int visible = where.position[token] + 1;
  if (split >= splits_of(visible)) return;  // the whole block
  const int begin = split * kSplitPositions;
  const int count = visible - begin < kSplitPositions ? visible - begin : kSplitPositions;
  const int thread = static_cast<int>(threadIdx.x);
  float* queries = shared;                // [kGroup][dim]
  float* shares = shared + kGroup * dim;  // [kGroup][kSplitPositions]
  const float* from = qkv + token * qkv_rows(s) + kv_head * group * dim;
  for (int i = thread; i < kGroup * dim; i += kThreads) queries[i] = i < group * dim ? from[i] : 0;
  __syncthreads();

  const float scale = 1.0f / sqrtf(static_cast<float>(dim));
  const Element* keys = reinterpret_cast<const Element*>(kv.keys);
  for (int p = thread; p < count; p += kThreads) {
    float scores[kGroup] = {};
    score<kGroup>(keys + kv_offset(kv, where, s, token, begin + p, kv_head), queries, dim, scores);
#pragma unroll
    for (int q = 0; q < kGroup; ++q) shares[q * kSplitPositions + p] = scores[q] * scale;
  }
  __syncthreads();

  float* part =
      parts +
      ((static_cast<int64_t>(blockIdx.z) * s.heads + kv_head * group) * splits_most + split) *
          part_floats(s);
  const int64_t part_stride = splits_most * part_floats(s);  // from query head to query head
  for (int q = thread / kLanes; q < group; q += kThreads / kLanes) {
    float* row = shares + q * kSplitPositions;
    const int lane = thread % kLanes;
    float most = row[0];
    for (int p = lane; p < count; p += kLanes) most = larger(row[p], most);
    most = warp_max(most);
    __syncwarp();  // all have read the first
    float sum = 0;
    for (int p = lane; p < count; p += kLanes) {
      row[p] = expf(row[p] - most);
      sum += row[p];
    }
    sum = warp_sum(sum);
    if (lane == 0) {
      part[q * part_stride + dim] = most;
      part[q * part_stride + dim + 1] = sum;
    }
  }
  __syncthreads();

  const Element* values = reinterpret_cast<const Element*>(kv.values);
  for (int d = thread; d < dim; d += kThreads) {
    float sums[kGroup] = {};
    for (int p = 0; p < count;) {
      // Positions of a KV block lie one after the other.
      const Element* value = values + kv_offset(kv, where, s, token, begin + p, kv_head) + d;
      const int left = kv.block_tokens - (begin + p) % kv.block_tokens;
      const int end = p + left < count ? p + left : count;
      for (; p < end; ++p, value += dim) {
        const float one = read_one(value);
#pragma unroll
        for (int q = 0; q < kGroup; ++q)
          sums[q] = fmaf(shares[q * kSplitPositions + p], one, sums[q]);
      }
    }
#pragma unroll
    for (int q = 0; q < kGroup; ++q) {
      if (q < group) part[q * part_stride + d] = sums[q];
    }
  }

  const int splits = splits_of(visible);
  if (!comes_last(tickets + static_cast<int64_t>(blockIdx.z) * s.kv_heads + kv_head, splits))
    return;
  float* to = out + (static_cast<int64_t>(token) * s.heads + kv_head * group) * dim;
  const float* first = part - split * part_floats(s);
  for (int at = thread; at < group * dim; at += kThreads)
    to[at] = join_splits(first + at / dim * part_stride, splits, dim, at % dim);
}

template <int kGroup>
void launch_attend(const Queue& queue, const Shape& s, const Positions& where, const LayerKv& kv,
                   int first_token, int tokens, int splits, const float* qkv, float* parts,
                   int32_t* tickets, float* out) {
  const auto kernel = kv.is_wide ? attend_split<kGroup, float> : attend_split<kGroup, uint16_t>;
  const size_t shared =
      static_cast<size_t>(kGroup) * (s.head_dim + kSplitPositions) * sizeof(float);
  RING_LAUNCH(kernel, dim3(splits, s.kv_heads, tokens), dim3(kThreads), shared, queue.stream,
              queue.stopped, s, where, kv, first_token, splits, qkv, parts, tickets, out);
}

}  // namespace

cudaError_t finish_projections(const Queue& queue, const Shape& shape, const HeadWeights& weights,
                               const Positions& where, const LayerKv& kv, int tokens, float* qkv) {
  RING_LAUNCH(finish_heads, dim3(shape.heads + 2 * shape.kv_heads, tokens), dim3(kHeadThreads), 0,
              queue.stream, queue.stopped, shape, weights, where, kv, qkv);
  return cudaGetLastError();
}

int64_t attention_part_floats(const Shape& shape, int tokens, int longest) {
  return static_cast<int64_t>(tokens) * shape.heads * splits_of(longest) * part_floats(shape);
}

cudaError_t attend(const Queue& queue, const Shape& shape, const Positions& where,
                   const LayerKv& kv, int first_token, int tokens, int longest, const float* qkv,
                   float* parts, int32_t* tickets, float* out) {
  const int group = shape.heads / shape.kv_heads, splits = splits_of(longest);
  const auto launch = group == 1   ? launch_attend<1>
                      : group == 2 ? launch_attend<2>
                      : group <= 4 ? launch_attend<4>
                      : group <= 8 ? launch_attend<8>
                                   : launch_attend<kGroupMost>;
  launch(queue, shape, where, kv, first_token, tokens, splits, qkv, parts, tickets, out);
  return cudaGetLastError();
}

}  // namespace ring::cuda
