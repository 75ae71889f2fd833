// Experts of a few tokens, computed by the processor for a backend that computes everything else:
// from the inputs that it gives, with weights that lie in RAM, to outputs that it adds up. The
// kernels are those of the CPU backend, and so are the bits. It knows neither slots nor copies. All
// calls come from the device's thread.
#pragma once
#include <memory>

#include "../backend.h"

namespace ring {

namespace cpu {
struct Cpu;
}

class HostExperts {
 public:
  HostExperts();
  ~HostExperts();
  HostExperts(const HostExperts&) = delete;
  HostExperts& operator=(const HostExperts&) = delete;

  // Threads and memory for steps of at most limit::ahead_tokens, unless it has them. The model
  // outlives this.
  Status open(const Model& model, const Limits& limits);
  // input: [tokens][hidden]. chosen: [tokens][top_k], of the layer. Computes the outputs of all
  // pairs that chose one of these experts, whose weights must be in place.
  Status compute(const float* input, int32_t tokens, const uint16_t* chosen,
                 const ReadyExpert* experts, int32_t count);
  // Of a pair = token * top_k + rank of the last `compute`: [hidden].
  const float* output(int32_t pair) const;
  void close();

 private:
  std::unique_ptr<cpu::Cpu> cpu_;
};

}  // namespace ring
