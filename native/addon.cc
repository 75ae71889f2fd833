// What JavaScript may call; with arguments.h the only code that knows Node-API. One wrapped object,
// Device; everything else crosses as numbers and typed arrays. There is no state outside the
// object, so the addon loads in any number of threads.
#include <napi.h>
#include <sys/sysinfo.h>

#include <algorithm>

#include "arguments.h"
#include "cpu/bandwidth.h"
#include "cpu/products.h"
#include "cpu/topology.h"
#include "device.h"
#include "io/checksum.h"
#include "library.h"

namespace {

using namespace ring::addon;
using ring::Status;

class Device : public Napi::ObjectWrap<Device> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(
        env, "Device",
        {InstanceMethod("open", &Device::open), InstanceMethod("begin", &Device::begin),
         InstanceMethod("advance", &Device::advance), InstanceMethod("mix", &Device::mix),
         InstanceMethod("stage", &Device::stage), InstanceMethod("poll", &Device::poll),
         InstanceMethod("routed", &Device::routed), InstanceMethod("foresee", &Device::foresee),
         InstanceMethod("sample", &Device::sample),
         InstanceMethod("routerBiases", &Device::router_biases),
         InstanceMethod("copyBlock", &Device::copy_block),
         InstanceMethod("readBlock", &Device::read_block),
         InstanceMethod("writeBlock", &Device::write_block),
         InstanceMethod("identify", &Device::identify), InstanceMethod("close", &Device::close),
         InstanceMethod("describe", &Device::describe)});
  }

  explicit Device(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Device>(info) {}

 private:
  Napi::Value open(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    const Napi::Object o = object_of(env, info[0], "layout");
    ring::Layout layout;
    layout.shape = read_shape(object_of(env, o.Get("shape"), "layout.shape"));
    layout.limits = read_limits(object_of(env, o.Get("limits"), "layout.limits"));
    if (!o.Get("files").IsArray()) refuse(env, "layout.files", "an array");
    const Napi::Array files = o.Get("files").As<Napi::Array>();
    for (uint32_t i = 0; i < files.Length(); ++i) {
      const Napi::Object file = object_of(env, files.Get(i), "layout.files entry");
      layout.files.push_back(read_file(env, file));
    }
    const auto rope = float32s(env, o.Get("ropeInverse"), "layout.ropeInverse");
    layout.rope_inverse.assign(rope.Data(), rope.Data() + rope.ElementLength());
    const auto tensors = float64s(env, o.Get("tensors"), "layout.tensors");
    const auto experts = float64s(env, o.Get("expertTensors"), "layout.expertTensors");
    auto control = int32s(env, o.Get("control"), "layout.control");
    auto counters = float64s(env, o.Get("counters"), "layout.counters");
    if (counters.ElementLength() < ring::counter::count)
      refuse(env, "layout.counters", "as long as there are counters");
    auto scores = float32s(env, o.Get("scores"), "layout.scores");
    const double of_all = static_cast<double>(layout.shape.moe_layers()) * layout.shape.experts;
    if (scores.ElementLength() > 0 && static_cast<double>(scores.ElementLength()) < of_all)
      refuse(env, "layout.scores", "empty or as long as all layers' experts");
    const auto checksums = uint32s(env, o.Get("checksums"), "layout.checksums");
    layout.checksums = checksums.Data();
    layout.checksum_count = checksums.ElementLength();
    layout.slots = integer(o, "slots");
    layout.rooms = integer(o, "rooms");
    layout.slots_below = integer(o, "slotsBelow");
    layout.library = text(o, "library");
    layout.io = read_io(object_of(env, o.Get("io"), "layout.io"), layout.files.size());
    layout.keeps_scores = o.Get("keepsScores").ToBoolean();
    layout.keeps_attended = o.Get("keepsAttended").ToBoolean();
    const auto ahead = int32s(env, o.Get("ahead"), "layout.ahead");
    layout.ahead.assign(ahead.Data(), ahead.Data() + ahead.ElementLength());
    layout.counters = counters.Data();
    if (scores.ElementLength() > 0) layout.scores = scores.Data();
    layout.tensors = tensors.Data();
    layout.tensor_values = tensors.ElementLength();
    layout.expert_tensors = experts.Data();
    layout.expert_tensor_values = experts.ElementLength();
    layout.lockstep = o.Get("lockstep").ToBoolean();
    static_assert(sizeof(std::atomic<int32_t>) == sizeof(int32_t));
    layout.control = reinterpret_cast<std::atomic<int32_t>*>(control.Data());
    layout.control_words = control.ElementLength();
    require(env, device_.open(layout));
    // The device uses these until it is closed.
    control_ = Napi::Persistent(static_cast<Napi::Object>(control));
    counters_ = Napi::Persistent(static_cast<Napi::Object>(counters));
    scores_ = Napi::Persistent(static_cast<Napi::Object>(scores));
    checksums_ = Napi::Persistent(static_cast<Napi::Object>(checksums));
    return env.Undefined();
  }

  Napi::Value begin(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    const Napi::Object o = object_of(env, info[0], "batch");
    const auto part = int32s(env, o.Get("part"), "batch.part");
    const auto tokens = int32s(env, o.Get("tokens"), "batch.tokens");
    const auto blocks = int32s(env, o.Get("blocks"), "batch.blocks");
    const auto sampling = float64s(env, o.Get("sampling"), "batch.sampling");
    const auto history = int32s(env, o.Get("history"), "batch.history");
    const auto bias_ids = int32s(env, o.Get("biasIds"), "batch.biasIds");
    const auto bias_values = float32s(env, o.Get("biasValues"), "batch.biasValues");
    const auto masks = uint32s(env, o.Get("masks"), "batch.masks");
    const int32_t parts = integer(o, "parts");
    if (parts < 0 || part.ElementLength() < static_cast<size_t>(parts) * ring::part_field::count) {
      refuse(env, "batch.part", "as long as its parts ask for");
    }
    if (bias_ids.ElementLength() != bias_values.ElementLength()) {
      refuse(env, "batch.biasValues", "as long as batch.biasIds");
    }
    const ring::BatchView batch = {parts,
                                   part.Data(),
                                   tokens.Data(),
                                   tokens.ElementLength(),
                                   blocks.Data(),
                                   blocks.ElementLength(),
                                   sampling.Data(),
                                   sampling.ElementLength(),
                                   history.Data(),
                                   history.ElementLength(),
                                   bias_ids.Data(),
                                   bias_values.Data(),
                                   bias_ids.ElementLength(),
                                   masks.Data(),
                                   masks.ElementLength(),
                                   o.Get("looksAhead").ToBoolean()};
    int32_t id = 0;
    require(env, device_.begin(batch, &id));
    return Napi::Number::New(env, id);
  }

  Napi::Value advance(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    const int32_t id = integer(env, info[0], "step");
    auto stop = int32s(env, info[1], "stop");
    ring::Reason reason = ring::Reason::done;
    require(env, device_.advance(id, &reason, stop.Data(), stop.ElementLength()));
    return Napi::Number::New(env, static_cast<int32_t>(reason));
  }

  Napi::Value mix(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    const int32_t id = integer(env, info[0], "step");
    const auto places = int32s(env, info[1], "places");
    require(env, device_.mix(id, places.Data(), places.ElementLength()));
    return env.Undefined();
  }

  Napi::Value stage(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    const auto orders = int32s(env, info[0], "orders");
    require(env, device_.stage(orders.Data(), orders.ElementLength()));
    return env.Undefined();
  }

  Napi::Value poll(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    auto events = int32s(env, info[0], "events");
    const int32_t wait_ms = integer(env, info[1], "waitMs");
    int32_t count = 0;
    require(env, device_.poll(events.Data(), events.ElementLength(), wait_ms, &count));
    return Napi::Number::New(env, count);
  }

  Napi::Value routed(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    auto uses = int32s(env, info[0], "uses");
    int32_t count = 0;
    require(env, device_.routed(uses.Data(), uses.ElementLength(), &count));
    return Napi::Number::New(env, count);
  }

  Napi::Value foresee(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    const int32_t id = integer(env, info[0], "step");
    const bool attends = info[1].ToBoolean();
    auto scores = float32s(env, info[2], "scores");
    require(env, device_.foresee(id, attends, scores.Data(), scores.ElementLength()));
    return env.Undefined();
  }

  Napi::Value sample(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    const int32_t id = integer(env, info[0], "step");
    const Napi::Object o = object_of(env, info[1], "outcome");
    auto next = int32s(env, o.Get("next"), "outcome.next");
    auto logprobs = float32s(env, o.Get("logprobs"), "outcome.logprobs");
    auto top_ids = int32s(env, o.Get("topIds"), "outcome.topIds");
    auto top_logprobs = float32s(env, o.Get("topLogprobs"), "outcome.topLogprobs");
    ring::OutcomeView view{};
    size_t rows = std::min(next.ElementLength(), logprobs.ElementLength());
    view.head.top_count = integer(o, "topCount");
    if (view.head.top_count < 0 || view.head.top_count > ring::limit::top_logprobs_max) {
      refuse(env, "outcome.topCount", "from 0 to 1024");
    }
    if (view.head.top_count > 0) {
      const size_t top = std::min(top_ids.ElementLength(), top_logprobs.ElementLength());
      rows = std::min(rows, top / static_cast<size_t>(view.head.top_count));
    }
    view.head.next = next.Data();
    view.head.logprobs = logprobs.Data();
    view.head.top_ids = top_ids.Data();
    view.head.top_logprobs = top_logprobs.Data();
    const Napi::Value logits = o.Get("logits");
    if (!logits.IsUndefined()) {
      auto array = float32s(env, logits, "outcome.logits");
      view.head.logits = array.Data();
      rows = std::min(rows, array.ElementLength() / static_cast<size_t>(device_.vocabulary()));
    }
    const Napi::Value experts = o.Get("experts");
    if (!experts.IsUndefined()) {
      auto ids = uint16s(env, experts, "outcome.experts");
      auto weights = float32s(env, o.Get("weights"), "outcome.weights");
      view.experts = ids.Data();
      view.weights = weights.Data();
      view.routing_length = std::min(ids.ElementLength(), weights.ElementLength());
    }
    const Napi::Value faults = o.Get("faults");
    if (!faults.IsUndefined()) {
      auto array = int32s(env, faults, "outcome.faults");
      view.faults = array.Data();
      view.faults_length = array.ElementLength();
    }
    const Napi::Value scores = o.Get("scores");
    if (!scores.IsUndefined()) {
      auto array = float32s(env, scores, "outcome.scores");
      view.scores = array.Data();
      view.scores_length = array.ElementLength();
    }
    if (!info[2].IsUndefined()) {
      const auto array = uint32s(env, info[2], "masks");
      view.masks = array.Data();
      view.masks_length = array.ElementLength();
    }
    view.head.rows = static_cast<int32_t>(std::min<size_t>(rows, 0x7fffffff));
    ring::Reason reason = ring::Reason::done;
    Status why;
    require(env, device_.sample(id, &reason, view, &why));
    if (why.failed()) o.Set("message", Napi::String::New(env, why.text));
    return Napi::Number::New(env, static_cast<int32_t>(reason));
  }

  Napi::Value router_biases(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    auto biases = float32s(env, info[0], "biases");
    require(env, device_.router_biases(biases.Data(), biases.ElementLength()));
    return env.Undefined();
  }

  Napi::Value copy_block(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    require(env, device_.copy_block(integer(env, info[0], "from"), integer(env, info[1], "to"),
                                    integer(env, info[2], "tokens")));
    return env.Undefined();
  }

  Napi::Value read_block(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    auto into = uint8s(env, info[2], "into");
    require(env, device_.read_block(integer(env, info[0], "block"), integer(env, info[1], "tokens"),
                                    into.Data(), into.ElementLength()));
    return env.Undefined();
  }

  Napi::Value write_block(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    const auto from = uint8s(env, info[2], "from");
    require(env,
            device_.write_block(integer(env, info[0], "block"), integer(env, info[1], "tokens"),
                                from.Data(), from.ElementLength()));
    return env.Undefined();
  }

  Napi::Value identify(const Napi::CallbackInfo& info) {
    return Napi::String::New(info.Env(), device_.identify());
  }

  Napi::Value close(const Napi::CallbackInfo& info) {
    device_.close();
    control_.Reset();
    counters_.Reset();
    scores_.Reset();
    checksums_.Reset();
    return info.Env().Undefined();
  }

  Napi::Value describe(const Napi::CallbackInfo& info) {
    return Napi::String::New(info.Env(), device_.describe());
  }

  ring::Device device_;
  Napi::ObjectReference control_, counters_, checksums_, scores_;
};

