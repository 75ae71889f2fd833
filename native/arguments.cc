// See arguments.h.
#include "arguments.h"

#include <cmath>

namespace ring::addon {
namespace {

const char* code_name(Code code) {
  switch (code) {
#define RING_CASE(name, value) \
  case Code::name:             \
    return #name;
    RING_CODES(RING_CASE)
#undef RING_CASE
  }
  return "unknown";
}

Napi::Error to_error(Napi::Env env, const Status& status) {
  Napi::Error error = Napi::Error::New(env, status.text);
  error.Set("code", Napi::String::New(env, code_name(status.code)));
  error.Set("tensor", Napi::Number::New(env, static_cast<double>(status.tensor)));
  return error;
}

template <typename Array>
Array array_of(Napi::Env env, Napi::Value value, napi_typedarray_type type, const char* name,
               const char* kind) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != type) {
    refuse(env, name, kind);
  }
  return value.As<Array>();
}

io::Pace read_pace(Napi::Object o) {
  io::Pace pace;
  pace.bytes_per_second = number(o, "bytesPerSecond");
  pace.latency_seconds = number(o, "latencySeconds");
  pace.depth = integer(o, "depth");
  pace.jitter = number(o, "jitter");
  pace.seed = static_cast<uint64_t>(integer(o, "seed"));
  if (pace.bytes_per_second <= 0 || pace.latency_seconds < 0 || pace.depth < 1)
    refuse(o.Env(), "layout.io.pace", "a drive with a rate, a latency and a depth");
  return pace;
}

io::Fault read_fault(Napi::Object o, size_t files) {
  io::Fault fault;
  const int32_t kind = integer(o, "kind");
  if (kind < 0 || kind > static_cast<int32_t>(FaultKind::gone))
    refuse(o.Env(), "fault kind", "a value of FaultKind");
  fault.kind = static_cast<FaultKind>(kind);
  fault.file = integer(o, "file");
  if (fault.file < 0 || static_cast<size_t>(fault.file) >= files)
    refuse(o.Env(), "fault file", "the index of a file");
  fault.offset = static_cast<uint64_t>(number(o, "offset"));
  fault.bytes = static_cast<uint64_t>(number(o, "bytes"));
  fault.times = integer(o, "times");
  fault.delay_seconds = number(o, "delaySeconds");
  return fault;
}

}  // namespace

void require(Napi::Env env, const Status& status) {
  if (status.failed()) throw to_error(env, status);
}

[[noreturn]] void refuse(Napi::Env env, const char* name, const char* expected) {
  throw to_error(env, failure(Code::bad_argument, "%s must be %s", name, expected));
}

Napi::Uint8Array uint8s(Napi::Env env, Napi::Value value, const char* name) {
  return array_of<Napi::Uint8Array>(env, value, napi_uint8_array, name, "a Uint8Array");
}
Napi::Int32Array int32s(Napi::Env env, Napi::Value value, const char* name) {
  return array_of<Napi::Int32Array>(env, value, napi_int32_array, name, "an Int32Array");
}
Napi::Uint32Array uint32s(Napi::Env env, Napi::Value value, const char* name) {
  return array_of<Napi::Uint32Array>(env, value, napi_uint32_array, name, "a Uint32Array");
}
Napi::Uint16Array uint16s(Napi::Env env, Napi::Value value, const char* name) {
  return array_of<Napi::Uint16Array>(env, value, napi_uint16_array, name, "a Uint16Array");
}
Napi::Float32Array float32s(Napi::Env env, Napi::Value value, const char* name) {
  return array_of<Napi::Float32Array>(env, value, napi_float32_array, name, "a Float32Array");
}
Napi::Float64Array float64s(Napi::Env env, Napi::Value value, const char* name) {
  return array_of<Napi::Float64Array>(env, value, napi_float64_array, name, "a Float64Array");
}

Napi::Object object_of(Napi::Env env, Napi::Value value, const char* name) {
  if (!value.IsObject()) refuse(env, name, "an object");
  return value.As<Napi::Object>();
}

std::string text(Napi::Object object, const char* name) {
  const Napi::Value value = object.Get(name);
  if (!value.IsString()) refuse(object.Env(), name, "a string");
  return value.As<Napi::String>().Utf8Value();
}

double number(Napi::Object object, const char* name) {
  const Napi::Value value = object.Get(name);
  if (!value.IsNumber() || !std::isfinite(value.As<Napi::Number>().DoubleValue())) {
    refuse(object.Env(), name, "a finite number");
  }
  return value.As<Napi::Number>().DoubleValue();
}

