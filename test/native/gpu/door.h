// The library under test: its table, its kernels one by one, and what it computes on. Opened once,
// before anything else. In this program the functions that test cases call, those of the kernels
// and of CUDA's runtime, are stand-ins that hand over to it (standins.cc), so that cases are the
// same as over the emulation, and nothing here links CUDA.
#pragma once
#include <string>

#include "backend.h"
#include "cuda/measure.h"

namespace ring::gpu {

struct Door {
  const Backend* backend = nullptr;
  const cuda::Measure* measure = nullptr;
  BackendProbe probe{};
  bool is_small = false;  // shapes that the emulation or a sanitizer can do in seconds

  bool is_emulated() const { return std::string(probe.name) == "emulated GPU"; }
};

Status open_door(const std::string& path, bool is_small);
const Door& door();

}  // namespace ring::gpu