// What this machine has; touches nothing.
Napi::Value probe(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  struct sysinfo facts {};
  sysinfo(&facts);
  Napi::Object machine = Napi::Object::New(env);
  machine.Set("cores", Napi::Number::New(env, ring::usable_cores()));
  machine.Set("memoryBytes",
              Napi::Number::New(env, static_cast<double>(facts.totalram) * facts.mem_unit));
  machine.Set("instructionSet", Napi::String::New(env, ring::best_instruction_set()));
  return machine;
}

// The backend of a shared library, or why there is none: see library.h.
Napi::Value probe_library(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (!info[0].IsString()) refuse(env, "path", "a string");
  const ring::Backend* backend = nullptr;
  ring::BackendProbe probe{};
  const Status status =
      ring::open_library(info[0].As<Napi::String>().Utf8Value(), &backend, &probe);
  Napi::Object found = Napi::Object::New(env);
  found.Set("problem", Napi::String::New(env, status.text));
  found.Set("name", Napi::String::New(env, probe.name));
  found.Set("memoryBytes", Napi::Number::New(env, static_cast<double>(probe.memory_bytes)));
  found.Set("freeBytes", Napi::Number::New(env, static_cast<double>(probe.free_bytes)));
  found.Set("computeMajor", Napi::Number::New(env, probe.compute_major));
  found.Set("computeMinor", Napi::Number::New(env, probe.compute_minor));
  found.Set("driver", Napi::String::New(env, probe.driver));
  return found;
}

