// See processor.h.
#include "processor.h"

#include <algorithm>
#include <new>

#include "cpu.h"

namespace ring::cpu {
namespace {

struct Lent {
  Lent(const Model& model, const Limits& limits, const Kernels& kernels, int threads)
      : cpu(model, limits, kernels, threads) {}
  Cpu cpu;  // without KV: no layer is computed
  StepState step;
  Processor table{};
};

Lent& of(void* self) { return *static_cast<Lent*>(self); }

void multiply(void* self, const Matrix* weight, const float* x, int32_t rows, float* out) {
  of(self).cpu.linear_f32(*weight, x, rows, out);
}

void multiply_mlp(void* self, const Mlp* mlp, const float* x, int32_t rows, float* out) {
  Lent& lent = of(self);
  lent.step.tokens = rows;
  std::copy_n(x, static_cast<size_t>(rows) * static_cast<size_t>(mlp->gate.columns),
              lent.step.normed.data());
  lent.cpu.dense_mlp(lent.step, *mlp, out);
}

void make_room(Lent& lent) {
  for (int thread = 0; thread < lent.cpu.pool.threads(); ++thread)
    lent.cpu.thread_scratch.emplace_back(kMatmulScratch);
  const auto rows = static_cast<size_t>(lent.cpu.limits.step_tokens);
  size_t width = 0;
  for (const LayerWeights& layer : lent.cpu.model.layers)
    width = std::max(width, static_cast<size_t>(layer.mlp.gate.rows));
  lent.step.normed.resize(rows * static_cast<size_t>(lent.cpu.shape.hidden));
  lent.step.gate.resize(rows * width);
  lent.step.up.resize(rows * width);
}

}  // namespace

Status lend_processor(const Model& model, const Limits& limits,
                      std::shared_ptr<const Processor>* processor) {
  const Kernels* kernels = nullptr;
  RING_TRY(usual_kernels(&kernels));
  const int threads = limits.threads > 0 ? limits.threads : usable_cores();
  try {
    const auto lent = std::make_shared<Lent>(model, limits, *kernels, threads);
    make_room(*lent);
    lent->table = {lent.get(), multiply, multiply_mlp};
    *processor = {lent, &lent->table};
  } catch (const std::bad_alloc&) {
    return failure(Code::out_of_memory, "there is no memory for what the processor computes");
  }
  return {};
}

}  // namespace ring::cpu
