// Memory with a page on either side that cannot be touched, so that one byte read or written past
// either end kills the test program. The bytes between the ends and the pages are 0xFF, which is
// NaN in e4m3, BF16 and F32: whoever reads those and computes with them shows it in the result.
#pragma once
#include <cstddef>
#include <cstdint>

namespace ring::test {

enum class Against { end, begin };

// At least `bytes` usable bytes, whole pages, all 0xFF, between two untouchable pages. Regions are
// kept for the next taker, because a fresh mapping costs more than most cases compute. One thread.
struct Region {
  uint8_t* begin;
  size_t bytes;
};
Region take_region(size_t bytes);
void give_region(const Region& region);

// `count` elements, `gap_bytes` away from the untouchable page at the end or at the beginning. A
// gap moves the phase of the address; for anything but bytes keep it a multiple of the element
// size. Elements start as poison.
template <typename Element>
class Guarded {
 public:
  explicit Guarded(size_t count, size_t gap_bytes = 0, Against side = Against::end)
      : region_(take_region(count * sizeof(Element) + gap_bytes)), count_(count) {
    const size_t offset = side == Against::begin
                              ? gap_bytes
                              : region_.bytes - gap_bytes - count * sizeof(Element);
    data_ = reinterpret_cast<Element*>(region_.begin + offset);
  }
  ~Guarded() { give_region(region_); }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;

  Element* data() { return data_; }
  size_t count() const { return count_; }
  Element& operator[](size_t index) { return data_[index]; }
  const Element& operator[](size_t index) const { return data_[index]; }

 private:
  Region region_;
  size_t count_;
  Element* data_;
};

}  // namespace ring::test
