// A device over a backend with slots of its own, by the shared library that tests build: whatever
// is where, and however late, logits are those of the processor to the bit; and a backend that is
// lost is told once, by the step that is open, and refused from then on.
#include "device.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "drives.h"
#include "harness.h"

using namespace ring;
using namespace ring::test;

namespace {

constexpr int32_t kLayers = 3, kHidden = 48, kHeads = 2, kHeadDim = 16, kExperts = 12, kTopK = 3;
constexpr int32_t kWidth = 32, kVocabulary = 40, kSteps = 12;

void require_ok(const Status& status) { require(!status.failed(), "%s", status.text); }

// A random model of BF16 tensors in one file, and the layout that opens it.
class Tiny {
 public:
  Tiny() {
    tensors_.assign((outer_tensor::count + kLayers * layer_tensor::count) * tensor_field::count, 0);
    for (size_t row = 0; row < tensors_.size() / tensor_field::count; ++row) absent(&tensors_, row);
    add(&tensors_, outer_tensor::embedding, kVocabulary, kHidden, 1);
    ones(outer_tensor::final_norm, kHidden);
    add(&tensors_, outer_tensor::head, kVocabulary, kHidden, 1);
    for (int32_t layer = 0; layer < kLayers; ++layer) {
      const size_t first = outer_tensor::count + static_cast<size_t>(layer) * layer_tensor::count;
      ones(first + layer_tensor::input_norm, kHidden);
      add(&tensors_, first + layer_tensor::qkv, 3 * kHeads * kHeadDim, kHidden, 0.2f);
      add(&tensors_, first + layer_tensor::attention_out, kHidden, kHeads * kHeadDim, 0.2f);
      ones(first + layer_tensor::post_norm, kHidden);
      add(&tensors_, first + layer_tensor::router, kExperts, kHidden, 0.5f);
    }
    experts_.assign(
        static_cast<size_t>(kLayers) * kExperts * expert_tensor::count * tensor_field::count, 0);
    for (size_t row = 0; row < experts_.size() / tensor_field::count; row += expert_tensor::count) {
      add(&experts_, row + expert_tensor::gate, kWidth, kHidden, 0.2f);
      add(&experts_, row + expert_tensor::up, kWidth, kHidden, 0.2f);
      add(&experts_, row + expert_tensor::down, kHidden, kWidth, 0.2f);
    }
    std::ofstream(folder_.path("file"), std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes_.data()),
               static_cast<std::streamsize>(bytes_.size()));
  }

  Layout layout(int32_t slots, int32_t rooms, const std::string& library) {
    Layout layout;
    layout.files.push_back({folder_.path("file"), bytes_.size(), {}});
    Shape& s = layout.shape;
    s = {};
    s.layers = kLayers;
    s.hidden = kHidden;
    s.heads = s.kv_heads = kHeads;
    s.head_dim = s.rotary_dim = kHeadDim;
    s.experts = kExperts;
    s.top_k = kTopK;
    s.groups = s.groups_kept = 1;
    s.vocabulary = s.sampleable = kVocabulary;
    s.routed_scale = s.rope_magnitude = 1;
    s.epsilon = 1e-6f;
    layout.rope_inverse.assign(kHeadDim / 2, 0.5f);
    layout.tensors = tensors_.data();
    layout.tensor_values = tensors_.size();
    layout.expert_tensors = experts_.data();
    layout.expert_tensor_values = experts_.size();
    layout.limits = {8, 1, 32, 1, 32, Dtype::f32, 1, Math::f32};
    layout.slots = slots;
    layout.rooms = rooms;
    layout.library = library;
    layout.io.rung = Rung::threads;
    control_[control::progress] = control_[control::cancel] = 0;
    layout.control = control_;
    layout.control_words = 2;
    counters_.assign(counter::count, 0);
    layout.counters = counters_.data();
    return layout;
  }

  double counted(int32_t counter) const { return counters_[counter]; }

 private:
  static void absent(std::vector<double>* table, size_t row) {
    (*table)[row * tensor_field::count + tensor_field::file] = -1;
  }
  void put(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    bytes_.push_back(static_cast<uint8_t>(bits >> 16));
    bytes_.push_back(static_cast<uint8_t>(bits >> 24));
  }
  double* row_of(std::vector<double>* table, size_t row, int32_t rows, int32_t columns) {
    bytes_.push_back(0);  // so that tensors begin at any byte
    double* fields = table->data() + row * tensor_field::count;
    fields[tensor_field::file] = 0;
    fields[tensor_field::offset] = static_cast<double>(bytes_.size());
    fields[tensor_field::rows] = rows;
    fields[tensor_field::columns] = columns;
    fields[tensor_field::dtype] = static_cast<double>(Dtype::bf16);
    fields[tensor_field::checksums] = -1;
    return fields;
  }
  void add(std::vector<double>* table, size_t row, int32_t rows, int32_t columns, float scale) {
    row_of(table, row, rows, columns);
    for (int32_t i = 0; i < rows * columns; ++i)
      put(scale * (static_cast<float>(dice_() % 2001) / 1000 - 1));
  }
  void ones(size_t row, int32_t count) {
    row_of(&tensors_, row, count, 1);
    for (int32_t i = 0; i < count; ++i) put(1);
  }

  Folder folder_;
  std::mt19937 dice_{7};
  std::vector<uint8_t> bytes_;
  std::vector<double> tensors_, experts_, counters_;
  std::atomic<int32_t> control_[2] = {};
};

// Whoever decides, in the simplest way: what a layer misses goes into slots that it does not want,
// chosen by dice.
class Decider {
 public:
  Decider(Device* device, int32_t slots) : device_(device), expert_in_(slots, -1) {}

