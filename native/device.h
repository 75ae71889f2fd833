// The device owns everything between open and close: maps, weights, steps, the backend. It runs
// layers on its own while every routed expert is in place, stops where a decision is wanted, and
// obeys or refuses what it is told; it never chooses which expert lives where. It belongs to the
// thread that opened it; the only word another thread may write is a cancel flag in `control`.
#pragma once
#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "backend.h"
#include "memory/map.h"

namespace ring {

// What the engine decided before opening: files, tensor tables, sizes. Read during open only.
struct Layout {
  struct File {
    std::string path;
    uint64_t bytes;
  };
  std::vector<File> files;
  Shape shape;
  std::vector<float> rope_inverse;
  const double* tensors = nullptr;  // dense table, rows as contract.h orders them
  size_t tensor_values = 0;
  const double* expert_tensors = nullptr;  // [MoE layer][expert][matrix]
  size_t expert_tensor_values = 0;
  Limits limits;
  bool lockstep = false;                    // stop at every MoE layer
  std::atomic<int32_t>* control = nullptr;  // shared with other threads; outlives the device
  size_t control_words = 0;
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
};

struct OutcomeView {
  HeadOutput head;
  uint16_t* experts = nullptr;  // [MoE layer][token][top_k], or null
  float* weights = nullptr;
  size_t routing_length = 0;  // of each of the two
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
  // stop).
  Status mix(int32_t id, const int32_t* places, size_t count);
  Status stage(const int32_t* orders, size_t values);
  // Events since the last call; none while no order can be taken.
  Status poll(int32_t* count) const;
  // Ends the step, whatever became of it.
  Status sample(int32_t id, Reason* reason, OutcomeView& outcome, Status* why);
  void close();
  // Which way the weights are read and computed, for people. Empty before open.
  const char* describe() const;
  int32_t vocabulary() const { return model_.shape.vocabulary; }

 private:
  enum class State { unopened, open, lost, closed };
  enum class Phase { free, running, ended };

  struct Step {
    Phase phase = Phase::free;
    int32_t serial = 0;
    Reason reason = Reason::done;
    Status why;
    int32_t layer = 0;
    bool routed = false;  // the current layer has attended and routed
    int32_t tokens = 0;
    std::vector<int32_t> ids, blocks, history, bias_ids;
    std::vector<float> bias_values;
    std::vector<uint32_t> masks;
    std::vector<Part> parts;
    std::vector<Sampling> sampling;
    std::vector<uint16_t> experts;  // [MoE layer][token][top_k]
    std::vector<float> weights;
    std::vector<int32_t> wanted;  // experts of the layer that are not mixed yet, rising
    std::vector<uint8_t> is_wanted;
    std::vector<ReadyExpert> ready;
  };

  Status require_open() const;
  Status find(int32_t id, Step** step);
  Status check_batch(const BatchView& batch) const;
  void copy_batch(const BatchView& batch, Step& step);
  bool is_cancelled(const Step& step) const;
  Status check_maps();
  Status check_sizes();
  Status lose(const FileMap& map, int64_t offset);
  Status run_layer(int32_t index, Step& step, bool* stops);
  Status route_layer(int32_t index, Step& step);
  Status mix_in_place(int32_t index, Step& step);
  void list_wanted(Step& step);
  Reason end(Step& step, Reason reason, const Status& why);

  State state_ = State::unopened;
  std::string lost_text_;
  std::vector<FileMap> maps_;
  Model model_;
  Limits limits_{};
  bool lockstep_ = false;
  std::atomic<int32_t>* control_ = nullptr;
  size_t control_words_ = 0;
  const Backend* backend_ = nullptr;
  void* compute_ = nullptr;  // the backend's own state
  Step steps_[limit::steps_open];
  int32_t next_serial_ = 1;
};

// The instruction set that the CPU backend would choose here.
const char* best_instruction_set();

// Builds the model from the layout's tables; every extent is checked against its map.
Status build_model(const Layout& layout, const std::vector<FileMap>& maps, Model& model);

}  // namespace ring