// Bytes per second of random reads, how they were made, and how fast threads computed beside them:
// see io/ceiling.h, cpu/products.h.
Napi::Value measure_drive(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Napi::Object o = object_of(env, info[0], "probe");
  if (!o.Get("files").IsArray()) refuse(env, "probe.files", "an array");
  const Napi::Array files = o.Get("files").As<Napi::Array>();
  std::vector<ring::Layout::File> read;
  for (uint32_t i = 0; i < files.Length(); ++i)
    read.push_back(read_file(env, object_of(env, files.Get(i), "probe.files entry")));
  const ring::Layout::Io io = read_io(object_of(env, o.Get("io"), "probe.io"), read.size());
  ring::io::CeilingProbe probe;
  probe.chunk_bytes = static_cast<uint64_t>(number(o, "chunkBytes"));
  probe.depth = integer(o, "depth");
  probe.bytes = static_cast<uint64_t>(number(o, "bytes"));
  probe.seconds = number(o, "seconds");
  probe.seed = static_cast<uint64_t>(integer(o, "seed"));
  if (probe.chunk_bytes < ring::io::kBlockBytes || probe.chunk_bytes > (1u << 30) ||
      probe.chunk_bytes % ring::io::kBlockBytes != 0 || probe.depth < 1 || probe.depth > 4096)
    refuse(env, "probe", "a size of whole blocks and a depth");
  double bytes_per_second = 0, weights_per_second = 0;
  std::string reader;
  ring::cpu::Multiplying beside;
  const int threads = integer(o, "besideThreads");
  if (threads > 0) require(env, beside.start(threads));
  const ring::Status status = ring::measure_drive(read, io, probe, &bytes_per_second, &reader);
  if (threads > 0) require(env, beside.stop(&weights_per_second));
  require(env, status);
  Napi::Object rate = Napi::Object::New(env);
  rate.Set("weightBytesPerSecond", Napi::Number::New(env, weights_per_second));
  rate.Set("bytesPerSecond", Napi::Number::New(env, bytes_per_second));
  rate.Set("reader", Napi::String::New(env, reader));
  return rate;
}

