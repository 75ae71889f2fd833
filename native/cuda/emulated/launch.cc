// Blocks of an emulated launch: their threads as fibers, and the places where these meet. A thread
// that ends while others wait for it, or lanes that meet at different operations, end the program:
// on a GPU such a kernel hangs, or computes with what happens to be there.
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <vector>

#include "cuda.h"
#include "fibers.h"
#include "stream.h"

namespace emulated {

Self* self = nullptr;
dim3 block_size, grid_size;
unsigned char* dynamic_shared = nullptr;

namespace {

constexpr int kLanes = 32;
constexpr int kThreadsMost = 1024;
constexpr size_t kSharedBytesMost = 48 << 10;
// What meets, so that nobody meets somebody who does something else. Shuffles are told apart by
// their distance.
enum : int { kIndexed = -1, kSync = 1000, kVote, kProduct, kBf16Product };

[[noreturn]] void fail(const char* what) {
  fprintf(stderr, "emulated CUDA: %s (block %u, %u, %u, thread %u)\n", what, self->block.x,
          self->block.y, self->block.z, self->thread.x);
  abort();
}

struct Meeting {
  int expected = 0, arrived = 0, kind = 0;
  uint64_t generation = 0;
};

struct Warp {
  Meeting meeting;
  uint32_t in[kLanes], out[kLanes];
  int source[kLanes];
  uint32_t a[kLanes][4], b[kLanes][2];
  float sums[kLanes][4];
};

Meeting everyone;
std::vector<Warp> warps;

// `last` runs once, when the last has come.
template <typename Last>
void meet(Meeting& meeting, int kind, const Last& last) {
  if (meeting.arrived == 0) meeting.kind = kind;
  if (meeting.kind != kind) fail("lanes of a warp meet at different operations");
  const uint64_t generation = meeting.generation;
  if (++meeting.arrived == meeting.expected) {
    last();
    meeting.arrived = 0;
    ++meeting.generation;
    note_progress();
    return;
  }
  Self* const mine = self;
  while (meeting.generation == generation) pause_fiber();
  self = mine;
}

Warp& own_warp() { return warps[self->thread.x / kLanes]; }

// What every pattern of 16 bits means.
template <typename Value>
std::vector<float> list_values(const Value& value) {
  std::vector<float> all(1 << 16);
  for (int bits = 0; bits < 1 << 16; ++bits) all[bits] = value(static_cast<uint16_t>(bits));
  return all;
}

// D = A B + C of m16n8k16: which lane holds which element is as the PTX manual has it.
void multiply_warp(Warp& w, const std::vector<float>& values) {
  float a[16][16], b[16][8], sums[16][8];
  for (int lane = 0; lane < kLanes; ++lane) {
    const int group = lane / 4, member = lane % 4;
    for (int r = 0; r < 4; ++r) {
      const int row = group + (r % 2) * 8, column = member * 2 + (r / 2) * 8;
      a[row][column] = values[w.a[lane][r] & 0xffff];
      a[row][column + 1] = values[w.a[lane][r] >> 16];
      sums[group + (r / 2) * 8][member * 2 + r % 2] = w.sums[lane][r];
    }
    for (int r = 0; r < 2; ++r) {
      b[member * 2 + r * 8][group] = values[w.b[lane][r] & 0xffff];
      b[member * 2 + r * 8 + 1][group] = values[w.b[lane][r] >> 16];
    }
  }
  for (int row = 0; row < 16; ++row) {
    for (int k = 0; k < 16; ++k) {
      for (int n = 0; n < 8; ++n) sums[row][n] += a[row][k] * b[k][n];
    }
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int r = 0; r < 4; ++r)
      w.sums[lane][r] = sums[lane / 4 + (r / 2) * 8][lane % 4 * 2 + r % 2];
  }
}

void run_block(dim3 block, const std::function<void()>& kernel) {
  static std::vector<Self> selves;
  const int threads = static_cast<int>(block_size.x);
  selves.assign(static_cast<size_t>(threads), Self{});
  everyone = Meeting{threads};
  warps.assign(static_cast<size_t>((threads + kLanes - 1) / kLanes), Warp{});
  for (size_t index = 0; index < warps.size(); ++index) {
    warps[index].meeting.expected = std::min(kLanes, threads - static_cast<int>(index) * kLanes);
  }
  run_fibers(
      threads,
      [&](int thread) {
        selves[static_cast<size_t>(thread)] = {dim3(static_cast<unsigned>(thread)), block};
        self = &selves[static_cast<size_t>(thread)];
        kernel();
      },
      [] { fail("threads of a block wait for others that do not come"); });
}

void run_grid(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& kernel) {
  static std::mutex one_at_a_time;
  const std::lock_guard lock(one_at_a_time);
  const std::unique_ptr<unsigned char[]> shared(new unsigned char[shared_bytes]);
  dynamic_shared = shared.get();
  grid_size = grid;
  block_size = block;
  const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
  for (uint64_t index = 0; index < blocks; ++index) {
    // From the last to the first: nobody may count on the order in which a GPU would begin.
    const uint64_t at = blocks - 1 - index;
    memset(shared.get(), 0xff, shared_bytes);
    run_block(dim3(static_cast<unsigned>(at % grid.x), static_cast<unsigned>(at / grid.x % grid.y),
                   static_cast<unsigned>(at / grid.x / grid.y)),
              kernel);
  }
}

}  // namespace

