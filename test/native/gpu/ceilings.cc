// What the GPU and the link to it can do at most; whatever else is measured is a share of this.
#include <algorithm>

#include "door.h"
#include "made.h"
#include "sections.h"

namespace ring::gpu {
namespace {

using test::OnGpu;
using test::require_gpu;
using test::test_stream;

constexpr int64_t kBytes = int64_t{4} << 30;
constexpr int64_t kCopyBytes = int64_t{48} << 20;  // about an expert of Ring-1T

std::vector<double> rates(double amount, const std::vector<double>& seconds) {
  std::vector<double> out;
  for (const double one : seconds) out.push_back(amount / one);
  return out;
}

std::vector<double> scaled(std::vector<double> values, double by) {
  for (double& value : values) value *= by;
  return values;
}

// Memory of the host that the copy engine reads by itself.
struct Pinned {
  void* data = nullptr;
  explicit Pinned(size_t bytes) { require_gpu(door().measure->allocate_pinned(&data, bytes)); }
  ~Pinned() { door().measure->release_pinned(data); }
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;
};

// Copies are not recorded: the engine's own pace is asked for, and pageable ones cannot be.
std::vector<double> copy_rates(const Effort& effort, void* to, const void* from, int64_t bytes,
                               cudaMemcpyKind kind) {
  const int calls = effort.is_tiny ? 1 : 16;
  return rates(static_cast<double>(bytes) * calls * 1e-9, seconds_of_calls(effort, 1, [&] {
                 for (int i = 0; i < calls; ++i)
                   require_gpu(door().measure->copy(to, from, bytes, kind, test_stream()));
                 require_gpu(door().measure->wait(test_stream()));
               }));
}

}  // namespace

Ceilings measure_ceilings(const Effort& effort, Table& table) {
  const cuda::Measure& m = *door().measure;
  size_t free_bytes = 0, all_bytes = 0;
  require_gpu(m.ask_memory(&free_bytes, &all_bytes));
  const int64_t whole =
      effort.is_tiny ? 2 * cuda::kReadBytes : std::min<int64_t>(kBytes, free_bytes / 4);
  const int64_t bytes = whole / (2 * cuda::kReadBytes) * (2 * cuda::kReadBytes);
  const int64_t copied = effort.is_tiny ? 4096 : kCopyBytes;
  const MadeBytes data(Dtype::f8_e4m3, bytes, 1);
  const OnGpu<uint32_t> sink(1);
  const OnGpu<float> sums(1);
  Ceilings ceilings;

  const std::vector<double> reading =
      rates(static_cast<double>(bytes), seconds_of(effort, 1, [&](cudaStream_t stream, int) {
              require_gpu(m.read_only(stream, data.data(), bytes, sink.data()));
            }));
  ceilings.read_bytes = figure_of(reading).median;
  table.add("ceiling: reading " + std::to_string(bytes >> 20) + " MiB", scaled(reading, 1e-12),
            "TB/s");

  const int64_t half = bytes / 2;
  table.add(
      "ceiling: copying within the GPU",
      scaled(copy_rates(effort, data.data() + half, data.data(), half, cudaMemcpyDeviceToDevice),
             2e-3),
      "TB/s read and written");

  double operations = 0;
  const int rounds = effort.is_tiny ? 2 : 4096;
  const std::vector<double> seconds = seconds_of(effort, 1, [&](cudaStream_t stream, int) {
    require_gpu(m.multiply_only(stream, rounds, sums.data(), &operations));
  });
  const std::vector<double> products = rates(operations, seconds);
  ceilings.products = figure_of(products).median;
  table.add("ceiling: F16 products on tensor cores, from registers (mma.sync)",
            scaled(products, 1e-12), "TFLOP/s");

  {
    const Pinned pinned(copied);
    std::vector<uint8_t> pageable(copied, 7);
    std::fill_n(static_cast<uint8_t*>(pinned.data), copied, uint8_t{9});
    table.add("ceiling: host to GPU, pinned, 48 MiB at a time",
              copy_rates(effort, data.data(), pinned.data, copied, cudaMemcpyHostToDevice), "GB/s");
    table.add("ceiling: GPU to host, pinned, 48 MiB at a time",
              copy_rates(effort, pinned.data, data.data(), copied, cudaMemcpyDeviceToHost), "GB/s");
    table.add("ceiling: host to GPU, pageable, 48 MiB at a time",
              copy_rates(effort, data.data(), pageable.data(), copied, cudaMemcpyHostToDevice),
              "GB/s");
  }

  const auto launch = [&](cudaStream_t stream, int) { require_gpu(m.do_nothing(stream)); };
  const int launches = effort.is_tiny ? 2 : 1000;
  std::vector<double> by_hand = seconds_of_calls(effort, 1, [&] {
    for (int i = 0; i < launches; ++i) launch(test_stream(), i);
    require_gpu(m.wait(test_stream()));
  });
  table.add("launch gap: empty kernels, one after the other", scaled(by_hand, 1e6 / launches),
            "us");
  table.add("launch gap: empty kernels in a graph",
            scaled(seconds_of(effort, launches, launch), 1e6), "us");
  table.add("an empty kernel and the wait for it",
            scaled(seconds_of_calls(effort, launches,
                                    [&] {
                                      launch(test_stream(), 0);
                                      require_gpu(m.wait(test_stream()));
                                    }),
                   1e6),
            "us");
  void* recording = nullptr;
  require_gpu(m.record(test_stream()));
  launch(test_stream(), 0);
  require_gpu(m.keep(test_stream(), &recording));
  table.add("a graph of one empty kernel and the wait for it",
            scaled(seconds_of_calls(effort, launches,
                                    [&] {
                                      require_gpu(m.replay(recording, test_stream()));
                                      require_gpu(m.wait(test_stream()));
                                    }),
                   1e6),
            "us");
  require_gpu(m.forget(recording));
  return ceilings;
}

}  // namespace ring::gpu
