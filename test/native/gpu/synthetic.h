// A model of random weights that takes next to no memory of the host: one piece of random bytes is
// mapped again and again, one behind the other, and every matrix begins somewhere in there, at an
// odd byte, as in a checkpoint. On the GPU each is then a matrix of its own. Numbers have the size
// that keeps a residual stream finite.
#pragma once
#include <map>
#include <utility>

#include "made.h"
#include "shapes.h"

namespace ring::gpu {

// Random elements without end, or nearly so.
class EndlessBytes {
 public:
  // `piece_bytes`, a multiple of the page, `pieces` times.
  EndlessBytes(Dtype dtype, size_t piece_bytes, size_t pieces);
  ~EndlessBytes();
  EndlessBytes(const EndlessBytes&) = delete;
  EndlessBytes& operator=(const EndlessBytes&) = delete;
  // So many bytes that no earlier call was given at this place.
  const uint8_t* next(size_t bytes);

 private:
  uint8_t* memory_ = nullptr;
  size_t bytes_ = 0, next_ = 0;
};

class SyntheticModel {
 public:
  Model model;
  SyntheticModel(const ModelShape& shape, bool is_tiny);
  const EndlessBytes& halves() const { return bf16_; }

 private:
  Matrix fp8(int rows, int columns);
  Matrix bf16(int rows, int columns);
  Mlp mlp(int width);

  EndlessBytes fp8_, bf16_;
  std::map<std::pair<int, int>, size_t> scales_at_;  // by rows and columns
};

}  // namespace ring::gpu
