// The device owns everything between open and close: maps or slots, weights, the reader, steps, the
// backend. It runs layers on its own while every routed expert is in place, stops where a decision
// is wanted, and obeys or refuses what it is told; it never chooses which expert lives where. It
// belongs to the thread that opened it; the only word another thread may write is a cancel flag in
// `control`.
#pragma once
#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "backend.h"
#include "cpu/hosted.h"
#include "io/ceiling.h"
#include "io/reader.h"
#include "memory/map.h"
#include "resident.h"
#include "slots.h"

namespace ring {

// What the engine decided before opening: files, tensor tables, sizes. Read during open only.
struct Layout {
  struct File {
    std::string path;
    uint64_t bytes;
    std::vector<std::string> mirrors;  // other files that hold the same bytes
  };
  // How reads are made when experts live in slots.
  struct Io {
    Rung rung = Rung::automatic;
    int32_t depth = 0;         // 0: chosen for the drive
    uint64_t chunk_bytes = 0;  // 0: chosen for the drive
    io::Pace pace;             // of Rung::paced
    std::vector<io::Fault> faults;
  };
  std::vector<File> files;
  Shape shape;
  std::vector<float> rope_inverse;
  const double* tensors = nullptr;  // dense table, rows as contract.h orders them
  size_t tensor_values = 0;
  const double* expert_tensors = nullptr;  // [MoE layer][expert][matrix]
  size_t expert_tensor_values = 0;
  Limits limits;
  const uint32_t* checksums = nullptr;  // see tensor_field::checksums
  size_t checksum_count = 0;
  int32_t slots = 0;  // 0: experts and dense weights are computed with where they are mapped
  // A shared library whose backend computes; empty: the CPU's. With slots of its own it needs so
  // many rooms in RAM for experts on their way there, and may have slots in RAM below its own.
  std::string library;
  int32_t rooms = 0, slots_below = 0;
  Io io;
  bool lockstep = false;        // stop at every MoE layer
  bool keeps_scores = false;    // of the router, for every token of a step
  bool keeps_attended = false;  // and of later ones behind the next layer's attention
  std::vector<int32_t> ahead;   // distances to look ahead, in layers, rising
  // [MoE layer][experts], or null: the router's probabilities as each layer last had them, the mean
  // over the tokens of its step. Written by the device where a layer routes.
  float* scores = nullptr;
  std::atomic<int32_t>* control = nullptr;  // shared with other threads; outlives the device
  size_t control_words = 0;
  double* counters = nullptr;  // [counter::count], shared like control
};

// A batch as it crossed the door; arrays are the caller's and are copied by begin.
struct BatchView {
  int32_t parts;
  const int32_t* part;    // [parts][part_field::count]
  const int32_t* tokens;  // [sum of part tokens]
  size_t tokens_length;
  const int32_t* blocks;  // KV blocks, part after part
  size_t blocks_length;
  const double* sampling;  // [parts][sampling_field::count]
  size_t sampling_length;
  const int32_t* history;  // part after part
  size_t history_length;
  const int32_t* bias_ids;
  const float* bias_values;
  size_t bias_length;
  const uint32_t* masks;  // for every masked part, ceil(vocabulary / 32) words
  size_t masks_length;
  bool looks_ahead = false;  // stop with Reason::ahead
};

struct OutcomeView {
  HeadOutput head;
  uint16_t* experts = nullptr;  // [MoE layer][token][top_k], or null
  float* weights = nullptr;
  size_t routing_length = 0;  // of each of the two
  int32_t* faults = nullptr;  // [parts] Code of each part, or null
  size_t faults_length = 0;
  // [MoE layer][token][kept kinds][experts] probabilities, when the layout keeps them; or null
  float* scores = nullptr;
  size_t scores_length = 0;
  const uint32_t* masks = nullptr;  // taken in place of those of the batch, or null
  size_t masks_length = 0;
};

class Device {
 public:
  Device() = default;
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  Status open(const Layout& layout);
  // Starts a step; `id` is its name until sample.
  Status begin(const BatchView& batch, int32_t* id);
  // Runs until a decision is wanted or the step ends. stop: [stop_field::experts + experts].
  Status advance(int32_t id, Reason* reason, int32_t* stop, size_t stop_length);
  // Computes those of the wanted experts that have a place (aligned with the list of the last
  // stop); a place in the tier below the backend's slots: by the processor, where it lies. Where a
  // step looks ahead it may leave those that have not landed to `advance`, which asks about later
  // layers first.
  Status mix(int32_t id, const int32_t* places, size_t count);
  Status stage(const int32_t* orders, size_t values);
  // Events since the last call; when there are none, waits up to wait_ms for one.
  Status poll(int32_t* events, size_t values, int wait_ms, int32_t* count);
  // What layers routed to since the last call, whole layers only.
  Status routed(int32_t* uses, size_t values, int32_t* count);
  // At a stop of a step of at most limit::ahead_tokens: probabilities that the routers of later
  // layers give now, [ahead][token][experts]; zeros where no layer is. `attends`: behind the next
  // layer's attention, which is run early for it.
  Status foresee(int32_t id, bool attends, float* scores, size_t length);
  // Ends the step, whatever became of it.
  Status sample(int32_t id, Reason* reason, OutcomeView& outcome, Status* why);
  // KV blocks between steps, their first `tokens` tokens: into another block; out, and in, as
  // Backend has them. Refused while a step is open.
  Status copy_block(int32_t from, int32_t to, int32_t tokens);
  Status read_block(int32_t block, int32_t tokens, uint8_t* into, size_t length) const;
  Status write_block(int32_t block, int32_t tokens, const uint8_t* from, size_t length);
  // What bits depend on besides the model and the layout. Empty before open.
  const char* identify() const;
  void close();
  // What the routers add to their probabilities before they choose: [MoE layer][experts], zeros
  // where a layer adds nothing.
  Status router_biases(float* biases, size_t length) const;
  // Which way the weights are read and computed, for people. Empty before open.
  const char* describe() const;
  int32_t vocabulary() const { return model_.shape.vocabulary; }

