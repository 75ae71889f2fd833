// The GPU's kernels as tests call them: arrays in its memory, and streams. Which GPU that is, the
// emulation or hardware, is decided by what the program is linked with.
#pragma once
#include <cstring>
#include <vector>

#include "backend.h"
#include "cuda/kernels.h"
#include "harness.h"
#include "reference.h"

extern "C" int32_t ring_probe(ring::BackendProbe* probe);

namespace ring::test {

// Whether the emulation computes: it is slow, and can be told to be late or short of memory.
inline bool is_emulation() {
  BackendProbe probe;
  return ring_probe(&probe) == 0 && strcmp(probe.name, "emulated GPU") == 0;
}

inline void require_gpu(cudaError_t error) {
  require(error == cudaSuccess, "CUDA says: %s", cudaGetErrorString(error));
}

// Works at once, whatever the environment says: see RING_DELAY_US.
inline cudaStream_t test_stream() {
  static const cudaStream_t stream = [] {
    cudaStream_t made = nullptr;
    require_gpu(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking));
    return made;
  }();
  return stream;
}

// Exactly so many elements in memory of the GPU; NaN, -1 or 255 until they are written.
template <typename Element>
class OnGpu {
 public:
  explicit OnGpu(size_t count) : count_(count) {
    void* memory = nullptr;
    require_gpu(cudaMalloc(&memory, count * sizeof(Element)));
    data_ = static_cast<Element*>(memory);
  }
  OnGpu(const Element* from, size_t count) : OnGpu(count) { write(from); }
  explicit OnGpu(const std::vector<Element>& from) : OnGpu(from.data(), from.size()) {}
  ~OnGpu() { cudaFree(data_); }
  OnGpu(const OnGpu&) = delete;
  OnGpu& operator=(const OnGpu&) = delete;

  void write(const Element* from) {
    require_gpu(cudaMemcpyAsync(data_, from, count_ * sizeof(Element), cudaMemcpyHostToDevice,
                                test_stream()));
    require_gpu(cudaStreamSynchronize(test_stream()));
  }
  std::vector<Element> read() const {
    std::vector<Element> out(count_);
    require_gpu(cudaMemcpyAsync(out.data(), data_, count_ * sizeof(Element), cudaMemcpyDeviceToHost,
                                test_stream()));
    require_gpu(cudaStreamSynchronize(test_stream()));
    return out;
  }
  Element* data() const { return data_; }

 private:
  size_t count_;
  Element* data_ = nullptr;
};

// A matrix with its scales in memory of the GPU.
class MatrixOnGpu {
 public:
  explicit MatrixOnGpu(const RandomMatrix& from)
      : bytes_(from.matrix().data, static_cast<size_t>(from.matrix().rows) * from.matrix().columns *
                                       bytes_of(from.matrix().dtype)),
        scales_(from.matrix().scales, scale_count(from.matrix())),
        matrix_(from.matrix()) {
    matrix_.data = bytes_.data();
    if (matrix_.scales != nullptr) matrix_.scales = scales_.data();
  }
  const Matrix& matrix() const { return matrix_; }

 private:
  static size_t scale_count(const Matrix& m) {
    if (m.scales == nullptr) return 0;
    return static_cast<size_t>((m.rows + m.block_rows - 1) / m.block_rows) * m.scale_columns;
  }
  OnGpu<uint8_t> bytes_;
  OnGpu<float> scales_;
  Matrix matrix_;
};

// Activations, and their copy in F16 where columns have room for one.
class RowsOnGpu {
 public:
  RowsOnGpu(const float* values, int rows, int columns)
      : wide_(values, static_cast<size_t>(rows) * columns),
        narrow_(static_cast<size_t>(rows) * columns),
        factors_(rows) {
    if (columns % 4 == 0) require_gpu(cuda::narrow(test_stream(), this->rows(), rows, columns));
  }
  cuda::Activations rows() const { return {wide_.data(), narrow_.data(), factors_.data()}; }

 private:
  OnGpu<float> wide_;
  OnGpu<uint16_t> narrow_;
  OnGpu<float> factors_;
};

}  // namespace ring::test
