// silu(gate) * up, as every kernel that ends a gated product computes it.
#pragma once
#include "gpu.h"

namespace ring::cuda {

__device__ inline float swiglu(float gate, float up) { return gate / (1.0f + expf(-gate)) * up; }

}  // namespace ring::cuda