int32_t integer(Napi::Object object, const char* name) {
  const double value = number(object, name);
  if (value != std::floor(value) || std::abs(value) > 0x1p31 - 1) {
    refuse(object.Env(), name, "a whole number of at most 31 bits");
  }
  return static_cast<int32_t>(value);
}

int32_t integer(Napi::Env env, Napi::Value value, const char* name) {
  if (!value.IsNumber()) refuse(env, name, "a number");
  return value.As<Napi::Number>().Int32Value();
}

Shape read_shape(Napi::Object o) {
  Shape s{};
  s.layers = integer(o, "layers");
  s.hidden = integer(o, "hidden");
  s.heads = integer(o, "heads");
  s.kv_heads = integer(o, "kvHeads");
  s.head_dim = integer(o, "headDim");
  s.rotary_dim = integer(o, "rotaryDim");
  s.experts = integer(o, "experts");
  s.top_k = integer(o, "topK");
  s.groups = integer(o, "groups");
  s.groups_kept = integer(o, "groupsKept");
  s.first_moe_layer = integer(o, "firstMoeLayer");
  s.vocabulary = integer(o, "vocabulary");
  s.sampleable = integer(o, "sampleable");
  s.routed_scale = static_cast<float>(number(o, "routedScale"));
  s.epsilon = static_cast<float>(number(o, "epsilon"));
  s.rope_magnitude = static_cast<float>(number(o, "ropeMagnitude"));
  return s;
}

Limits read_limits(Napi::Object o) {
  Limits l{};
  l.step_tokens = integer(o, "stepTokens");
  l.parts = integer(o, "parts");
  l.context = integer(o, "context");
  l.kv_blocks = integer(o, "kvBlocks");
  l.kv_block_tokens = integer(o, "kvBlockTokens");
  l.kv_dtype = static_cast<Dtype>(integer(o, "kvDtype"));
  l.threads = integer(o, "threads");
  const int32_t math = integer(o, "math");
  if (math != 0 && math != 1) refuse(o.Env(), "limits.math", "a value of Math");
  l.math = static_cast<Math>(math);
  l.head_in_ram = o.Get("headInRam").ToBoolean();
  l.mlps_in_ram = integer(o, "mlpsInRam");
  return l;
}

Layout::Io read_io(Napi::Object o, size_t files) {
  Layout::Io io;
  const int32_t rung = integer(o, "rung");
  if (rung < 0 || rung > static_cast<int32_t>(Rung::paced))
    refuse(o.Env(), "layout.io.rung", "a value of Rung");
  io.rung = static_cast<Rung>(rung);
  io.depth = integer(o, "depth");
  const double chunk_bytes = number(o, "chunkBytes");
  if (io.depth < 0 || io.depth > 4096 || chunk_bytes < 0 || chunk_bytes > 0x1p30)
    refuse(o.Env(), "layout.io", "a depth and a size of chunks in their ranges");
  io.chunk_bytes = static_cast<uint64_t>(chunk_bytes);
  if (io.rung == Rung::paced)
    io.pace = read_pace(object_of(o.Env(), o.Get("pace"), "layout.io.pace"));
  if (!o.Get("faults").IsArray()) refuse(o.Env(), "layout.io.faults", "an array");
  const Napi::Array faults = o.Get("faults").As<Napi::Array>();
  for (uint32_t i = 0; i < faults.Length(); ++i)
    io.faults.push_back(read_fault(object_of(o.Env(), faults.Get(i), "fault"), files));
  return io;
}

Layout::File read_file(Napi::Env env, Napi::Object file) {
  if (!file.Get("path").IsString()) refuse(env, "layout.files path", "a string");
  const double bytes = number(file, "sizeBytes");
  if (bytes < 1 || bytes > 0x1p53) refuse(env, "layout.files sizeBytes", "a size");
  Layout::File read = {
      file.Get("path").As<Napi::String>().Utf8Value(), static_cast<uint64_t>(bytes), {}};
  if (!file.Get("mirrors").IsArray()) return read;
  const Napi::Array mirrors = file.Get("mirrors").As<Napi::Array>();
  for (uint32_t i = 0; i < mirrors.Length(); ++i) {
    if (!mirrors.Get(i).IsString()) refuse(env, "layout.files mirror", "a string");
    read.mirrors.push_back(mirrors.Get(i).As<Napi::String>().Utf8Value());
  }
  return read;
}

}  // namespace ring::addon