// Bytes per second that `threads` read from memory: see cpu/bandwidth.h.
Napi::Value measure_memory(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (!info[0].IsNumber()) refuse(env, "threads", "a number");
  double bytes_per_second = 0;
  require(env,
          ring::cpu::measure_memory(info[0].As<Napi::Number>().Int32Value(), &bytes_per_second));
  return Napi::Number::New(env, bytes_per_second);
}

// How fast `threads` multiply with weights, of so many tokens each: see cpu/products.h.
Napi::Value measure_products(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Napi::Object o = object_of(env, info[0], "products");
  if (!o.Get("tokens").IsArray()) refuse(env, "products.tokens", "an array");
  const Napi::Array asked = o.Get("tokens").As<Napi::Array>();
  std::vector<int> tokens;
  for (uint32_t at = 0; at < asked.Length(); ++at) {
    const Napi::Value one = asked.Get(at);
    tokens.push_back(one.IsNumber() ? one.As<Napi::Number>().Int32Value() : 0);
    if (tokens.back() < 1 || tokens.back() > ring::limit::unordered_tokens)
      refuse(env, "products.tokens entry", "a number of tokens of a step");
  }
  std::vector<double> rates;
  require(env, ring::cpu::measure_products(integer(o, "threads"),
                                           static_cast<ring::Math>(integer(o, "math")),
                                           number(o, "seconds"), tokens, &rates));
  Napi::Array told = Napi::Array::New(env, rates.size());
  for (size_t at = 0; at < rates.size(); ++at) told.Set(at, Napi::Number::New(env, rates[at]));
  return told;
}

