// Products on tensor cores for many rows of activations: a block of threads makes of its weights
// what products take once, step by step in shared memory, and multiplies them with 64 or 128 rows.
// A warp takes two strips of weights and 32 rows, over all columns; it adds them up in the shares
// in which the warps of tensor.cu do, so that a row has the same bits here and there.
#include "strips.h"
#include "swiglu.h"

namespace ring::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kTiles = 4;  // of kTokens rows, for a warp
constexpr int kGroupRows = kTiles * kTokens;
constexpr int kParts = 2;  // of 16 bytes, that a lane takes of a row of activations in a step

// kGroups: of rows of activations, each for as many warps as there are pairs of strips.
template <int kGroups>
struct Plan {
  static constexpr int kPairs = kWarps / kGroups;
  static constexpr int kAllStrips = kPairs * kStrips;
  static constexpr int kUnits = kGroups * kTiles / kWarps;  // tiles of rows that a warp brings in
};

// One step of columns in shared memory, as lanes take it.
template <typename Stored, int kGroups>
struct Stage {
  uint4 weights[Plan<kGroups>::kAllStrips][Stored::kSlices][kLanes];
  uint4 rows[kGroups * kTiles][kParts][kLanes];
};

// What a thread brings into a stage: of a warp's own strip, and of its tiles of rows.
template <typename Stored, int kGroups>
struct Loader {
  Strip strip;
  const uint8_t* rows[Plan<kGroups>::kUnits];
  uint4 weights_held[2], rows_held[Plan<kGroups>::kUnits][kParts];
  uint32_t marks[2];

  __device__ void read(int step, int columns, int warp) {
    const int column = lane_column<Stored>(step / kSteps, step % kSteps);
    const bool is_within = column < columns;
    if (warp < Plan<kGroups>::kAllStrips) {
#pragma unroll
      for (int half = 0; half < 2; ++half)
        weights_held[half] = is_within ? load_once(strip.row[half] + column * Stored::kBytes)
                                       : make_uint4(0, 0, 0, 0);
    }
#pragma unroll
    for (int unit = 0; unit < Plan<kGroups>::kUnits; ++unit) {
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        const int at = column * Stored::kActivationBytes + part * kLaneBytes;
        rows_held[unit][part] =
            is_within ? *reinterpret_cast<const uint4*>(rows[unit] + at) : make_uint4(0, 0, 0, 0);
      }
    }
  }

  __device__ void store(Stage<Stored, kGroups>& stage, int warp, int lane) {
    if (warp < Plan<kGroups>::kAllStrips) {
#pragma unroll
      for (int slice = 0; slice < Stored::kSlices; ++slice) {
        uint32_t a[4];
#pragma unroll
        for (int half = 0; half < 2; ++half)
          Stored::weights_of(weights_held[half], slice, a[half], a[half + 2], marks[half]);
        stage.weights[warp][slice][lane] = make_uint4(a[0], a[1], a[2], a[3]);
      }
    }
#pragma unroll
    for (int unit = 0; unit < Plan<kGroups>::kUnits; ++unit) {
#pragma unroll
      for (int part = 0; part < kParts; ++part)
        stage.rows[warp + unit * kWarps][part][lane] = Stored::prepared(rows_held[unit][part]);
    }
  }
};

using Sums = float[kTiles][kStrips][4];

// Adds the products of one step, in the order of its slices.
template <typename Stored, int kGroups>
__device__ void add_step(const Stage<Stored, kGroups>& stage, int pair, int group, int lane,
                         Sums& sums) {
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    uint4 rows[kTiles];
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
      rows[tile] = stage.rows[group * kTiles + tile][part][lane];
#pragma unroll
    for (int within = 0; within < Stored::kPartSlices; ++within) {
      uint32_t a[kStrips][4];
#pragma unroll
      for (int strip = 0; strip < kStrips; ++strip) {
        const int slice = part * Stored::kPartSlices + within;
        const uint4 words = stage.weights[pair * kStrips + strip][slice][lane];
        a[strip][0] = words.x, a[strip][1] = words.y, a[strip][2] = words.z, a[strip][3] = words.w;
      }
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile)
        Stored::add_products(sums[tile], a, rows[tile], within);
    }
  }
}

// to += factor * from, and from becomes zero.
__device__ inline void fold(const float (&factors)[kStrips], Sums& from, Sums& to) {
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
    for (int strip = 0; strip < kStrips; ++strip) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        to[tile][strip][i] = fmaf(factors[strip], from[tile][strip][i], to[tile][strip][i]);
        from[tile][strip][i] = 0;
      }
    }
  }
}

