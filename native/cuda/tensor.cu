// Products on tensor cores, at the memory's speed for few rows of activations (tiles.cu is for
// many): weights are the left
// operand, 16 rows of them at a time, read once in the checkpoint's own layout, and activations the
// right one, eight rows at a time. Sums are F32, gathered anew for every 128 columns of FP8, where
// a block's scale ends. A block of threads takes two such strips (gate and up of the same rows,
// where outputs are gated), and its warps share out the columns, so an output's order of summation
// depends on the weight's columns alone.
#include "block.h"
#include "strips.h"
#include "sum.h"
#include "swiglu.h"

namespace ring::cuda {
namespace {

// Weights of a block of columns, as a lane holds them.
struct WeightBlock {
  uint4 of[kStrips][2][kSteps];
};

template <typename Stored>
__device__ inline void read_weights(const Strip (&strips)[kStrips], int block, int step,
                                    int columns, WeightBlock& weights) {
  const int column = lane_column<Stored>(block, step);
#pragma unroll
  for (int strip = 0; strip < kStrips; ++strip) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      weights.of[strip][half][step] =
          column < columns ? load_once(strips[strip].row[half] + column * Stored::kBytes)
                           : make_uint4(0, 0, 0, 0);
    }
  }
}

// Marks of NaN codes in the two rows of a lane's strips.
struct Marks {
  uint32_t of[kStrips][2];
};

// Sums of the products of one block of columns, added to what is there. Weights of the next block
// are asked for as soon as there is room for them, so that they are under way meanwhile.
template <typename Stored, int kTiles>
__device__ void multiply_block(const Strip (&strips)[kStrips], WeightBlock& weights, int block,
                               int end, int columns, const uint8_t* const (&x)[kTiles],
                               float (&sums)[kTiles][kStrips][4], Marks& marks) {
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    const int column = lane_column<Stored>(block, step);
    uint4 activations[kTiles][2];
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        const int at = column * Stored::kActivationBytes + part * kLaneBytes;
        activations[tile][part] = column < columns ? *reinterpret_cast<const uint4*>(x[tile] + at)
                                                   : make_uint4(0, 0, 0, 0);
      }
    }
#pragma unroll
    for (int slice = 0; slice < Stored::kSlices; ++slice) {
      uint32_t a[kStrips][4];
#pragma unroll
      for (int strip = 0; strip < kStrips; ++strip) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          Stored::weights_of(weights.of[strip][half][step], slice, a[strip][half],
                             a[strip][half + 2], marks.of[strip][half]);
        }
      }
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile)
        Stored::add_products(sums[tile], a,
                             Stored::prepared(activations[tile][slice / Stored::kPartSlices]),
                             slice % Stored::kPartSlices);
    }
    if (block + 1 < end) read_weights<Stored>(strips, block + 1, step, columns, weights);
  }
}

// A warp's share of the columns.
template <typename Stored, int kTiles>
__device__ void multiply_share(const Strip (&strips)[kStrips], int columns,
                               const uint8_t* const (&x)[kTiles],
                               float (&totals)[kTiles][kStrips][4], Marks& marks) {
  const int warps = static_cast<int>(blockDim.x) / kLanes;
  const int warp = static_cast<int>(threadIdx.x) / kLanes;
  const int blocks = (columns + kBlockColumns<Stored> - 1) / kBlockColumns<Stored>;
  const int each = (blocks + warps - 1) / warps;
  const int end = (warp + 1) * each < blocks ? (warp + 1) * each : blocks;
  WeightBlock weights;
  if (warp * each < end) {
#pragma unroll
    for (int step = 0; step < kSteps; ++step)
      read_weights<Stored>(strips, warp * each, step, columns, weights);
  }
  for (int block = warp * each; block < end; ++block) {
    float sums[kTiles][kStrips][4] = {};
    multiply_block<Stored, kTiles>(strips, weights, block, end, columns, x, sums, marks);
#pragma unroll
    for (int strip = 0; strip < kStrips; ++strip) {
      const float* scales = strips[strip].scales;
      const float scale = scales == nullptr
                              ? 1.0f
                              : scales[block * kBlockColumns<Stored> >> strips[strip].scale_shift];
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          totals[tile][strip][i] = fmaf(scale, sums[tile][strip][i], totals[tile][strip][i]);
        }
      }
    }
  }
}

// What the warps have summed, and which rows have a NaN code.
template <int kTiles>
struct Shared {
  float sums[kWarpsMost][kTiles * 4][kStrips][kLanes];
  int nan_rows[kStrips][kStripRows];

