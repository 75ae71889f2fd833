// Memory, streams and events of the emulated CUDA. Whoever mixes up memory of the host and of the
// device ends the program.
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <map>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

#include "cuda.h"
#include "stream.h"

namespace emulated {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kAlignment = 256;
constexpr size_t kPageBytes = 4096;
constexpr size_t kMemoryBytes = size_t{2} << 30;

struct Device {
  std::mutex mutex;
  std::map<uintptr_t, size_t> allocations, pinned, registered;
  size_t taken_bytes = 0;
};

Device& device() {
  static Device one;
  return one;
}

thread_local cudaError_t last_error = cudaSuccess;

// RING_EMULATED_MEMORY: bytes of the device.
size_t memory_bytes() {
  const char* text = getenv("RING_EMULATED_MEMORY");
  return text != nullptr ? strtoull(text, nullptr, 10) : kMemoryBytes;
}

int64_t delay_us() {
  const char* text = getenv("RING_DELAY_US");
  return text != nullptr ? strtoll(text, nullptr, 10) : -1;
}

// RING_EMULATED_PIN_US: what it takes to pin a range.
int64_t pin_us() {
  const char* text = getenv("RING_EMULATED_PIN_US");
  return text != nullptr ? strtoll(text, nullptr, 10) : 0;
}

[[noreturn]] void fail(const char* what, const void* pointer) {
  fprintf(stderr, "emulated CUDA: %s: %p\n", what, pointer);
  abort();
}

bool lies_in(const std::map<uintptr_t, size_t>& allocations, const void* pointer, size_t bytes) {
  const std::lock_guard lock(device().mutex);
  const auto at = reinterpret_cast<uintptr_t>(pointer);
  auto after = allocations.upper_bound(at);
  if (after == allocations.begin()) return false;
  const auto& [base, size] = *--after;
  return at + bytes <= base + size;
}

bool is_device(const void* pointer, size_t bytes) {
  return lies_in(device().allocations, pointer, bytes);
}

void drain(Stream* stream, uint64_t up_to, bool only_due) {
  while (stream->done < up_to) {
    if (only_due && stream->waiting.front().due > Clock::now()) return;
    const Stream::Work work = std::move(stream->waiting.front());
    stream->waiting.pop_front();
    work.run();
    ++stream->done;
  }
}

void check_copy(const void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  if (is_device(to, bytes) != (kind != cudaMemcpyDeviceToHost))
    fail("a copy goes to memory of the wrong kind", to);
  if (is_device(from, bytes) != (kind != cudaMemcpyHostToDevice))
    fail("a copy comes from memory of the wrong kind", from);
}

// What a call returns that has failed; the next cudaGetLastError of this thread says it once more.
cudaError_t failed(cudaError_t error) {
  last_error = error;
  return error;
}

// Memory of the host that a recorded copy names must be there, and in one place, whenever it runs.
cudaError_t check_recorded_copy(const void* host, size_t bytes) {
  const Device& d = device();
  const bool is_pinned = lies_in(d.pinned, host, bytes) || lies_in(d.registered, host, bytes);
  return is_pinned ? cudaSuccess : refuse_while_recording();
}

}  // namespace

void set_last_error(cudaError_t error) { last_error = error; }

void enqueue(Stream* stream, std::function<void()> run) {
  if (stream->recording != nullptr) return stream->recording->works.push_back(std::move(run));
  const int64_t delay = delay_us();
  if (delay < 0 && stream->waiting.empty()) return run();
  stream->waiting.push_back({std::move(run), Clock::now() + std::chrono::microseconds(delay)});
  ++stream->taken;
}

void require_device(const void* pointer) {
  if (pointer != nullptr && !is_device(pointer, 0)) fail("a kernel is given host memory", pointer);
}

}  // namespace emulated

using namespace emulated;

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorNotReady:
      return "device not ready";
    case cudaErrorStreamCaptureUnsupported:
      return "operation not permitted when stream is capturing";
    default:
      return "unknown error";
  }
}

cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {};
  snprintf(properties->name, sizeof properties->name, "emulated GPU");
  properties->totalGlobalMem = memory_bytes();
  properties->major = 8;
  properties->multiProcessorCount = 1;
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int index) { return index == 0 ? cudaSuccess : cudaErrorInvalidValue; }

cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* all_bytes) {
  const std::lock_guard lock(device().mutex);
  *all_bytes = memory_bytes();
  *free_bytes = *all_bytes - std::min(*all_bytes, device().taken_bytes);
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  if (const cudaError_t refused = refuse_while_recording()) return refused;
  Device& d = device();
  const std::lock_guard lock(d.mutex);
  *pointer = nullptr;
  if (bytes == 0) return cudaSuccess;
  if (d.taken_bytes + bytes > memory_bytes()) return failed(cudaErrorMemoryAllocation);
  // Exactly as much as asked for, so that a sanitizer sees the first byte too many.
  if (posix_memalign(pointer, kAlignment, bytes) != 0) return cudaErrorMemoryAllocation;
  // What nobody has written reads as NaN.
  memset(*pointer, 0xff, bytes);
  d.allocations[reinterpret_cast<uintptr_t>(*pointer)] = bytes;
  d.taken_bytes += bytes;
  return cudaSuccess;
}

