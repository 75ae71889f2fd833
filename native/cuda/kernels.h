// The kernels as the parts of a layer see them: functions that put work into a stream and return
// at once. All pointers are the device's, but for what is passed by value. Every output has its own
// accumulators and an order over the columns that depends on the weight's shape alone: what is
// computed beside a row of activations, and by how many launches, never shows in its bits.
#pragma once
#include "../model.h"
#include "gpu.h"

namespace ring::cuda {

// Where kernels are put: a stream, and a word in memory of the GPU that stops them. As long as it
// is not negative they do nothing: what runs without the host runs to its end all the same, and
// this is the end where there is nothing more to do. null: they always run.
struct Queue {
  Queue(cudaStream_t stream, const int32_t* stopped = nullptr) : stream(stream), stopped(stopped) {}
  cudaStream_t stream;
  const int32_t* stopped;
};

// Rows of activations [rows][columns]. For FP8 weights tensor cores take them in F16, each row
// divided by a power of two of its own, so that no value leaves the range; `narrow` may be null
// where no product needs it.
struct Activations {
  float* wide = nullptr;
  uint16_t* narrow = nullptr;
  float* factors = nullptr;  // [rows] what narrow has been divided by

  template <typename Look>
  void for_pointers(const Look& look) const {
    look(wide), look(narrow), look(factors);
  }
};

// Rows of one product: row r of it reads activations source[r] and writes outputs target[r]; null:
// r itself.
struct Order {
  const int32_t* source = nullptr;
  const int32_t* target = nullptr;

  template <typename Look>
  void for_pointers(const Look& look) const {
    look(source), look(target);
  }
};

// Where outputs go: [rows][weight rows], each with its bias, onto what lies there where `adds`.
struct Outputs {
  float* out = nullptr;
  const float* bias = nullptr;
  bool adds = false;

  template <typename Look>
  void for_pointers(const Look& look) const {
    look(out), look(bias);
  }
};

// Consecutive rows that are multiplied with the same weights. With `up` an output is
// silu(weight . x) * (up . x).
struct Run {
  Matrix weight, up;
  int32_t row = 0, rows = 0;

  template <typename Look>
  void for_pointers(const Look& look) const {
    look(weight.data), look(weight.scales), look(up.data), look(up.scales);
  }
};

// A few rows of one run, what one block takes: at most kTileRows, where many are multiplied on
// tensor cores at most kLargeTileRows. Tiles of both sizes give the same bits.
struct Tile {
  int32_t run, row, rows;
};
constexpr int kTileRows = 32;
constexpr int kLargeTileRows = 128;

// The routed outputs of a layer: row row_of_pair[token * top_k + rank] of `outputs` (null:
// the pair itself), where that is not negative.
struct PairOutputs {
  const float* outputs;
  const int32_t* row_of_pair;
  const float* weights;
  const uint8_t* order;
  const uint8_t* known;  // [pairs]; null: all are

  template <typename Look>
  void for_pointers(const Look& look) const {
    look(outputs), look(row_of_pair), look(weights), look(order), look(known);
  }
};

// The end of a layer behind the products that give its outputs, as of `settle`: each block that is
// the last at its columns adds them up. No tickets: nothing follows.
struct Ending {
  PairOutputs pairs{};
  const float* shared = nullptr;
  float* residual = nullptr;
  int32_t* tickets = nullptr;  // one for every kEndingColumns; all 0 before and after
  int32_t tokens = 0, top_k = 0;

  template <typename Look>
  void for_pointers(const Look& look) const {
    pairs.for_pointers(look), look(shared), look(residual), look(tickets);
  }
};
constexpr int kEndingColumns = 32;

// Which products are used where both are possible.
enum class Products { tensor, plain };

// Whether tensor cores can multiply with the matrix as it lies; decided by the weight alone.
bool suits_tensor_cores(const Matrix& weight);
// Whether they do it with the F16 copy of activations.
bool multiplies_narrow(const Matrix& weight);

// plain.cu: F32 products, for every format and shape.
cudaError_t multiply_plainly(const Queue& queue, const Run& run, const Activations& x,
                             const Outputs& out);
cudaError_t multiply_runs_plainly(const Queue& queue, const Run& like, const Run* runs,
                                  const Tile* tiles, int tile_count, const Activations& x,
                                  const Order& order, const Outputs& out);
// tensor.cu: F16 or BF16 products, F32 sums, for weights that suit. `rows_most`: of a tile; with an
// ending at most kTileRows.
cudaError_t multiply_on_tensor_cores(const Queue& queue, const Run& run, const Activations& x,
                                     const Outputs& out);
cudaError_t multiply_runs_on_tensor_cores(const Queue& queue, const Run& like, const Run* runs,
                                          const Tile* tiles, int tile_count, int rows_most,
                                          const Activations& x, const Order& order,
                                          const Outputs& out, const Ending& ending = {});

// tiles.cu: the same bits, up to kLargeTileRows of activations a tile; `runs` null:
// `like` itself in such tiles.
cudaError_t multiply_in_large_tiles(const Queue& queue, const Run& like, const Run* runs,
                                    const Tile* tiles, int tile_count, int rows_most,
                                    const Activations& x, const Order& order, const Outputs& out);

// rows.cu. Rows of the embedding, by id; `are_gathered`: they are all that lies at its data, one
// after the other, token by token.
cudaError_t embed(const Queue& queue, const Matrix& embedding, bool are_gathered,
                  const int32_t* ids, int tokens, float* out);
// out = weight * x / sqrt(mean(x^2) + epsilon). *bad becomes `layer` where it is -1 and a value is
// not finite; bad may be null.
cudaError_t normalise(const Queue& queue, const float* x, const float* weight, int rows,
                      int columns, float epsilon, const Activations& out, int32_t* bad, int layer);
// Fills narrow and factors from wide.
cudaError_t narrow(const Queue& queue, const Activations& x, int rows, int columns);
// Rows `list` of x, one after the other.
cudaError_t gather_rows(const Queue& queue, const float* x, const int32_t* list, int rows,
                        int columns, float* out);

// attend.cu. Keys and values of one layer: [block][kv head][token in block][head_dim].
struct LayerKv {
  uint8_t* keys;
  uint8_t* values;
  int32_t block_tokens;
  bool is_wide;  // F32, else BF16

