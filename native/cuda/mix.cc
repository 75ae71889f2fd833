// Second half of a MoE layer: experts from their slots, all that lie there in two launches, those
// that are still being copied each by itself as it comes, and the sum. Small steps keep one output
// per (token, expert) pair, so experts may come in any order and are still added in rising index;
// large steps get them in rising index and add at once. Both ways, and however experts are grouped,
// give the same bits.
#include <algorithm>
#include <cstring>

#include "state.h"

namespace ring::cuda {
namespace {

// One launch's experts, as lists on both sides.
struct Flight {
  Run like_gated, like_down;  // the first, for shape and format: all have one
  const Run* gated = nullptr;
  const Run* down = nullptr;
  const Tile* tiles = nullptr;
  int tile_count = 0, rows_most = 0, rows = 0;
  const int32_t* pair_of_row = nullptr;
  const int32_t* token_of_row = nullptr;
  const int32_t* row_of_pair = nullptr;  // of large steps
};

// Rows that an expert gives. Those that the model's router cannot name have none.
int rows_of(const StepState& step, int32_t expert) {
  return step.first_pair[expert + 1] - step.first_pair[expert];
}

size_t bytes_of_lists(const Gpu& gpu, const StepState& step, int experts, int rows) {
  const size_t pairs = static_cast<size_t>(step.tokens) * gpu.shape.top_k;
  const size_t tiles = static_cast<size_t>(experts + rows / kTileRows);
  return 2 * Parcel::bytes_of<Run>(static_cast<size_t>(experts)) + Parcel::bytes_of<Tile>(tiles) +
         2 * Parcel::bytes_of<int32_t>(static_cast<size_t>(rows)) +
         (step.keeps_pairs() ? 0 : Parcel::bytes_of<int32_t>(pairs));
}

// Rows of a tile, where an expert has so many on average: few, or those that have few themselves
// would be computed as if they had many.
int tile_rows_for(const Gpu& gpu, int mean) {
  if (!gpu.are_experts_suitable || mean <= kTileRows) return kTileRows;
  return mean <= kLargeTileRows / 2 ? kLargeTileRows / 2 : kLargeTileRows;
}

// Lists the experts and their rows, and sends the lists.
Status plan_flight(Gpu& gpu, StepState& step, int32_t layer,
                   const std::vector<ReadyExpert>& experts, int rows, Flight* flight) {
  const Shape& s = gpu.shape;
  const auto count = experts.size();
  RING_TRY(gpu.make_room(bytes_of_lists(gpu, step, static_cast<int>(count), rows)));
  Run* gated = gpu.lists.place(count, &flight->gated);
  Run* down = gpu.lists.place(count, &flight->down);
  Tile* tiles = gpu.lists.place(count + static_cast<size_t>(rows / kTileRows), &flight->tiles);
  int32_t* pair_of_row = gpu.lists.place(static_cast<size_t>(rows), &flight->pair_of_row);
  int32_t* token_of_row = gpu.lists.place(static_cast<size_t>(rows), &flight->token_of_row);
  const int tile_rows = tile_rows_for(gpu, rows / static_cast<int>(count));
  flight->rows = 0;
  for (size_t i = 0; i < count; ++i) {
    const int32_t expert = experts[i].index;
    Mlp mlp;
    RING_TRY(gpu.slots.find(experts[i].slot, (layer - s.first_moe_layer) * s.experts + expert,
                            gpu.weights, &mlp));
    gpu.slots.note_use(experts[i].slot);
    const int of_expert = rows_of(step, expert);
    gated[i] = {mlp.gate, mlp.up, flight->rows, of_expert};
    down[i] = {mlp.down, {}, flight->rows, of_expert};
    for (int row = 0; row < of_expert; row += tile_rows) {
      const int in_tile = std::min(tile_rows, of_expert - row);
      tiles[flight->tile_count++] = {static_cast<int32_t>(i), flight->rows + row, in_tile};
      flight->rows_most = std::max(flight->rows_most, in_tile);
    }
    for (int row = 0; row < of_expert; ++row) {
      const int32_t pair = step.pairs[step.first_pair[expert] + row];
      pair_of_row[flight->rows] = pair;
      token_of_row[flight->rows++] = pair / s.top_k;
    }
  }
  flight->like_gated = gated[0];
  flight->like_down = down[0];
  if (!step.keeps_pairs()) {
    const size_t pairs = static_cast<size_t>(step.tokens) * s.top_k;
    int32_t* row_of_pair = gpu.lists.place(pairs, &flight->row_of_pair);
    std::fill_n(row_of_pair, pairs, -1);
    for (int row = 0; row < flight->rows; ++row) row_of_pair[pair_of_row[row]] = row;
  }
  return gpu.lists.send(gpu.compute);
}

Status multiply_runs(Gpu& gpu, bool on_tensor_cores, const Run& like, const Run* runs,
                     const Flight& flight, const Activations& x, const Order& order,
                     const Outputs& out) {
  RING_GPU(on_tensor_cores
               ? multiply_runs_on_tensor_cores(gpu.queue(), like, runs, flight.tiles,
                                               flight.tile_count, flight.rows_most, x, order, out)
               : multiply_runs_plainly(gpu.queue(), like, runs, flight.tiles, flight.tile_count, x,
                                       order, out));
  return {};
}

Status await_copies(Gpu& gpu, const std::vector<ReadyExpert>& experts, Slots::Part part) {
  for (const ReadyExpert& expert : experts)
    RING_TRY(gpu.slots.await(expert.slot, part, gpu.compute));
  return {};
}

Status fly(Gpu& gpu, StepState& step, int32_t layer, const std::vector<ReadyExpert>& experts,
           int rows) {
  const Shape& s = gpu.shape;
  Flight flight;
  RING_TRY(plan_flight(gpu, step, layer, experts, rows, &flight));
  const bool on_tensor_cores = gpu.are_experts_suitable;
  const Activations activated = gpu.activated.rows();
  RING_TRY(await_copies(gpu, experts, Slots::Part::gate_and_up));
  RING_TRY(multiply_runs(gpu, on_tensor_cores, flight.like_gated, flight.gated, flight,
                         step.stream.normed.rows(), {flight.token_of_row, nullptr},
                         {activated.wide}));
  if (gpu.takes_narrow(flight.like_down.weight))
    RING_GPU(narrow(gpu.queue(), activated, rows, flight.like_gated.weight.rows));
  RING_TRY(await_copies(gpu, experts, Slots::Part::all));
  const int32_t* targets = step.keeps_pairs() ? flight.pair_of_row : nullptr;
  RING_TRY(multiply_runs(gpu, on_tensor_cores, flight.like_down, flight.down, flight, activated,
                         {nullptr, targets}, {step.pair_output.data()}));
  if (step.keeps_pairs()) {
    RING_GPU(mark_known(gpu.queue(), flight.pair_of_row, rows, step.pair_known.data()));
    return {};
  }
  PairOutputs pairs = pairs_of(step);
  pairs.row_of_pair = flight.row_of_pair;
  RING_GPU(add_outputs(gpu.queue(), pairs, step.tokens, s.top_k, s.hidden, step.routed.data()));
  return {};
}

// An expert without weights leaves zeros where its outputs would be.
Status clear_absent(Gpu& gpu, StepState& step, const ReadyExpert* experts, int32_t count) {
  size_t rows = 0;
  for (int32_t i = 0; i < count; ++i) {
    if (experts[i].weights == nullptr) rows += static_cast<size_t>(rows_of(step, experts[i].index));
  }
  if (rows == 0) return {};
  RING_TRY(gpu.make_room(Parcel::bytes_of<int32_t>(rows)));
  const int32_t* on_device = nullptr;
  int32_t* list = gpu.lists.place(rows, &on_device);
  for (int32_t i = 0; i < count; ++i) {
    if (experts[i].weights != nullptr) continue;
    list = std::copy_n(step.pairs.begin() + step.first_pair[experts[i].index],
                       rows_of(step, experts[i].index), list);
  }
  RING_TRY(gpu.lists.send(gpu.compute));
  RING_GPU(clear_rows(gpu.queue(), on_device, static_cast<int>(rows), gpu.shape.hidden,
                      step.pair_output.data()));
  return {};
}

// Whether so many outputs of the step may come from elsewhere.
Status check_hosted(const StepState& step, int32_t count) {
  if (step.tokens <= limit::ahead_tokens && count <= static_cast<int32_t>(step.pairs.size()))
    return {};
  return failure(Code::bad_argument, "a step of %d tokens computes all its experts itself",
                 step.tokens);
}

}  // namespace

PairOutputs pairs_of(const StepState& step) {
  return {step.pair_output.data(), nullptr, step.weights.data(), step.order.data(),
          step.pair_known.data()};
}

Status mix(Gpu& gpu, StepState& step, int32_t layer, const ReadyExpert* experts, int32_t count) {
  for (int32_t i = 0; i < count; ++i) {
    if (experts[i].index < 0 || experts[i].index >= gpu.shape.experts ||
        (experts[i].weights != nullptr && experts[i].slot < 0)) {
      return failure(Code::bad_argument, "expert %d of layer %d does not lie in a slot of the GPU",
                     experts[i].index, layer);
    }
  }
  if (step.keeps_pairs()) RING_TRY(clear_absent(gpu, step, experts, count));
  std::vector<ReadyExpert> together;
  for (int32_t next = 0; next < count;) {
    together.clear();
    int rows = 0;
    for (; next < count; ++next) {
      const int needed = experts[next].weights == nullptr ? 0 : rows_of(step, experts[next].index);
      // An expert has at most one row a token: one always fits.
      if (rows + needed > gpu.rows_in_flight) break;
      const bool is_coming = needed > 0 && gpu.slots.is_coming(experts[next].slot);
      if (is_coming && rows > 0) break;
      if (needed > 0) together.push_back(experts[next]);
      rows += needed;
      if (is_coming) {
        ++next;
        break;
      }
    }
    if (rows > 0) RING_TRY(fly(gpu, step, layer, together, rows));
  }
  return {};
}

Status read_input(Gpu& gpu, const StepState& step, float* rows) {
  RING_TRY(check_hosted(step, 0));
  const size_t bytes =
      static_cast<size_t>(step.tokens) * static_cast<size_t>(gpu.shape.hidden) * sizeof(float);
  RING_GPU(cudaMemcpyAsync(gpu.hosted.data(), step.stream.normed.wide(), bytes,
                           cudaMemcpyDeviceToHost, gpu.compute));
  RING_TRY(gpu.wait());
  memcpy(rows, gpu.hosted.data(), bytes);
  return {};
}

// `hosted` is free: whatever came from there before this layer's input was fetched has gone over.
Status take_outputs(Gpu& gpu, StepState& step, const int32_t* pairs, int32_t count,
                    const float* outputs) {
  RING_TRY(check_hosted(step, count));
  const auto hidden = static_cast<size_t>(gpu.shape.hidden);
  RING_TRY(gpu.make_room(Parcel::bytes_of<int32_t>(static_cast<size_t>(count))));
  memcpy(gpu.hosted.data(), outputs, static_cast<size_t>(count) * hidden * sizeof(float));
  for (int32_t i = 0; i < count; ++i) {
    RING_GPU(cudaMemcpyAsync(step.pair_output.data() + static_cast<size_t>(pairs[i]) * hidden,
                             gpu.hosted.data() + static_cast<size_t>(i) * hidden,
                             hidden * sizeof(float), cudaMemcpyHostToDevice, gpu.compute));
  }
  const int32_t* on_device = nullptr;
  std::copy_n(pairs, count, gpu.lists.place(static_cast<size_t>(count), &on_device));
  RING_TRY(gpu.lists.send(gpu.compute));
  RING_GPU(mark_known(gpu.queue(), on_device, count, step.pair_known.data()));
  return {};
}

Status share(Gpu& gpu, StepState& step, int32_t layer) {
  if (!gpu.weights.layers[layer].mlp.gate.present()) return {};
  return gpu.multiply_mlp(layer, step.stream.normed.rows(), step.tokens, {step.shared.data()});
}

Status settle(Gpu& gpu, StepState& step, int32_t layer) {
  const Shape& s = gpu.shape;
  const bool has_shared = gpu.weights.layers[layer].mlp.gate.present();
  PairOutputs pairs = pairs_of(step);
  if (!step.keeps_pairs()) pairs.outputs = nullptr;
  RING_GPU(settle(gpu.queue(), pairs, step.keeps_pairs() ? nullptr : step.routed.data(),
                  has_shared ? step.shared.data() : nullptr, step.tokens, s.top_k, s.hidden,
                  step.stream.residual.data()));
  return {};
}

}  // namespace ring::cuda
