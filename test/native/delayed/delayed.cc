// See delayed.h. The device's thread knows what it has asked for, the copying thread has the bytes;
// between them lies a list of jobs and the number of those that are done.
#include "delayed.h"

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace ring::test {
namespace {

// No number in any of the types of weights.
constexpr int kPoison = 0xFF;
constexpr uint64_t kAlignment = 256;

// See RING_DELAY_LOST_AT.
std::atomic<int64_t> mixes{0}, counted_for{0};

int64_t number_in(const char* name) {
  const char* text = getenv(name);
  return text == nullptr ? 0 : atoll(text);
}

uint64_t bytes_of(const Matrix& matrix) {
  const int width = matrix.dtype == Dtype::f8_e4m3 ? 1 : matrix.dtype == Dtype::bf16 ? 2 : 4;
  return static_cast<uint64_t>(matrix.rows) * matrix.columns * width;
}

Matrix& matrix_of(Mlp& mlp, int index) {
  return index == expert_tensor::gate ? mlp.gate : index == expert_tensor::up ? mlp.up : mlp.down;
}

struct Slot {
  int32_t expert = -1;
  bool is_given_up = false;
  uint64_t ticket = 0;  // of its last copy: its generation
};

// What a copy leaves behind its bytes, so that whoever computes with them knows what they are.
struct Stamp {
  int32_t layer, expert;
  uint64_t generation;
};

struct Job {
  uint8_t* slot;
  Mlp from;
  Stamp stamp;
};

struct Delayed {
  const Model& model;
  void* cpu = nullptr;
  const int64_t delay_us = number_in("RING_DELAY_US");
  const int64_t lost_at = number_in("RING_DELAY_LOST_AT");
  uint64_t dice = static_cast<uint64_t>(number_in("RING_DELAY_SEED")) * 2 + 1;
  std::string description;

  // Of the device's thread.
  bool is_lost = false;
  int32_t tokens[limit::steps_open] = {};
  std::vector<Slot> slots;
  uint64_t asked = 0, told = 0;  // tickets
  std::vector<Mlp> weights;
  std::vector<ReadyExpert> ready;

  uint64_t matrix_bytes = 0;  // of the largest
  std::unique_ptr<uint8_t[]> memory;

  std::thread thread;
  std::mutex lock;  // of the two below
  std::condition_variable changed;
  std::deque<Job> jobs;
  bool is_ending = false;
  std::atomic<uint64_t> done{0};
  std::atomic<uint64_t> lent{0};  // bytes

  explicit Delayed(const Model& of) : model(of) {}

  uint64_t stamp_at() const { return expert_tensor::count * matrix_bytes; }
  uint64_t slot_bytes() const { return stamp_at() + kAlignment; }
  uint8_t* at(int32_t slot, int matrix) const {
    return memory.get() + static_cast<uint64_t>(slot) * slot_bytes() +
           static_cast<uint64_t>(matrix) * matrix_bytes;
  }

  Stamp stamp_of(int32_t expert, uint64_t generation) const {
    const int32_t experts = model.shape.experts;
    return {model.shape.first_moe_layer + expert / experts, expert % experts, generation};
  }

  // Whether the bytes of the slot are those that its last copy was to bring.
  Status check_stamp(int32_t slot) const {
    const Stamp wanted = stamp_of(slots[slot].expert, slots[slot].ticket);
    Stamp found;
    memcpy(&found, at(slot, 0) + stamp_at(), sizeof found);
    if (memcmp(&found, &wanted, sizeof found) == 0) return {};
    return failure(Code::bad_argument,
                   "slot %d is stamped layer %d, expert %d, generation %llu, and %d, %d, %llu were "
                   "to be computed with",
                   slot, found.layer, found.expert,
                   static_cast<unsigned long long>(found.generation), wanted.layer, wanted.expert,
                   static_cast<unsigned long long>(wanted.generation));
  }

  void wait_for(uint64_t ticket) const {
    for (uint64_t now = done; now < ticket; now = done) done.wait(now);
  }

  void run() {
    for (;;) {
      Job job;
      {
        std::unique_lock<std::mutex> guard(lock);
        changed.wait(guard, [this] { return is_ending || !jobs.empty(); });
        if (jobs.empty()) return;
        job = jobs.front();
        jobs.pop_front();
      }
      memset(job.slot, kPoison, slot_bytes());
      dice = dice * 6364136223846793005u + 1442695040888963407u;
      if (delay_us > 0) {
        const auto late = static_cast<int64_t>(dice >> 33) % (2 * delay_us);
        std::this_thread::sleep_for(std::chrono::microseconds(late));
      }
      for (int matrix = 0; matrix < expert_tensor::count; ++matrix) {
        const Matrix& from = matrix_of(job.from, matrix);
        memcpy(job.slot + static_cast<uint64_t>(matrix) * matrix_bytes, from.data, bytes_of(from));
      }
      memcpy(job.slot + stamp_at(), &job.stamp, sizeof job.stamp);
      done.fetch_add(1, std::memory_order_release);
      done.notify_all();
    }
  }
};

Delayed& of(void* self) { return *static_cast<Delayed*>(self); }

Status gone() { return failure(Code::lost, "the memory of the delayed backend is lost"); }

// A call that goes on to the CPU.
template <auto function, typename... Arguments>
Status through(void* self, Arguments... arguments) {
  if (of(self).is_lost) return gone();
  return (cpu_backend()->*function)(of(self).cpu, arguments...);
}

Status open(const Model* model, const Limits* limits, void** self) {
  auto made = std::make_unique<Delayed>(*model);
  if (counted_for.exchange(made->lost_at) != made->lost_at) mixes = 0;
  RING_TRY(cpu_backend()->open(model, limits, &made->cpu));
  made->description = std::string("delayed, ") + cpu_backend()->describe(made->cpu);
  *self = made.release();
  return {};
}

Status open_slots(void* self, int32_t count) {
  Delayed& d = of(self);
  if (!d.slots.empty()) return failure(Code::already_open, "the slots are there already");
  const int64_t most = number_in("RING_DELAY_SLOTS");
  if (most > 0 && count > most)
    return failure(Code::out_of_memory, "the delayed backend has memory for %lld slots",
                   static_cast<long long>(most));
  for (const Mlp& expert : d.model.experts) {
    for (const Matrix* matrix : {&expert.gate, &expert.up, &expert.down})
      d.matrix_bytes = std::max(d.matrix_bytes, bytes_of(*matrix));
  }
  d.matrix_bytes = (d.matrix_bytes + kAlignment - 1) / kAlignment * kAlignment;
  d.slots.resize(count);
  const uint64_t bytes = static_cast<uint64_t>(count) * d.slot_bytes();
  d.memory = std::make_unique<uint8_t[]>(bytes);
  memset(d.memory.get(), kPoison, bytes);
  d.thread = std::thread([&d] { d.run(); });
  return {};
}

Status fill(void* self, int32_t slot, int32_t expert, const Mlp* host, uint64_t* ticket) {
  Delayed& d = of(self);
  if (d.is_lost) return gone();
  if (slot < 0 || static_cast<size_t>(slot) >= d.slots.size() || expert < 0 ||
      static_cast<size_t>(expert) >= d.model.experts.size())
    return failure(Code::bad_argument, "there is no slot %d or no expert %d", slot, expert);
  Slot& s = d.slots[slot];
  if (s.ticket > d.told)
    return failure(Code::bad_argument, "slot %d is being filled already", slot);
  s = {expert, false, ++d.asked};
  *ticket = s.ticket;
  {
    const std::lock_guard<std::mutex> guard(d.lock);
    d.jobs.push_back({d.at(slot, 0), *host, d.stamp_of(expert, s.ticket)});
  }
  d.changed.notify_one();
  return {};
}

Status filled(void* self, uint64_t* ticket) {
  Delayed& d = of(self);
  if (d.is_lost) return gone();
  *ticket = d.told = d.done.load(std::memory_order_acquire);
  return {};
}

Status lend(void* self, const uint8_t* data, uint64_t bytes) {
  if (getenv("RING_DELAY_PINS_NOTHING") != nullptr)
    return failure(Code::out_of_memory, "the delayed backend pins nothing");
  // All of it must be there; what it holds may be changing meanwhile.
  const auto page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  std::vector<unsigned char> is_present((bytes + page - 1) / page);
  if (mincore(const_cast<uint8_t*>(data), bytes, is_present.data()) != 0)
    return failure(Code::bad_argument, "what is lent is not there");
  of(self).lent += bytes;
  return {};
}

Status mix(void* self, int32_t step, int32_t layer, const ReadyExpert* experts, int32_t count) {
  Delayed& d = of(self);
  if (++mixes == d.lost_at) d.is_lost = true;
  if (d.is_lost) return gone();
  const int32_t first = (layer - d.model.shape.first_moe_layer) * d.model.shape.experts;
  d.weights.resize(static_cast<size_t>(count));
  d.ready.assign(experts, experts + count);
  for (int32_t i = 0; i < count; ++i) {
    if (experts[i].weights == nullptr) continue;
    const int32_t slot = experts[i].slot, expert = first + experts[i].index;
    if (slot < 0 || static_cast<size_t>(slot) >= d.slots.size())
      return failure(Code::bad_argument, "expert %d is in no slot", expert);
    if (d.slots[slot].expert != expert)
      return failure(Code::bad_argument, "slot %d holds expert %d, and %d was asked for", slot,
                     d.slots[slot].expert, expert);
    d.wait_for(d.slots[slot].ticket);
    RING_TRY(d.check_stamp(slot));
    d.weights[i] = *experts[i].weights;
    for (int matrix = 0; matrix < expert_tensor::count; ++matrix)
      matrix_of(d.weights[i], matrix).data = d.at(slot, matrix);
    d.ready[i] = {experts[i].index, &d.weights[i]};
  }
  RING_TRY(cpu_backend()->mix(d.cpu, step, layer, d.ready.data(), count));
  // Nor may they have become others while they were computed with.
  for (int32_t i = 0; i < count; ++i)
    if (experts[i].weights != nullptr) RING_TRY(d.check_stamp(experts[i].slot));
  return {};
}

Status begin(void* self, int32_t step, const StepInput* input) {
  of(self).tokens[step] = input->tokens;
  return through<&Backend::begin>(self, step, input);
}

void give_up(void* self, int32_t slot) { of(self).slots[slot].is_given_up = true; }

// The slot that holds the expert, whole, as far as was told; -1: none.
int32_t slot_of(const Delayed& d, int32_t expert) {
  for (size_t slot = 0; slot < d.slots.size(); ++slot) {
    const Slot& s = d.slots[slot];
    if (s.expert == expert && !s.is_given_up && s.ticket <= d.told)
      return static_cast<int32_t>(slot);
  }
  return -1;
}

Status run_hits(void* self, int32_t step, int32_t layer, HitRun* run) {
  Delayed& d = of(self);
  const Shape& s = d.model.shape;
  const size_t tokens = static_cast<size_t>(d.tokens[step]), pairs = tokens * s.top_k;
  std::vector<uint8_t> wants(static_cast<size_t>(s.experts));
  std::vector<ReadyExpert> hits;
  for (; layer < s.layers; ++layer) {
    run->stopped = layer;
    RING_TRY(through<&Backend::attend>(self, step, layer));
    if (!s.is_moe(layer)) continue;
    const auto moe_layer = static_cast<size_t>(layer - s.first_moe_layer);
    uint16_t* experts = run->experts + moe_layer * pairs;
    RING_TRY(through<&Backend::route>(
        self, step, layer, experts, run->weights + moe_layer * pairs,
        run->scores == nullptr ? nullptr : run->scores + moe_layer * tokens * s.experts));
    wants.assign(wants.size(), 0);
    for (size_t pair = 0; pair < pairs; ++pair) wants[experts[pair]] = 1;
    hits.clear();
    for (int32_t expert = 0; expert < s.experts; ++expert) {
      if (wants[static_cast<size_t>(expert)] == 0) continue;
      const int32_t of_model = static_cast<int32_t>(moe_layer) * s.experts + expert;
      const int32_t slot = slot_of(d, of_model);
      if (slot < 0) return {};
      hits.push_back({expert, &d.model.experts[static_cast<size_t>(of_model)], slot});
    }
    RING_TRY(through<&Backend::share>(self, step, layer));
    RING_TRY(mix(self, step, layer, hits.data(), static_cast<int32_t>(hits.size())));
    RING_TRY(through<&Backend::settle>(self, step, layer));
  }
  run->stopped = s.layers;
  return {};
}

Status free_memory(void*, uint64_t* bytes) {
  const int64_t left = number_in("RING_DELAY_LEFT");
  *bytes = left > 0 ? static_cast<uint64_t>(left) : uint64_t{1} << 30;
  return {};
}

void close(void* self) {
  std::unique_ptr<Delayed> d(static_cast<Delayed*>(self));
  if (d->thread.joinable()) {
    {
      const std::lock_guard<std::mutex> guard(d->lock);
      d->is_ending = true;
    }
    d->changed.notify_one();
    d->thread.join();
  }
  cpu_backend()->close(d->cpu);
}

void copy_kv(void* self, int32_t from, int32_t to, int32_t tokens) {
  cpu_backend()->copy_kv(of(self).cpu, from, to, tokens);
}
void read_kv(void* self, int32_t block, int32_t tokens, uint8_t* into) {
  cpu_backend()->read_kv(of(self).cpu, block, tokens, into);
}
void write_kv(void* self, int32_t block, int32_t tokens, const uint8_t* from) {
  cpu_backend()->write_kv(of(self).cpu, block, tokens, from);
}
const char* identify(void* self) { return cpu_backend()->identify(of(self).cpu); }
const char* describe(void* self) { return of(self).description.c_str(); }

Backend make_table() {
  Backend table{};
  table.version = kBackendVersion;
  table.name = "delayed";
  table.open = open;
  table.begin = begin;
  table.attend = through<&Backend::attend>;
  table.route = through<&Backend::route>;
  table.share = through<&Backend::share>;
  table.attend_ahead = through<&Backend::attend_ahead>;
  table.look_ahead = through<&Backend::look_ahead>;
  table.mix = mix;
  table.settle = through<&Backend::settle>;
  table.sample = through<&Backend::sample>;
  table.copy_kv = copy_kv;
  table.read_kv = read_kv;
  table.write_kv = write_kv;
  table.identify = identify;
  table.describe = describe;
  table.close = close;
  table.open_slots = open_slots;
  table.fill = fill;
  table.filled = filled;
  table.lend = lend;
  table.give_up = give_up;
  table.run_hits = run_hits;
  table.read_input = through<&Backend::read_input>;
  table.take_outputs = through<&Backend::take_outputs>;
  table.free_memory = free_memory;
  return table;
}

}  // namespace

const Backend* delayed_backend() {
  static const Backend table = make_table();
  return &table;
}

const uint8_t* delayed_bytes(void* self, int32_t slot, int32_t matrix) {
  return of(self).at(slot, matrix);
}

uint64_t delayed_lent(void* self) { return of(self).lent.load(); }

}  // namespace ring::test