  // One output, over the warps in their order.
  __device__ float total(int strip, int index, int lane) const {
    const int warps = static_cast<int>(blockDim.x) / kLanes;
    float total = sums[0][index][strip][lane];
    for (int warp = 1; warp < warps; ++warp) total += sums[warp][index][strip][lane];
    return total;
  }
};

template <int kTiles>
__device__ void keep_sums(const float (&totals)[kTiles][kStrips][4], const Marks& marks,
                          Shared<kTiles>& shared) {
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int warp = static_cast<int>(threadIdx.x) / kLanes;
#pragma unroll
  for (int strip = 0; strip < kStrips; ++strip) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (is_nan_marked(marks.of[strip][half]))
        atomicOr(&shared.nan_rows[strip][lane / 4 + half * 8], 1);
    }
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        shared.sums[warp][tile * 4 + i][strip][lane] = totals[tile][strip][i];
    }
  }
}

// Rows [first, end) of a run, at most 8 * kTiles of them.
template <typename Stored, int kTiles, bool kIsGated>
__device__ void multiply_tile(const Run& run, int first, int end, const Activations& x,
                              const Order& order, const Outputs& outputs) {
  __shared__ Shared<kTiles> shared;
  const Matrix& w = run.weight;
  const Matrix& second = kIsGated ? run.up : run.weight;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int first_row = static_cast<int>(blockIdx.x) * kStripRows * (kIsGated ? 1 : kStrips);
  const Strip strips[kStrips] = {
      strip_of<Stored>(w, first_row),
      strip_of<Stored>(second, kIsGated ? first_row : first_row + kStripRows)};
  const uint8_t* activations[kTiles];
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    // Beyond the last row that one again: a sum is of its own row alone.
    const int row = first + tile * kTokens + lane / 4;
    activations[tile] =
        Stored::row_of(x, placed(order.source, row < end ? row : end - 1), w.columns);
  }
  if (threadIdx.x < kStrips * kStripRows)
    shared.nan_rows[threadIdx.x / kStripRows][threadIdx.x % kStripRows] = 0;
  __syncthreads();

  float totals[kTiles][kStrips][4] = {};
  Marks marks = {};
  multiply_share<Stored, kTiles>(strips, w.columns, activations, totals, marks);
  keep_sums<kTiles>(totals, marks, shared);
  __syncthreads();

  constexpr int kOutputs = kTiles * 4 * kLanes * (kIsGated ? 1 : kStrips);
  for (int at = static_cast<int>(threadIdx.x); at < kOutputs; at += static_cast<int>(blockDim.x)) {
    const int from = at % kLanes, index = at / kLanes % (kTiles * 4);
    const int strip = at / kLanes / (kTiles * 4);
    const int i = index % 4, strip_row = from / 4 + i / 2 * 8;
    const int row = first_row + strip * kStripRows + strip_row;
    const int token = first + index / 4 * kTokens + from % 4 * 2 + i % 2;
    if (row >= w.rows || token >= end) continue;
    const float factor = Stored::kHasFactors ? x.factors[placed(order.source, token)] : 1.0f;
    const auto output = [&](const Matrix& of, int of_strip) {
      if (shared.nan_rows[of_strip][strip_row] != 0) return __uint_as_float(0x7fc00000u);
      return shared.total(of_strip, index, from) * (scale_of_row<Stored>(of, row) * factor);
    };
    float value = output(w, strip);
    if (kIsGated) value = swiglu(value, output(run.up, 1));
    if (outputs.bias != nullptr) value += outputs.bias[row];
    float* out = outputs.out + placed(order.target, token) * w.rows + row;
    *out = outputs.adds ? *out + value : value;
  }
}

static_assert(kEndingColumns == kStrips * kStripRows, "what a block gives of an output");

__device__ void end_layer(const Ending& ending, int columns) {
  if (ending.tickets == nullptr ||
      !comes_last(ending.tickets + blockIdx.x, static_cast<int>(gridDim.y)))
    return;
  const int first = static_cast<int>(blockIdx.x) * kEndingColumns;
  for (int at = static_cast<int>(threadIdx.x); at < ending.tokens * kEndingColumns;
       at += static_cast<int>(blockDim.x)) {
    const int column = first + at % kEndingColumns;
    if (column >= columns) continue;
    settle_one(ending.pairs, nullptr, ending.shared, at / kEndingColumns, ending.top_k, columns,
               column, ending.residual);
  }
}

constexpr int kThreadsMost = kWarpsMost * kLanes;