  // A stop whose layer misses something. Everything is placed.
  void place(int32_t id, const int32_t* stop) {
    const int32_t first = stop[stop_field::layer] * kExperts, count = stop[stop_field::wanted];
    std::vector<int32_t> wanted, orders, places;
    for (int32_t i = 0; i < count; ++i) wanted.push_back(first + stop[stop_field::experts + i]);
    int32_t events[8 * event_field::count];
    for (int32_t told = 8; told == 8;)
      require_ok(device_->poll(events, std::size(events), 0, &told));
    for (const int32_t expert : wanted) {
      auto slot = std::find(expert_in_.begin(), expert_in_.end(), expert);
      if (slot == expert_in_.end()) {
        do {
          slot = expert_in_.begin() + static_cast<std::ptrdiff_t>(dice_() % expert_in_.size());
        } while (std::find(wanted.begin(), wanted.end(), *slot) != wanted.end());
        *slot = expert;
        const auto place = place_of(slot);
        orders.insert(orders.end(), {expert, -1, place, static_cast<int32_t>(Urgency::demand)});
      }
      places.push_back(place_of(slot));
    }
    require_ok(device_->stage(orders.data(), orders.size()));
    require_ok(device_->mix(id, places.data(), places.size()));
  }

 private:
  int32_t place_of(std::vector<int32_t>::iterator slot) {
    return static_cast<int32_t>(Tier::gpu) << limit::slot_bits |
           static_cast<int32_t>(slot - expert_in_.begin());
  }

  Device* device_;
  std::vector<int32_t> expert_in_;
  std::mt19937 dice_{3};
};

// One token at a position; its logits.
Reason step(Device& device, Decider* decider, int32_t position, std::vector<float>* logits) {
  const int32_t part[part_field::count] = {1,  position, static_cast<int32_t>(Rows::last), 0, 1,
                                           -1, 1};
  const int32_t token = (7 * position + 3) % kVocabulary, block = 0;
  double sampling[sampling_field::count] = {};
  sampling[sampling_field::top_p] = sampling[sampling_field::repetition] = 1;
  const BatchView batch = {
      1,       part, &token,  1,       &block, 1,       sampling, sampling_field::count,
      nullptr, 0,    nullptr, nullptr, 0,      nullptr, 0};
  int32_t id = 0, stop[stop_field::experts + kExperts];
  require_ok(device.begin(batch, &id));
  Reason reason = Reason::done;
  for (;;) {
    require_ok(device.advance(id, &reason, stop, std::size(stop)));
    if (reason != Reason::missing) break;
    require(decider != nullptr, "it stopped in layer %d", stop[stop_field::layer]);
    decider->place(id, stop);
  }
  logits->assign(kVocabulary, 0);
  int32_t next = -1;
  float logprob = 0;
  OutcomeView outcome;
  outcome.head = {1, &next, &logprob, 0, nullptr, nullptr, logits->data()};
  Status why;
  require_ok(device.sample(id, &reason, outcome, &why));
  return reason;
}

std::string delayed_library() {
  return std::filesystem::read_symlink("/proc/self/exe").parent_path() / "ring_delayed.so";
}

}  // namespace

RING_CASE(device_over_bits, "slots over a device's backend: the same bits, however late") {
  Tiny tiny;
  std::vector<std::vector<float>> expected(kSteps);
  {
    Device device;
    require_ok(device.open(tiny.layout(0, 0, "")));
    for (int32_t at = 0; at < kSteps; ++at)
      require(step(device, nullptr, at, &expected[at]) == Reason::done, "step %d", at);
  }
  setenv("RING_DELAY_US", "200", 1);
  for (const int32_t slots : {kTopK, 7, kLayers * kExperts}) {
    Device device;
    require_ok(device.open(tiny.layout(slots, 2, delayed_library())));
    Decider decider(&device, slots);
    for (int32_t at = 0; at < kSteps; ++at) {
      std::vector<float> logits;
      require(step(device, &decider, at, &logits) == Reason::done, "step %d", at);
      require(memcmp(logits.data(), expected[at].data(), kVocabulary * sizeof(float)) == 0,
              "step %d with %d slots has other logits", at, slots);
    }
    require(tiny.counted(counter::bytes_copied) > 0, "nothing was copied");
    require(tiny.counted(counter::stall_copy_s) > 0, "no copy was waited for");
  }
  unsetenv("RING_DELAY_US");
}

RING_CASE(device_over_lost, "slots over a device's backend that is lost: one step tells it") {
  Tiny tiny;
  Device device;
  setenv("RING_DELAY_LOST_AT", "7", 1);
  require_ok(device.open(tiny.layout(kTopK, 1, delayed_library())));
  unsetenv("RING_DELAY_LOST_AT");
  Decider decider(&device, kTopK);
  std::vector<float> logits;
  Reason reason = Reason::done;
  for (int32_t at = 0; at < kSteps && reason == Reason::done; ++at)
    reason = step(device, &decider, at, &logits);
  require(reason == Reason::lost, "the last step ended with %d", static_cast<int>(reason));
  int32_t id = 0;
  const Status refused = device.begin({}, &id);
  require(refused.code == Code::lost, "the next was not refused: %s", refused.text);
  require(strstr(refused.text, "delayed backend") != nullptr, "it said: %s", refused.text);
}

RING_CASE(device_over_refused,
          "slots over a device's backend need rooms, and a library to be one") {
  Tiny tiny;
  Device device;
  const Status without = device.open(tiny.layout(5, 0, delayed_library()));
  require(without.code == Code::bad_argument, "it opened without rooms");
  const Status absent = device.open(tiny.layout(5, 1, "/no/where.so"));
  require(strstr(absent.text, "there is no such file") != nullptr, "it said: %s", absent.text);
  require_ok(device.open(tiny.layout(5, 1, delayed_library())));
}
