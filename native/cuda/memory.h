// Memory of the GPU and memory of the host that its copy engine reads, each owned by whoever asked
// for it, and what goes over together. It must not know what the bytes are.
#pragma once
#include <cstring>
#include <utility>

#include "gpu.h"

namespace ring::cuda {

// Elements in memory of the GPU. What they hold at first nobody knows.
template <typename Element>
class DeviceArray {
 public:
  DeviceArray() = default;
  ~DeviceArray() { cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  Status open(size_t count, const char* what) {
    count_ = count;
    void* memory = nullptr;
    const cudaError_t error = cudaMalloc(&memory, count * sizeof(Element));
    data_ = static_cast<Element*>(memory);
    if (error != cudaErrorMemoryAllocation) return status_of(error, what);
    cudaGetLastError();  // else the next launch would report it
    return failure(Code::out_of_memory, "the GPU has no %.2f GB left for %s",
                   static_cast<double>(count * sizeof(Element)) * 1e-9, what);
  }
  Element* data() const { return data_; }
  size_t count() const { return count_; }

 private:
  Element* data_ = nullptr;
  size_t count_ = 0;
};

// Elements in memory of the host that stays where it is.
template <typename Element>
class PinnedArray {
 public:
  PinnedArray() = default;
  ~PinnedArray() { cudaFreeHost(data_); }
  PinnedArray(const PinnedArray&) = delete;
  PinnedArray& operator=(const PinnedArray&) = delete;

  Status open(size_t count) {
    count_ = count;
    void* memory = nullptr;
    RING_GPU(cudaMallocHost(&memory, count * sizeof(Element)));
    data_ = static_cast<Element*>(memory);
    return {};
  }
  Element* data() const { return data_; }
  size_t count() const { return count_; }

 private:
  Element* data_ = nullptr;
  size_t count_ = 0;
};

// Lists that go to the GPU in one copy: they are placed one after the other, filled in, and sent.
class Parcel {
 public:
  static constexpr size_t kAlignment = 16;

  Status open(size_t bytes, const char* what) {
    RING_TRY(host_.open(bytes));
    return device_.open(bytes, what);
  }
  bool has_room(size_t bytes) const { return used_ + bytes <= host_.count(); }
  // The GPU must have done with all that was placed before.
  void clear() { used_ = sent_ = 0; }
  // A list to be filled in before send(), and where it will lie. Whoever places has made sure of
  // room: `bytes_of` for each list.
  template <typename Element>
  Element* place(size_t count, const Element** on_device) {
    const size_t at = used_;
    used_ += bytes_of<Element>(count);
    *on_device = reinterpret_cast<const Element*>(device_.data() + at);
    return reinterpret_cast<Element*>(host_.data() + at);
  }
  template <typename Element>
  static size_t bytes_of(size_t count) {
    return (count * sizeof(Element) + kAlignment - 1) / kAlignment * kAlignment;
  }
  Status send(cudaStream_t stream) {
    RING_GPU(cudaMemcpyAsync(device_.data() + sent_, host_.data() + sent_, used_ - sent_,
                             cudaMemcpyHostToDevice, stream));
    sent_ = used_;
    return {};
  }

 private:
  PinnedArray<uint8_t> host_;
  DeviceArray<uint8_t> device_;
  size_t used_ = 0, sent_ = 0;
};

}  // namespace ring::cuda
