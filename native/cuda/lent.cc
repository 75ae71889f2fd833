// See lent.h.
#include "lent.h"

namespace ring::cuda {

Lent::~Lent() {
  for (void* range : ranges_) cudaHostUnregister(range);
}

Status Lent::add(const uint8_t* data, uint64_t bytes) {
  void* range = const_cast<uint8_t*>(data);
  const std::lock_guard guard(mutex_);
  const cudaError_t error = cudaHostRegister(range, bytes, cudaHostRegisterPortable);
  if (error != cudaSuccess) {
    cudaGetLastError();  // else the next launch of this thread would report it
    return failure(Code::out_of_memory, "%s", cudaGetErrorString(error));
  }
  ranges_.push_back(range);
  return {};
}

}  // namespace ring::cuda