// The columns of a weight as the warps of tensor.cu share them out.
struct Shares {
  int blocks, each;
  bool has_empty;
};

template <typename Stored>
__device__ inline Shares shares_of(int columns) {
  const int blocks = (columns + kBlockColumns<Stored> - 1) / kBlockColumns<Stored>;
  const int count = blocks < kWarpsMost ? blocks : kWarpsMost;
  const int each = (blocks + count - 1) / count;
  return {blocks, each, each * (count - 1) >= blocks};
}

// All columns. Both stages are free in the end.
template <typename Stored, int kGroups>
__device__ void multiply_columns(Loader<Stored, kGroups>& loader,
                                 Stage<Stored, kGroups> (&stages)[2],
                                 const Strip (&strips)[kStrips], int columns, bool is_idle,
                                 Sums& all) {
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int warp = static_cast<int>(threadIdx.x) / kLanes;
  const int pair = warp % Plan<kGroups>::kPairs, group = warp / Plan<kGroups>::kPairs;
  const Shares shares = shares_of<Stored>(columns);
  const float ones[kStrips] = {1, 1};
  Sums sums = {}, totals = {};
  int left = shares.each;  // blocks of this share
  loader.read(0, columns, warp);
  loader.store(stages[0], warp, lane);
  __syncthreads();
  for (int block = 0; block < shares.blocks; ++block) {
#pragma unroll
    for (int half = 0; half < kSteps; ++half) {
      const int next = block * kSteps + half + 1;
      const bool goes_on = next < shares.blocks * kSteps;
      if (goes_on) loader.read(next, columns, warp);
      if (!is_idle) add_step(stages[half], pair, group, lane, sums);
      if (goes_on) loader.store(stages[1 - half], warp, lane);
      __syncthreads();
    }
    float scales[kStrips];
#pragma unroll
    for (int strip = 0; strip < kStrips; ++strip) {
      const float* of = strips[strip].scales;
      scales[strip] =
          of == nullptr ? 1.0f : of[block * kBlockColumns<Stored> >> strips[strip].scale_shift];
    }
    fold(scales, sums, totals);
    if (--left > 0 && block + 1 < shares.blocks) continue;
    left = shares.each;
    fold(ones, totals, all);
  }
  // A share of no columns adds nothing, which shows in the sign of a zero.
  if (shares.has_empty) fold(ones, totals, all);
}

// Rows [first, end) of a run, at most kGroupRows * kGroups of them.
template <typename Stored, int kGroups, bool kIsGated>
__device__ void multiply_tile(const Run& run, int first, int end, const Activations& x,
                              const Order& order, const Outputs& outputs) {
  __shared__ Stage<Stored, kGroups> stages[2];
  const Matrix& w = run.weight;
  const Matrix& second = kIsGated ? run.up : run.weight;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int warp = static_cast<int>(threadIdx.x) / kLanes;
  const int pair = warp % Plan<kGroups>::kPairs, group = warp / Plan<kGroups>::kPairs;
  constexpr int kPairRows = kStripRows * (kIsGated ? 1 : kStrips);
  const int first_row = static_cast<int>(blockIdx.y) * Plan<kGroups>::kPairs * kPairRows;
  const auto row_of = [&](int of_pair, int strip) {
    return first_row + of_pair * kPairRows + (kIsGated ? 0 : strip * kStripRows);
  };
  Loader<Stored, kGroups> loader = {};
  loader.strip =
      strip_of<Stored>(warp % kStrips == 0 ? w : second, row_of(warp / kStrips, warp % kStrips));
#pragma unroll
  for (int unit = 0; unit < Plan<kGroups>::kUnits; ++unit) {
    const int row = first + (warp + unit * kWarps) * kTokens + lane / 4;
    loader.rows[unit] =
        Stored::row_of(x, placed(order.source, row < end ? row : end - 1), w.columns);
  }
  const Strip strips[kStrips] = {strip_of<Stored>(w, row_of(pair, 0)),
                                 strip_of<Stored>(second, row_of(pair, 1))};
  Sums all = {};
  const int first_token = first + group * kGroupRows;
  multiply_columns<Stored, kGroups>(loader, stages, strips, w.columns, first_token >= end, all);

  constexpr int kRows = Plan<kGroups>::kAllStrips * kStripRows;
  int* nan_rows = reinterpret_cast<int*>(&stages[0]);  // [strip][row]
  for (int at = static_cast<int>(threadIdx.x); at < kRows; at += kWarps * kLanes) nan_rows[at] = 0;
  __syncthreads();
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (warp < Plan<kGroups>::kAllStrips && is_nan_marked(loader.marks[half]))
      atomicOr(&nan_rows[warp * kStripRows + lane / 4 + half * 8], 1);
  }
  __syncthreads();
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int token = first_token + tile * kTokens + lane % 4 * 2 + i % 2;
      const int strip_row = lane / 4 + i / 2 * 8;
      if (token >= end) continue;
      const float factor = Stored::kHasFactors ? x.factors[placed(order.source, token)] : 1.0f;
      const auto output = [&](const Matrix& of, int strip, int row) {
        if (nan_rows[(pair * kStrips + strip) * kStripRows + strip_row] != 0)
          return __uint_as_float(0x7fc00000u);
        return all[tile][strip][i] * (scale_of_row<Stored>(of, row) * factor);
      };