// CRC32C of every mebibyte of an extent: see io/checksum.h.
Napi::Value hash_extent(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (!info[0].IsString()) refuse(env, "path", "a string");
  const std::string path = info[0].As<Napi::String>().Utf8Value();
  const auto size = [&](size_t index, const char* name) {
    const double value = info[index].IsNumber() ? info[index].As<Napi::Number>().DoubleValue() : -1;
    if (!(value >= 0 && value <= 0x1p53)) refuse(env, name, "a number of bytes");
    return static_cast<uint64_t>(value);
  };
  const uint64_t offset = size(1, "offset"), bytes = size(2, "bytes");
  auto out = uint32s(env, info[3], "out");
  uint8_t* copy = nullptr;
  if (!info[4].IsUndefined()) {
    auto room = uint8s(env, info[4], "copy");
    if (room.ElementLength() < bytes) refuse(env, "copy", "as long as the extent");
    copy = room.Data();
  }
  require(env, ring::io::checksum_extent(path.c_str(), offset, bytes, out.Data(),
                                         out.ElementLength(), copy));
  return env.Undefined();
}

void put(Napi::Object table, const char* group, const char* name, int value) {
  table.Set(std::string(group) + "." + name, Napi::Number::New(table.Env(), value));
}

Napi::Object contract(Napi::Env env) {
  Napi::Object table = Napi::Object::New(env);
  put(table, "contract", "version", ring::kContractVersion);
  put(table, "contract", "kernels", ring::kKernelVersion);
#define RING_PUT(group, list)          \
  do {                                 \
    const char* name_of_group = group; \
    list(RING_PUT_ENTRY)               \
  } while (0);
#define RING_PUT_ENTRY(name, value) put(table, name_of_group, #name, value);
  RING_PUT("reason", RING_REASONS)
  RING_PUT("code", RING_CODES)
  RING_PUT("dtype", RING_DTYPES)
  RING_PUT("scale_kind", RING_SCALE_KINDS)
  RING_PUT("tensor_field", RING_TENSOR_FIELDS)
  RING_PUT("outer_tensor", RING_OUTER_TENSORS)
  RING_PUT("layer_tensor", RING_LAYER_TENSORS)
  RING_PUT("expert_tensor", RING_EXPERT_TENSORS)
  RING_PUT("part_field", RING_PART_FIELDS)
  RING_PUT("rows", RING_ROWS)
  RING_PUT("sampling_field", RING_SAMPLING_FIELDS)
  RING_PUT("control", RING_CONTROL)
  RING_PUT("stop_field", RING_STOP_FIELDS)
  RING_PUT("order_field", RING_ORDER_FIELDS)
  RING_PUT("event_field", RING_EVENT_FIELDS)
  RING_PUT("math", RING_MATHS)
  RING_PUT("urgency", RING_URGENCIES)
  RING_PUT("event", RING_EVENTS)
  RING_PUT("use_field", RING_USE_FIELDS)
  RING_PUT("rung", RING_RUNGS)
  RING_PUT("fault", RING_FAULTS)
  RING_PUT("counter", RING_COUNTERS)
  RING_PUT("tier", RING_TIERS)
  RING_PUT("limit", RING_LIMITS)
#undef RING_PUT
#undef RING_PUT_ENTRY
  return table;
}

Napi::Object initialise(Napi::Env env, Napi::Object exports) {
  exports.Set("contract", contract(env));
  exports.Set("probe", Napi::Function::New(env, probe));
  exports.Set("probeLibrary", Napi::Function::New(env, probe_library));
  exports.Set("hashExtent", Napi::Function::New(env, hash_extent));
  exports.Set("measureDrive", Napi::Function::New(env, measure_drive));
  exports.Set("measureMemory", Napi::Function::New(env, measure_memory));
  exports.Set("measureProducts", Napi::Function::New(env, measure_products));
  exports.Set("Device", Device::define(env));
  return exports;
}

}  // namespace

NODE_API_MODULE(ring_native, initialise)