  template <typename Look>
  void for_pointers(const Look& look) const {
    look(keys), look(values);
  }
};
// Where the tokens of a step stand. The KV blocks of token t are blocks[first_block[t]] and on.
struct Positions {
  const int32_t* position;
  const int32_t* first_block;
  const int32_t* blocks;
  const float* cos;  // [tokens][rotary_dim / 2]
  const float* sin;

  template <typename Look>
  void for_pointers(const Look& look) const {
    look(position), look(first_block), look(blocks), look(cos), look(sin);
  }
};
struct HeadWeights {
  const float* bias;  // [qkv rows]; each may be null
  const float* query_norm;
  const float* key_norm;

  template <typename Look>
  void for_pointers(const Look& look) const {
    look(bias), look(query_norm), look(key_norm);
  }
};
// Positions that one block attends to; the parts of longer sequences are joined in their order.
constexpr int kSplitPositions = 256;
constexpr int kGroupMost = 16;  // query heads of one kv head
// Bias, q/k norm and rotation of projections [tokens][qkv rows]; keys and values go to their place.
cudaError_t finish_projections(const Queue& queue, const Shape& shape, const HeadWeights& weights,
                               const Positions& where, const LayerKv& kv, int tokens, float* qkv);
// Floats of `parts` for tokens that attend to at most `longest` positions.
int64_t attention_part_floats(const Shape& shape, int tokens, int longest);
// `tickets`: [tokens][kv heads], all 0 before and after.
cudaError_t attend(const Queue& queue, const Shape& shape, const Positions& where,
                   const LayerKv& kv, int first_token, int tokens, int longest, const float* qkv,
                   float* parts, int32_t* tickets, float* out);

// route.cu. What tokens choose by router logits [tokens][experts].
struct Choices {
  uint16_t* experts;  // [tokens][top_k], by falling choice score
  float* weights;     // [tokens][top_k]
  uint8_t* order;     // [tokens][top_k] ranks by rising expert; may be null
  float* scores;      // [tokens][experts]; may be the logits

  template <typename Look>
  void for_pointers(const Look& look) const {
    look(experts), look(weights), look(order), look(scores);
  }
};
// Where the experts of a layer lie in slots, as the GPU itself knows it.
struct SlotTable {
  const int32_t* slot_of = nullptr;  // [experts], -1: in no slot
  const Mlp* experts = nullptr;      // [experts] with their scales; their weights lie in the slot
  const uint8_t* memory = nullptr;
  int64_t slot_bytes = 0, up_at = 0, down_at = 0;
};
// What a layer's experts are computed by, listed on the GPU: a run for each pair whose expert is
// none of an earlier pair, the others' tiles are empty, then one for the shared expert.
struct HitLists {
  Run* gated = nullptr;             // [pairs + 1]
  Run* down = nullptr;              // [pairs + 1]
  Tile* tiles = nullptr;            // [pairs + 1]
  int32_t* token_of_row = nullptr;  // [pairs + tokens]
  int32_t* pair_of_row = nullptr;   // [pairs + tokens], pairs + token of the shared expert
};
// How a layer goes on by itself: lists of what its tokens have chosen, or `stopped` set to its
// number where one of those lies in no slot.
struct Hits {
  SlotTable table;
  HitLists lists;
  Mlp shared;                  // absent: it is none of the lists
  int32_t* stopped = nullptr;  // null: nothing is looked up
  int32_t* ticket = nullptr;   // 0 before and after
  int32_t layer = 0;

  template <typename Look>
  void for_pointers(const Look& look) const {
    look(table.slot_of), look(table.experts), look(table.memory), look(lists.gated);
    look(lists.down), look(lists.tiles), look(lists.token_of_row), look(lists.pair_of_row);
    for (const Matrix* matrix : {&shared.gate, &shared.up, &shared.down})
      look(matrix->data), look(matrix->scales);
    look(stopped), look(ticket);
  }
};
cudaError_t choose(const Queue& queue, const Shape& shape, const float* logits, const float* bias,
                   int tokens, const Choices& choices, const Hits& hits = {});

// sum.cu
// routed += weight * output in rising expert index.
cudaError_t add_outputs(const Queue& queue, const PairOutputs& pairs, int tokens, int top_k,
                        int columns, float* routed);
// residual += (routed + the outputs, in rising index) + shared; shared may be null.
cudaError_t settle(const Queue& queue, const PairOutputs& pairs, const float* routed,
                   const float* shared, int tokens, int top_k, int columns, float* residual);
// out = residual + shared + the known outputs by falling score.
cudaError_t gather_stream(const Queue& queue, const PairOutputs& pairs, const float* residual,
                          const float* shared, int tokens, int top_k, int columns, float* out);
// Rows `list` become zeros; known[list] becomes 1.
cudaError_t clear_rows(const Queue& queue, const int32_t* list, int rows, int columns, float* out);
cudaError_t mark_known(const Queue& queue, const int32_t* list, int rows, uint8_t* known);

}  // namespace ring::cuda
