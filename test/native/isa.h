// Cases that run once for every instruction set the kernels are compiled for. One that this
// processor lacks is skipped by name, so a report shows what was not looked at.
#pragma once
#include "cpu/kernels.h"
#include "harness.h"

namespace ring::test {

struct KernelRegistration {
  KernelRegistration(const char* name, void (*body)(const Kernels& kernels)) {
    for (const char* isa : {"portable", "avx2", "avx512", "avx512vbmi", "avx512bf16"}) {
      cases().push_back({std::string(name) + " [" + isa + "]", [isa, body] {
                           const Kernels* kernels = choose_kernels(isa);
                           if (kernels == nullptr) skip("this processor has no %s", isa);
                           body(*kernels);
                         }});
    }
  }
};

}  // namespace ring::test

// RING_KERNEL_CASE(identifier, "what holds") { ... kernels ... }
#define RING_KERNEL_CASE(identifier, name)                                          \
  static void identifier(const ring::Kernels& kernels);                             \
  static const ring::test::KernelRegistration identifier##_cases(name, identifier); \
  static void identifier([[maybe_unused]] const ring::Kernels& kernels)
