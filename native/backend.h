// What a compute backend provides: a table of plain functions over plain data, so that a backend
// can live in a shared library opened at run time. The device owns the order of the calls; a
// backend owns activations, KV and kernels, and decides nothing about experts. One that computes in
// memory of its own also owns slots there, and copies experts into those it is told. All functions
// are called from the one thread that opened the device. A failure with Code::lost means that no
// later call can succeed.
#pragma once
#include "model.h"
#include "status.h"

namespace ring {

// The processor, for a backend that computes elsewhere: products with weights that stay in RAM,
// F32-accurate, with the same bits however many rows there are. From the thread that opened it.
struct Processor {
  void* self;
  // out[row] = weight . x[row] for rows of at most Limits::step_tokens.
  void (*multiply)(void* self, const Matrix* weight, const float* x, int32_t rows, float* out);
  // out[row] = down(silu(gate x[row]) * (up x[row])).
  void (*multiply_mlp)(void* self, const Mlp* mlp, const float* x, int32_t rows, float* out);
};

struct Limits {
  int32_t step_tokens;      // most tokens of one step
  int32_t parts;            // most parts of one step
  int32_t context;          // most positions of one sequence
  int32_t kv_blocks;        // KV blocks in all
  int32_t kv_block_tokens;  // tokens of one KV block
  Dtype kv_dtype;           // bf16 or f32
  int32_t threads;          // compute threads, 0: as many as the machine has
  Math math;                // products: F32-accurate or BF16 (contract.h)
  // Weights that a backend with memory of its own leaves in RAM, where `processor` multiplies with
  // them: the head, and the dense MLP or shared expert of so many first layers. null: none.
  bool head_in_ram = false;
  int32_t mlps_in_ram = 0;
  const Processor* processor = nullptr;
};

// A run of consecutive tokens of one sequence, as begin() received it.
struct Part {
  int32_t first_token;  // index of its first token in the step
  int32_t tokens;
  int32_t position;  // of its first token in the sequence
  Rows rows;
  int32_t sequence;       // index of its cancel flag
  int32_t target;         // the token that follows the part, for log-probabilities; -1: none
  bool sampled;           // whether the last row draws a token
  const int32_t* blocks;  // KV blocks of the sequence, enough for position + tokens
};

struct StepInput {
  int32_t tokens;
  int32_t parts;
  const int32_t* ids;  // [tokens]
  const Part* part;    // [parts]
};

// An expert that the current layer wants and whose weights are in place; null where they could not
// be read: it then adds nothing, and the parts that wanted it have failed.
struct ReadyExpert {
  int32_t index;  // within its layer
  const Mlp* weights;
  int32_t slot = -1;  // of the backend's own memory; -1: they lie in RAM, where `weights` says
};

// How one token is drawn. Lists belong to the step and live until it ends.
struct Sampling {
  float temperature, top_p, min_p, repetition, presence, frequency;
  int32_t top_k;
  uint64_t seed, position;
  const int32_t* history;  // tokens so far, for the penalties
  int32_t history_count;
  int32_t prompt_count;  // of the history, how many were prompt
  const int32_t* bias_ids;
  const float* bias_values;
  int32_t bias_count;
  const uint32_t* mask;  // one bit per vocabulary id, set: allowed; null: all allowed
};

// Where the head writes. Row r is the r-th row with logits, in part order.
struct HeadOutput {
  int32_t rows;     // capacity of the arrays below
  int32_t* next;    // [rows] drawn token, or -1
  float* logprobs;  // [rows] of the drawn token, else of the known next one, else NaN
  int32_t top_count;
  int32_t* top_ids;     // [rows][top_count]
  float* top_logprobs;  // [rows][top_count]
  float* logits;        // [rows][vocabulary], or null
};

// What layers have routed to that ran by themselves. Arrays are the caller's; of each, the rows of
// those layers are written.
struct HitRun {
  int32_t stopped;    // the layer that is not done; the model's layers: all are
  uint16_t* experts;  // [MoE layer of the model][token][top_k], as of `route`
  float* weights;
  float* scores;  // [MoE layer of the model][token][experts], or null
};

// Raised by one whenever the table, or what it points to, changes.
constexpr uint32_t kBackendVersion = 8;

struct Backend {
  uint32_t version;
  const char* name;

