// Arguments that cross Node-API: their kinds are checked, and they become plain views and structs.
// A wrong one, like a failed status, is thrown as the one error type that native has.
#pragma once
#include <napi.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "device.h"

namespace ring::addon {

// Throws the error of a failed status.
void require(Napi::Env env, const Status& status);
[[noreturn]] void refuse(Napi::Env env, const char* name, const char* expected);

Napi::Uint8Array uint8s(Napi::Env env, Napi::Value value, const char* name);
Napi::Int32Array int32s(Napi::Env env, Napi::Value value, const char* name);
Napi::Uint32Array uint32s(Napi::Env env, Napi::Value value, const char* name);
Napi::Uint16Array uint16s(Napi::Env env, Napi::Value value, const char* name);
Napi::Float32Array float32s(Napi::Env env, Napi::Value value, const char* name);
Napi::Float64Array float64s(Napi::Env env, Napi::Value value, const char* name);
Napi::Object object_of(Napi::Env env, Napi::Value value, const char* name);
std::string text(Napi::Object object, const char* name);
double number(Napi::Object object, const char* name);
int32_t integer(Napi::Object object, const char* name);
int32_t integer(Napi::Env env, Napi::Value value, const char* name);

Shape read_shape(Napi::Object shape);
Limits read_limits(Napi::Object limits);
// `files`: how many the faults may name.
Layout::Io read_io(Napi::Object io, size_t files);
Layout::File read_file(Napi::Env env, Napi::Object file);

}  // namespace ring::addon