 private:
  enum class State { unopened, open, lost, closed };
  enum class Phase { free, running, ended };
  // Later routers have been run on the stream as it is known, or behind the next layer's attention.
  enum class Foreseen { nothing, plainly, attended };
  struct Wanted {
    int32_t expert;  // within its layer
    int32_t slot;    // -1: in the map
  };

  struct Step {
    Phase phase = Phase::free;
    int32_t serial = 0;
    Reason reason = Reason::done;
    Status why;
    int32_t layer = 0;
    // Of the current layer: it has attended and routed; its shared expert is computed; whoever
    // decides has been asked about later layers, or shall be before anything else.
    bool routed = false, shared = false, told_ahead = false, asks_ahead = false;
    Foreseen foreseen = Foreseen::nothing;  // of the current layer, what scores there are
    bool looks_ahead = false;
    int32_t tokens = 0;
    std::vector<int32_t> ids, blocks, history, bias_ids;
    std::vector<float> bias_values;
    std::vector<uint32_t> masks;
    std::vector<Part> parts;
    std::vector<Sampling> sampling;
    std::vector<Status> faults;     // [part] ok, or why the part has failed while the step goes on
    std::vector<uint16_t> experts;  // [MoE layer][token][top_k]
    std::vector<float> weights;
    std::vector<float> scores;               // [MoE layer][token][kept kinds][experts]
    std::vector<uint16_t> foreseen_experts;  // [ahead][token][top_k] of the current layer
    std::vector<float> foreseen_scores;      // [ahead][token][experts]
    std::vector<int32_t> wanted;             // experts of the layer that are not mixed yet, rising
    std::vector<int32_t> tokens_of;          // [expert] tokens that want it
    std::vector<Wanted> placed;              // of the wanted, what the step waits for
    std::vector<int32_t> hosted;             // of the wanted, what the processor computes
    uint64_t awaited_copy = 0;               // the last one that the backend waits for by itself
    std::vector<ReadyExpert> ready;
  };

