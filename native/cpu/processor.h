// The processor for a backend that computes elsewhere (see Processor in backend.h): the CPU
// backend's own products and threads. It knows nothing of layers and steps.
#pragma once
#include <memory>

#include "../backend.h"

namespace ring::cpu {

// For products of at most limits.step_tokens rows with weights of this model, which stays as it is.
// They allocate nothing.
Status lend_processor(const Model& model, const Limits& limits,
                      std::shared_ptr<const Processor>* processor);

}  // namespace ring::cpu
