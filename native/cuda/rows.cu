// Kernels over whole rows of activations, a block each: embedding, norm, F16 copies.
#include "block.h"
#include "fragments.h"
#include "kernels.h"
#include "stored.h"

namespace ring::cuda {
namespace {

template <Dtype kDtype>
__global__ void embed_rows(const int32_t* stopped, const Matrix embedding, bool are_gathered,
                           const int32_t* ids, float* out) {
  if (is_stopped(stopped)) return;
  const int row = ids[blockIdx.x];
  const StoredRow<kDtype> stored =
      stored_row<kDtype>(embedding, are_gathered ? static_cast<int>(blockIdx.x) : row);
  const float* scales = scales_of(embedding, row);
  float* to = out + static_cast<int64_t>(blockIdx.x) * embedding.columns;
  for (int k = static_cast<int>(threadIdx.x); k < embedding.columns; k += kRowThreads) {
    to[k] = stored.at(k) * scale_at(embedding, scales, k);
  }
}

// The power of two by which a row is divided, so that its largest value has room in F16 and to
// spare. What is not finite stays so.
__device__ float factor_of(float largest) {
  constexpr int kExponent = 10;  // the largest becomes 2^10 to 2^11
  constexpr int kLeast = -100;   // whoever is smaller counts for nothing
  const int exponent = static_cast<int>(__float_as_uint(largest) >> 23 & 255u) - 127;
  if (exponent == 128) return 1.0f;
  const int shift = (exponent < kLeast ? kLeast : exponent) - kExponent;
  return __uint_as_float(static_cast<uint32_t>(shift + 127) << 23);
}

// The F16 copy of a row whose wide values each thread has written or may read; `largest` is of its
// own.
__device__ void narrow_row(const float* wide, int columns, float largest, float* shared,
                           uint16_t* out, float* factor_out) {
  const float factor = factor_of(reduce_block<true>(largest, shared));
  const float inverse = 1.0f / factor;
  for (int k = static_cast<int>(threadIdx.x); k < columns; k += kRowThreads) {
    out[place_of_column(k)] = half_of(wide[k] * inverse);
  }
  if (threadIdx.x == 0) *factor_out = factor;
}

__global__ void __launch_bounds__(kRowThreads)
    normalise_rows(const int32_t* stopped, const float* x, const float* weight, int columns,
                   float epsilon, const Activations out, int32_t* bad, int layer) {
  if (is_stopped(stopped)) return;
  __shared__ float sums[kRowThreads / kLanes], maxima[kRowThreads / kLanes];
  const int64_t at = static_cast<int64_t>(blockIdx.x) * columns;
  const float* from = x + at;
  float* to = out.wide + at;
  float squares = 0;
  for (int k = static_cast<int>(threadIdx.x); k < columns; k += kRowThreads) {
    squares = fmaf(from[k], from[k], squares);
  }
  const float mean = reduce_block<false>(squares, sums) / static_cast<float>(columns);
  if (threadIdx.x == 0 && bad != nullptr && !isfinite(mean)) atomicCAS(bad, -1, layer);
  const float factor = 1.0f / sqrtf(mean + epsilon);
  float largest = 0;
  for (int k = static_cast<int>(threadIdx.x); k < columns; k += kRowThreads) {
    const float value = weight[k] * (from[k] * factor);
    to[k] = value;
    largest = larger(fabsf(value), largest);
  }
  if (out.narrow == nullptr) return;
  narrow_row(to, columns, largest, maxima, out.narrow + at, out.factors + blockIdx.x);
}

__global__ void __launch_bounds__(kRowThreads)
    narrow_rows(const int32_t* stopped, const Activations x, int columns) {
  if (is_stopped(stopped)) return;
  __shared__ float maxima[kRowThreads / kLanes];
  const int64_t at = static_cast<int64_t>(blockIdx.x) * columns;
  const float* from = x.wide + at;
  float largest = 0;
  for (int k = static_cast<int>(threadIdx.x); k < columns; k += kRowThreads) {
    largest = larger(fabsf(from[k]), largest);
  }
  narrow_row(from, columns, largest, maxima, x.narrow + at, x.factors + blockIdx.x);
}

__global__ void __launch_bounds__(kRowThreads)
    gather_listed(const int32_t* stopped, const float* x, const int32_t* list, int columns,
                  float* out) {
  if (is_stopped(stopped)) return;
  const float* from = x + static_cast<int64_t>(list[blockIdx.x]) * columns;
  float* to = out + static_cast<int64_t>(blockIdx.x) * columns;
  for (int k = static_cast<int>(threadIdx.x); k < columns; k += kRowThreads) to[k] = from[k];
}

}  // namespace

cudaError_t embed(const Queue& queue, const Matrix& embedding, bool are_gathered,
                  const int32_t* ids, int tokens, float* out) {
  const auto kernel = embedding.dtype == Dtype::f8_e4m3 ? embed_rows<Dtype::f8_e4m3>
                      : embedding.dtype == Dtype::bf16  ? embed_rows<Dtype::bf16>
                                                        : embed_rows<Dtype::f32>;
  RING_LAUNCH(kernel, dim3(tokens), dim3(kRowThreads), 0, queue.stream, queue.stopped, embedding,
              are_gathered, ids, out);
  return cudaGetLastError();
}

cudaError_t normalise(const Queue& queue, const float* x, const float* weight, int rows,
                      int columns, float epsilon, const Activations& out, int32_t* bad, int layer) {
  RING_LAUNCH(normalise_rows, dim3(rows), dim3(kRowThreads), 0, queue.stream, queue.stopped, x,
              weight, columns, epsilon, out, bad, layer);
  return cudaGetLastError();
}

cudaError_t narrow(const Queue& queue, const Activations& x, int rows, int columns) {
  RING_LAUNCH(narrow_rows, dim3(rows), dim3(kRowThreads), 0, queue.stream, queue.stopped, x,
              columns);
  return cudaGetLastError();
}

cudaError_t gather_rows(const Queue& queue, const float* x, const int32_t* list, int rows,
                        int columns, float* out) {
  RING_LAUNCH(gather_listed, dim3(rows), dim3(kRowThreads), 0, queue.stream, queue.stopped, x, list,
              columns, out);
  return cudaGetLastError();
}

}  // namespace ring::cuda