void launch(dim3 grid, dim3 block, size_t shared_bytes, Stream* stream,
            std::function<void()> kernel, std::function<void()> check) {
  constexpr unsigned kGridMost = 65535;
  const bool good = grid.x > 0 && grid.y > 0 && grid.z > 0 && grid.x <= 0x7fffffffu &&
                    grid.y <= kGridMost && grid.z <= kGridMost && block.x > 0 &&
                    block.x <= kThreadsMost && block.x % kLanes == 0 && block.y == 1 &&
                    block.z == 1 && shared_bytes <= kSharedBytesMost;
  if (!good) return set_last_error(cudaErrorInvalidValue);
  check();
  count_kernel(stream);
  enqueue(stream, [=, kernel = std::move(kernel), check = std::move(check)] {
    check();
    run_grid(grid, block, shared_bytes, kernel);
  });
}

uint32_t exchange(uint32_t value, int source_lane, int kind) {
  Warp& w = own_warp();
  const int mine = lane();
  w.in[mine] = value;
  w.source[mine] = source_lane;
  meet(w.meeting, kind, [&] {
    for (int i = 0; i < w.meeting.expected; ++i) {
      if (w.source[i] < 0 || w.source[i] >= w.meeting.expected) fail("a lane asks no lane");
      w.out[i] = w.in[w.source[i]];
    }
  });
  return w.out[mine];
}

uint32_t vote(bool holds) {
  Warp& w = own_warp();
  const int mine = lane();
  w.in[mine] = holds ? 1 : 0;
  meet(w.meeting, kVote, [&] {
    uint32_t all = 0;
    for (int i = 0; i < w.meeting.expected; ++i) all |= w.in[i] << i;
    for (int i = 0; i < w.meeting.expected; ++i) w.out[i] = all;
  });
  return w.out[mine];
}

namespace {

void multiply(int kind, const std::vector<float>& values, float (&sums)[4], const uint32_t (&a)[4],
              const uint32_t (&b)[2]) {
  Warp& w = own_warp();
  const int mine = lane();
  memcpy(w.a[mine], a, sizeof a);
  memcpy(w.b[mine], b, sizeof b);
  memcpy(w.sums[mine], sums, sizeof sums);
  if (w.meeting.expected != kLanes) fail("a product wants a whole warp");
  meet(w.meeting, kind, [&] { multiply_warp(w, values); });
  memcpy(sums, w.sums[mine], sizeof sums);
}

}  // namespace

void multiply_fragments(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  static const std::vector<float> values = list_values(half_value);
  multiply(kProduct, values, sums, a, b);
}

void multiply_bf16_fragments(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  static const std::vector<float> values =
      list_values([](uint16_t bits) { return __uint_as_float(static_cast<uint32_t>(bits) << 16); });
  multiply(kBf16Product, values, sums, a, b);
}

float half_value(uint16_t half) {
  const int exponent = half >> 10 & 31, mantissa = half & 1023;
  float magnitude;
  if (exponent == 31)
    magnitude = mantissa == 0 ? INFINITY : NAN;
  else if (exponent == 0)
    magnitude = std::ldexp(static_cast<float>(mantissa), -24);
  else
    magnitude = std::ldexp(static_cast<float>(1024 + mantissa), exponent - 25);
  return half & 0x8000 ? -magnitude : magnitude;
}

// Nearest, ties to even.
uint16_t half_nearest(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return 0x7fff;
  if (magnitude >= 0x477ff000u) return sign | 0x7c00;  // 65520 and more
  if (magnitude < 0x38800000u) {                       // below 2^-14: in steps of 2^-24
    float steps;
    memcpy(&steps, &magnitude, 4);
    return sign | static_cast<uint16_t>(std::nearbyint(steps * 0x1p24f));
  }
  const uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u);
  return sign | static_cast<uint16_t>((rounded - 0x38000000u) >> 13);
}

}  // namespace emulated

void __syncthreads() {
  emulated::meet(emulated::everyone, emulated::kSync, [] {});
}

void __syncwarp() {
  emulated::meet(emulated::own_warp().meeting, emulated::kSync, [] {});
}
