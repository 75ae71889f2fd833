// Which of the compiled instruction sets this processor runs.
#include <cstring>

#include "../device.h"
#include "kernels.h"

namespace ring {

namespace portable {
extern const Kernels kernels;
}
#if defined(RING_HAS_AVX2)
namespace avx2 {
extern const Kernels kernels;
}
#endif
#if defined(RING_HAS_AVX512)
namespace avx512 {
extern const Kernels kernels;
}
namespace avx512vbmi {
extern const Kernels kernels;
}
namespace avx512bf16 {
extern const Kernels kernels;
}
#endif

namespace {

bool runs_here(const char* isa) {
#if defined(__x86_64__)
  if (strcmp(isa, "avx2") == 0)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (strcmp(isa, "avx512") == 0) return has_avx512;
  const bool has_vbmi = has_avx512 && __builtin_cpu_supports("avx512vbmi");
  if (strcmp(isa, "avx512vbmi") == 0) return has_vbmi;
  if (strcmp(isa, "avx512bf16") == 0) return has_vbmi && __builtin_cpu_supports("avx512bf16");
#endif
  return strcmp(isa, "portable") == 0;
}

}  // namespace

const Kernels* choose_kernels(const char* wanted) {
  const Kernels* const best_first[] = {
#if defined(RING_HAS_AVX512)
    &avx512bf16::kernels,
    &avx512vbmi::kernels,
    &avx512::kernels,
#endif
#if defined(RING_HAS_AVX2)
    &avx2::kernels,
#endif
    &portable::kernels,
  };
  const bool any = wanted == nullptr || *wanted == '\0' || strcmp(wanted, "auto") == 0;
  for (const Kernels* kernels : best_first) {
    if ((any || strcmp(wanted, kernels->isa) == 0) && runs_here(kernels->isa)) return kernels;
  }
  return nullptr;
}

const char* best_instruction_set() { return choose_kernels(nullptr)->isa; }

}  // namespace ring
