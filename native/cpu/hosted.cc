// See hosted.h.
#include "hosted.h"

#include <cstring>
#include <new>

#include "cpu.h"

namespace ring {

HostExperts::HostExperts() = default;
HostExperts::~HostExperts() = default;

Status HostExperts::open(const Model& model, const Limits& limits) {
  if (cpu_ != nullptr) return {};
  const Kernels* kernels = nullptr;
  RING_TRY(cpu::usual_kernels(&kernels));
  try {
    const int threads = limits.threads > 0 ? limits.threads : usable_cores();
    cpu_ = std::make_unique<cpu::Cpu>(model, limits, *kernels, threads);
    for (int thread = 0; thread < threads; ++thread)
      cpu_->thread_scratch.emplace_back(kMatmulScratch);
    cpu::size_step(*cpu_, cpu_->steps[0], limit::ahead_tokens);
  } catch (const std::bad_alloc&) {
    cpu_.reset();
    return failure(Code::out_of_memory, "no memory to compute experts by the processor");
  }
  return {};
}

Status HostExperts::compute(const float* input, int32_t tokens, const uint16_t* chosen,
                            const ReadyExpert* experts, int32_t count) {
  cpu::StepState& step = cpu_->steps[0];
  const size_t t = static_cast<size_t>(tokens);
  step.tokens = tokens;
  memcpy(step.normed.data(), input, t * cpu_->shape.hidden * sizeof(float));
  memcpy(step.experts.data(), chosen, t * cpu_->shape.top_k * sizeof(uint16_t));
  return cpu::mix(*cpu_, step, 0, experts, count);
}

const float* HostExperts::output(int32_t pair) const {
  return &cpu_->steps[0].pair_output[static_cast<size_t>(pair) * cpu_->shape.hidden];
}

void HostExperts::close() { cpu_.reset(); }

}  // namespace ring