  Status (*open)(const Model* model, const Limits* limits, void** self);
  // Embeds the tokens of a step into its residual stream.
  Status (*begin)(void* self, int32_t step, const StepInput* input);
  // Attention and its residual; in dense layers the MLP and its residual too.
  Status (*attend)(void* self, int32_t step, int32_t layer);
  // experts, weights: [tokens][top_k], by falling choice score.
  // scores: [tokens][experts] probabilities before the bias, or null.
  Status (*route)(void* self, int32_t step, int32_t layer, uint16_t* experts, float* weights,
                  float* scores);
  // The shared expert of a routed layer, if it has one; `settle` adds it. Comes once between route
  // and settle, and before look_ahead.
  Status (*share)(void* self, int32_t step, int32_t layer);
  // Runs the attention of the layer after `layer` on what is known of the residual stream now. The
  // keys and values that it leaves are written again by `attend`. Between route and settle of a
  // step of at most limit::ahead_tokens, for look_ahead.
  Status (*attend_ahead)(void* self, int32_t step, int32_t layer);
  // The router of a later MoE layer on what is known of the residual stream now: after the
  // attention of `layer`, with its shared expert and those of its routed experts that are computed,
  // through the later layer's own norm; `attended`: on what attend_ahead has made of it. experts:
  // [tokens][top_k] that it would choose; scores: [tokens][experts] probabilities.
  Status (*look_ahead)(void* self, int32_t step, int32_t layer, int32_t later_layer, bool attended,
                       uint16_t* experts, float* scores);
  // Computes the routed outputs of these experts. Steps above limit::unordered_tokens hand them
  // over in rising index, smaller ones in any order. One that is still being copied into its slot
  // by `fill` is computed when what it needs of the copy is there; whatever is given to the backend
  // behind it waits.
  Status (*mix)(void* self, int32_t step, int32_t layer, const ReadyExpert* experts, int32_t count);
  // Adds routed outputs in rising expert index, then what `share` made, then the residual.
  Status (*settle)(void* self, int32_t step, int32_t layer);
  Status (*sample)(void* self, int32_t step, const Sampling* sampling, const HeadOutput* output);
  // The first tokens of a KV block: into another block, out, or in. Outside they lie as
  // [layer][keys, values][kv head][token][head_dim] in the dtype of the limits. No step may be
  // open.
  void (*copy_kv)(void* self, int32_t from, int32_t to, int32_t tokens);
  void (*read_kv)(void* self, int32_t block, int32_t tokens, uint8_t* into);
  void (*write_kv)(void* self, int32_t block, int32_t tokens, const uint8_t* from);
  // Everything of this backend that bits depend on: name, instruction set, products, kernels.
  const char* (*identify)(void* self);
  // Instruction set or device in use, for people.
  const char* (*describe)(void* self);
  // Copies under way come to their end first.
  void (*close)(void* self);

  // What the experts of the current layer are computed on, [tokens][hidden] F32, and outputs of
  // some of its pairs = token * top_k + rank that were computed elsewhere, [count][hidden];
  // `settle` adds them with the others. Between route and settle of a step of at most
  // limit::ahead_tokens.
  Status (*read_input)(void* self, int32_t step, float* rows);
  Status (*take_outputs)(void* self, int32_t step, const int32_t* pairs, int32_t count,
                         const float* outputs);

  // All that follow are null in a backend that computes where weights lie in RAM.
  // Makes so many slots, each large enough for any expert of the model, its matrices at aligned
  // places. Once, after open.
  Status (*open_slots)(void* self, int32_t count);
  // Begins to copy an expert of the model (MoE layer x experts + index) into a slot from RAM, where
  // its three matrices lie at `host` at any byte. Whatever was handed over before to be computed
  // with the slot comes before the copy: a backend whose `mix` comes back before it is done sees to
  // that. Until `filled` says so the bytes at `host` stay as they are, and who computes with the
  // slot waits for what it needs of the copy. Tickets rise by one.
  Status (*fill)(void* self, int32_t slot, int32_t expert, const Mlp* host, uint64_t* ticket);
  // The last ticket that is done, with all before it; 0: none is. Never waits.
  Status (*filled)(void* self, uint64_t* ticket);
  // RAM that `fill` will copy from, which stays until `close`: a backend that can pins it, so that
  // copies need nobody's help. Where that fails, or this is null, they are only slower. Once for
  // each range, from any thread, also while other calls run; it may take its time.
  Status (*lend)(void* self, const uint8_t* data, uint64_t bytes);
  // The slot is about to be another expert's: nobody asks for the one that lies there any more.
  void (*give_up)(void* self, int32_t slot);
  // Runs a step of at most limit::ahead_tokens from the beginning of `layer` on, layer by layer, as
  // long as every expert that a layer's tokens choose lies in a slot, as far as `filled` has told.
  // The first layer that wants another has attended and routed when this comes back, as if by
  // attend and route, and no more of it is done. May be null: the caller then goes layer by layer.
  Status (*run_hits)(void* self, int32_t step, int32_t layer, HitRun* run);
  // Bytes of the backend's memory that nobody has taken, neither it nor anybody else.
  Status (*free_memory)(void* self, uint64_t* bytes);
};

// What a backend would compute on, told without a table in use.
struct BackendProbe {
  char name[64];  // of the processor
  uint64_t memory_bytes, free_bytes;
  int32_t compute_major, compute_minor;  // what it can do, as its maker numbers that
  char driver[32];
  char reason[200];  // why it cannot be used, a sentence
};

// What a shared library exports by these names, extern "C". The probe may be called before anything
// else and never ends the process; it returns 0 where the backend can be used.
constexpr const char* kBackendSymbol = "ring_backend";
constexpr const char* kProbeSymbol = "ring_probe";
using BackendTable = const Backend* (*)();
using ProbeBackend = int32_t (*)(BackendProbe* probe);

const Backend* cpu_backend();

}  // namespace ring