#pragma unroll
      for (int strip = 0; strip < (kIsGated ? 1 : kStrips); ++strip) {
        const int row = row_of(pair, strip) + strip_row;
        if (row >= w.rows) continue;
        float value = output(w, strip, row);
        if (kIsGated) value = swiglu(value, output(run.up, 1, row));
        if (outputs.bias != nullptr) value += outputs.bias[row];
        float* out = outputs.out + placed(order.target, token) * w.rows + row;
        *out = outputs.adds ? *out + value : value;
      }
    }
  }
}

// As in tensor.cu. Blocks that have weights in common run side by side.
template <typename Stored, int kGroups, bool kIsGated>
__global__ void __launch_bounds__(kWarps* kLanes, 1)
    multiply_large_tiles(const int32_t* stopped, const __grid_constant__ Run only, const Run* runs,
                         const Tile* tiles, const Activations x, const Order order,
                         const Outputs outputs) {
  const int size = kGroups * kGroupRows;
  int first = static_cast<int>(blockIdx.x) * size;
  int end = first + size < only.rows ? first + size : only.rows;
  const Run* run = &only;
  if (runs != nullptr) {
    const Tile tile = tiles[blockIdx.x];
    run = runs + tile.run;
    first = tile.row;
    end = tile.row + tile.rows;
  }
  if (is_stopped(stopped) || first >= end) return;
  multiply_tile<Stored, kGroups, kIsGated>(*run, first, end, x, order, outputs);
}

template <typename Stored, int kGroups, bool kIsGated>
void launch(const Queue& queue, const Run& like, const Run* runs, const Tile* tiles, int tile_count,
            const Activations& x, const Order& order, const Outputs& out) {
  const int rows = Plan<kGroups>::kPairs * kStripRows * (kIsGated ? 1 : kStrips);
  const int size = kGroups * kGroupRows;
  if (runs == nullptr) tile_count = (like.rows + size - 1) / size;
  const auto kernel = multiply_large_tiles<Stored, kGroups, kIsGated>;
  RING_LAUNCH(kernel, dim3(tile_count, (like.weight.rows + rows - 1) / rows), dim3(kWarps * kLanes),
              0, queue.stream, queue.stopped, like, runs, tiles, x, order, out);
}

template <typename Stored>
void launch_format(const Queue& queue, const Run& like, const Run* runs, const Tile* tiles,
                   int tile_count, int rows_most, const Activations& x, const Order& order,
                   const Outputs& out) {
  const bool is_large = rows_most > 2 * kGroupRows;
  const auto of_size = like.up.present()
                           ? (is_large ? launch<Stored, 4, true> : launch<Stored, 2, true>)
                           : (is_large ? launch<Stored, 4, false> : launch<Stored, 2, false>);
  of_size(queue, like, runs, tiles, tile_count, x, order, out);
}

}  // namespace

cudaError_t multiply_in_large_tiles(const Queue& queue, const Run& like, const Run* runs,
                                    const Tile* tiles, int tile_count, int rows_most,
                                    const Activations& x, const Order& order, const Outputs& out) {
  const auto launch = like.weight.dtype == Dtype::bf16 ? launch_format<Bf16> : launch_format<Fp8>;
  launch(queue, like, runs, tiles, tile_count, rows_most, x, order, out);
  return cudaGetLastError();
}

}  // namespace ring::cuda