// The tiles of several runs; or, where `runs` is null, consecutive tiles of `only`, which is read
// where it was passed: a copy of it would lie in local memory.
template <typename Stored, int kTiles, bool kIsGated>
__global__ void __launch_bounds__(kThreadsMost, kTiles == 1 ? 2 : 1)
    multiply_tiles(const int32_t* stopped, const __grid_constant__ Run only, const Run* runs,
                   const Tile* tiles, const Activations x, const Order order, const Outputs outputs,
                   const Ending ending) {
  const int size = kTiles * kTokens;
  int first = static_cast<int>(blockIdx.y) * size;
  int end = first + size < only.rows ? first + size : only.rows;
  const Run* run = &only;
  if (runs != nullptr) {
    const Tile tile = tiles[blockIdx.y];
    run = runs + tile.run;
    first = tile.row;
    end = tile.row + tile.rows;
  }
  // Both are read before either is looked at.
  if (is_stopped(stopped)) return;
  if (first < end) multiply_tile<Stored, kTiles, kIsGated>(*run, first, end, x, order, outputs);
  if constexpr (!kIsGated) end_layer(ending, only.weight.rows);
}

bool is_gated(const Run& run) { return run.up.present(); }

dim3 blocks(const Run& run, int tiles) {
  const int rows = kStripRows * (is_gated(run) ? 1 : kStrips);
  return dim3((run.weight.rows + rows - 1) / rows, tiles);
}

// One run, by tiles of consecutive rows; or the tiles of several.
struct Launch {
  const Queue& queue;
  const Run& like;  // in shape and format
  const Run* runs;  // null: `like` itself
  const Tile* tiles;
  int tile_count;
  int rows_most;
  const Activations& x;
  const Order& order;
  const Outputs& out;
  const Ending& ending;
};

template <typename Stored, int kTiles, bool kIsGated>
void launch_tiles(const Launch& l) {
  const dim3 threads(warps_of<Stored>(l.like.weight.columns) * kLanes);
  const int size = kTiles * kTokens;
  const int tiles = l.runs == nullptr ? (l.like.rows + size - 1) / size : l.tile_count;
  const auto kernel = multiply_tiles<Stored, kTiles, kIsGated>;
  RING_LAUNCH(kernel, blocks(l.like, tiles), threads, 0, l.queue.stream, l.queue.stopped, l.like,
              l.runs, l.tiles, l.x, l.order, l.out, l.ending);
}

// How many tiles of eight are taken at once shows in no bit of an output.
template <typename Stored, bool kIsGated>
void launch_rows(const Launch& l) {
  if (l.rows_most <= kTokens)
    launch_tiles<Stored, 1, kIsGated>(l);
  else if (l.rows_most <= 2 * kTokens)
    launch_tiles<Stored, 2, kIsGated>(l);
  else
    launch_tiles<Stored, kTileRows / kTokens, kIsGated>(l);
}

cudaError_t launch(const Launch& l) {
  if (l.rows_most > kTileRows)
    return multiply_in_large_tiles(l.queue, l.like, l.runs, l.tiles, l.tile_count, l.rows_most, l.x,
                                   l.order, l.out);
  if (l.like.weight.dtype == Dtype::bf16)
    is_gated(l.like) ? launch_rows<Bf16, true>(l) : launch_rows<Bf16, false>(l);
  else
    is_gated(l.like) ? launch_rows<Fp8, true>(l) : launch_rows<Fp8, false>(l);
  return cudaGetLastError();
}

bool is_power_of_two(int value) { return value > 0 && (value & (value - 1)) == 0; }

}  // namespace

bool suits_tensor_cores(const Matrix& w) {
  if (w.dtype == Dtype::bf16) return w.scales == nullptr && w.columns % kLaneColumns<Bf16> == 0;
  const bool scales_suit =
      w.block_columns == 0 || (w.block_columns >= kBlockColumns<Fp8> &&
                               is_power_of_two(w.block_columns) && w.block_rows % kStripRows == 0);
  return w.dtype == Dtype::f8_e4m3 && w.columns % kLaneColumns<Fp8> == 0 && scales_suit;
}

bool multiplies_narrow(const Matrix& w) {
  return suits_tensor_cores(w) && w.dtype == Dtype::f8_e4m3;
}

cudaError_t multiply_on_tensor_cores(const Queue& queue, const Run& run, const Activations& x,
                                     const Outputs& out) {
  return launch({queue, run, nullptr, nullptr, 0, run.rows, x, Order{}, out, Ending{}});
}

cudaError_t multiply_runs_on_tensor_cores(const Queue& queue, const Run& like, const Run* runs,
                                          const Tile* tiles, int tile_count, int rows_most,
                                          const Activations& x, const Order& order,
                                          const Outputs& out, const Ending& ending) {
  return launch({queue, like, runs, tiles, tile_count, rows_most, x, order, out, ending});
}

}  // namespace ring::cuda