cudaError_t cudaFree(void* pointer) {
  if (pointer == nullptr) return cudaSuccess;
  if (const cudaError_t refused = refuse_while_recording()) return refused;
  Device& d = device();
  const std::lock_guard lock(d.mutex);
  const auto found = d.allocations.find(reinterpret_cast<uintptr_t>(pointer));
  if (found == d.allocations.end()) fail("what is freed was never allocated", pointer);
  d.taken_bytes -= found->second;
  d.allocations.erase(found);
  free(pointer);
  return cudaSuccess;
}

cudaError_t cudaMallocHost(void** pointer, size_t bytes) {
  if (const cudaError_t refused = refuse_while_recording()) return refused;
  if (posix_memalign(pointer, kAlignment, std::max<size_t>(bytes, 1)) != 0)
    return cudaErrorMemoryAllocation;
  const std::lock_guard lock(device().mutex);
  device().pinned[reinterpret_cast<uintptr_t>(*pointer)] = bytes;
  return cudaSuccess;
}

cudaError_t cudaFreeHost(void* pointer) {
  if (const cudaError_t refused = refuse_while_recording()) return refused;
  const std::lock_guard lock(device().mutex);
  device().pinned.erase(reinterpret_cast<uintptr_t>(pointer));
  free(pointer);
  return cudaSuccess;
}

// By whole pages, none of them twice.
cudaError_t cudaHostRegister(void* pointer, size_t bytes, unsigned) {
  if (const cudaError_t refused = begin_pinning()) return refused;
  const uintptr_t first = reinterpret_cast<uintptr_t>(pointer) / kPageBytes;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(pointer) + bytes - 1) / kPageBytes + 1;
  bool overlaps = false;
  {
    Device& d = device();
    const std::lock_guard lock(d.mutex);
    for (const auto& [base, size] : d.registered)
      overlaps |= base / kPageBytes < end && first < (base + size - 1) / kPageBytes + 1;
    if (!overlaps) d.registered[reinterpret_cast<uintptr_t>(pointer)] = bytes;
  }
  // Pages are pinned one after the other, which takes its time.
  std::this_thread::sleep_for(std::chrono::microseconds(pin_us()));
  end_pinning();
  return overlaps ? failed(cudaErrorHostMemoryAlreadyRegistered) : cudaSuccess;
}

cudaError_t cudaHostUnregister(void* pointer) {
  if (const cudaError_t refused = refuse_while_recording()) return refused;
  const std::lock_guard lock(device().mutex);
  const size_t found = device().registered.erase(reinterpret_cast<uintptr_t>(pointer));
  return found == 1 ? cudaSuccess : failed(cudaErrorHostMemoryNotRegistered);
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  if (bytes == 0) return cudaSuccess;
  check_copy(to, from, bytes, kind);
  if (stream->recording != nullptr && kind != cudaMemcpyDeviceToDevice) {
    const void* host = kind == cudaMemcpyDeviceToHost ? to : from;
    if (const cudaError_t refused = check_recorded_copy(host, bytes)) return refused;
  }
  enqueue(stream, [=] {
    check_copy(to, from, bytes, kind);
    memcpy(to, from, bytes);
  });
  return cudaSuccess;
}

cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch,
                              size_t width, size_t height, cudaMemcpyKind kind,
                              cudaStream_t stream) {
  if (width > to_pitch || width > from_pitch) return failed(cudaErrorInvalidValue);
  for (size_t row = 0; row < height; ++row) {
    void* target = static_cast<uint8_t*>(to) + row * to_pitch;
    const void* source = static_cast<const uint8_t*>(from) + row * from_pitch;
    cudaMemcpyAsync(target, source, width, kind, stream);
  }
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  if (bytes > 0 && !is_device(to, bytes)) fail("memory of the host is set as the device's", to);
  enqueue(stream, [=] { memset(to, value, bytes); });
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new Stream;
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (const cudaError_t refused = refuse_while_recording()) return refused;
  count_wait();
  drain(stream, stream->taken, false);
  return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  const Event awaited = *event;
  if (stream->recording != nullptr) {
    refuse_while_recording();
    return cudaErrorStreamCaptureIsolation;
  }
  if (awaited.stream == nullptr) return cudaSuccess;
  enqueue(stream, [awaited] { drain(awaited.stream, awaited.number, false); });
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new Event;
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  if (stream->recording != nullptr) return refuse_while_recording();
  *event = {stream, stream->taken};
  return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  if (const cudaError_t refused = refuse_while_recording()) return refused;
  if (event->stream == nullptr) return cudaSuccess;
  drain(event->stream, event->number, true);
  return event->stream->done >= event->number ? cudaSuccess : failed(cudaErrorNotReady);
}