  Status require_open() const;
  Status find(int32_t id, Step** step);
  Status check_batch(const BatchView& batch) const;
  Status check_block(int32_t block, int32_t tokens) const;
  Status check_kv_bytes(int32_t tokens, size_t length) const;
  void copy_batch(const BatchView& batch, Step& step);
  bool is_cancelled(const Step& step) const;
  Status check_maps();
  Status check_sizes();
  Status check_memory();
  Status lose(const FileMap& map, int64_t offset);
  Status lose(const Status& why);
  Status open_backend(const std::string& path);
  Status lend_processor();
  Status open_mapped(const Layout& layout);
  Status read_resident(const Layout& layout);
  Status open_slots(const Layout& layout);
  Status run_layer(int32_t index, Step& step, Reason* stop);
  // experts.cc: from routing to the sum of a layer's experts.
  Status route_layer(int32_t index, Step& step);
  void note_routing(Step& step, const float* scores);
  Status share_layer(int32_t index, Step& step);
  Status find_all(Step& step, bool* all);
  bool is_awaiting_reads() const;
  Status mix_found(int32_t index, Step& step);
  // hits.cc: layers that the backend runs by itself.
  bool may_run_hits(const Step& step) const;
  Status run_hits(int32_t index, Step& step);
  // foresee.cc: what later layers will probably want.
  Status foresee_layer(int32_t index, Step& step, Foreseen wish);
  bool may_ask_ahead(const Step& step) const;
  Status ask_ahead(int32_t index, Step& step);
  bool wants_guidance(const Step& step) const;
  size_t kept_kinds() const { return 1 + ahead_.size() * (keeps_attended_ ? 2 : 1); }
  Status keep_scores(int32_t index, Step& step, const float* own);
  void publish_scores(const Step& step, const float* own);
  void list_wanted(Step& step);
  void note_uses(const Step& step);
  int32_t residency(int32_t expert, int64_t time_ns);
  int64_t first_expert(const Step& step) const;
  Status check_places(const Step& step, const int32_t* places, size_t count) const;
  Status mix_ready(int32_t index, Step& step, bool reads_under_way);
  void mix_placed(int32_t index, Step& step);
  Status mix_as_they_land(int32_t index, Step& step);
  Status fetch_input(int32_t index, Step& step);
  Status mix_on_host(int32_t index, Step& step);
  Status mix_coming(int32_t index, Step& step);
  bool is_on_host(int32_t place) const;
  int32_t counter_of(const Step& step, int32_t usual) const;
  Status advise(const int32_t* orders, size_t count);
  void wait_for_slots(int wait_ms);
  void fail_parts(Step& step, int32_t expert, const Status& why);
  void forget_mixed(Step& step);
  Reason end(Step& step, Reason reason, const Status& why);
  Reason end(Step& step, const Status& failure);
  void count(int32_t counter, double amount) { counters_[counter] += amount; }
  void publish_reader();
  void publish_memory();

  State state_ = State::unopened;
  std::string lost_text_;
  std::vector<FileMap> maps_;  // when experts are mapped
  // [expert] when it was last found in memory; empty where the system does not tell
  std::vector<int64_t> found_ns_;
  std::unique_ptr<Resident> dense_;  // when they live in slots
  std::vector<ExpertExtents> extents_;
  // Order of destruction: the reader ends before the memory that it reads into.
  std::unique_ptr<Slots> slots_;
  std::unique_ptr<io::Reader> reader_;          // null: mapped
  std::shared_ptr<const Processor> processor_;  // null: the backend leaves no weights in RAM
  std::vector<int32_t> uses_;                   // [n][use_field::count], not taken yet
  double* counters_ = nullptr;
  std::string description_;
  Model model_;
  Limits limits_{};
  bool lockstep_ = false;
  bool keeps_scores_ = false;
  bool keeps_attended_ = false;
  std::vector<int32_t> ahead_;
  float* scores_ = nullptr;        // see Layout::scores
  std::vector<float> own_scores_;  // [token][experts] of the layer that routes, or of all
  std::atomic<int32_t>* control_ = nullptr;
  size_t control_words_ = 0;
  const Backend* backend_ = nullptr;
  void* compute_ = nullptr;  // the backend's own state
  // Experts that are computed where they lie in RAM, for a backend with slots of its own; opened
  // when one is. What they are computed on, and what of it goes back.
  HostExperts host_;
  std::vector<float> host_input_, host_outputs_;
  std::vector<int32_t> host_pairs_;
  double memory_asked_s_ = 0;  // when the backend's free memory was last asked for
  Step steps_[limit::steps_open];
  int32_t next_serial_ = 1;
};

// Random reads of these files through the drive that a device would use.
Status measure_drive(const std::vector<Layout::File>& files, const Layout::Io& io,
                     const io::CeilingProbe& probe, double* bytes_per_second, std::string* reader);

// The instruction set that the CPU backend would choose here.
const char* best_instruction_set();

}  // namespace ring
