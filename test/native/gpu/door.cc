// See door.h.
#include "door.h"

#include <dlfcn.h>

#include "library.h"

namespace ring::gpu {
namespace {

Door opened;

}  // namespace

const Door& door() { return opened; }

Status open_door(const std::string& path, bool is_small) {
  RING_TRY(open_library(path, &opened.backend, &opened.probe));
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  const auto measure = reinterpret_cast<cuda::MeasureTable>(
      library ? dlsym(library, cuda::kMeasureSymbol) : nullptr);
  if (measure == nullptr)
    return failure(Code::bad_argument, "%s does not hand out its kernels", path.c_str());
  opened.is_small = is_small || opened.is_emulated();
  opened.measure = measure();
  if (opened.measure->bytes != sizeof(cuda::Measure))
    return failure(Code::bad_argument, "%s is of another build; build again", path.c_str());
  return {};
}

}  // namespace ring::gpu
