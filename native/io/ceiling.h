// What a drive can do: random reads at a fixed size and depth, nothing else between. The ceiling
// that every share of bound is taken against, measured through the same Drive that the reader uses.
#pragma once
#include "drive.h"

namespace ring::io {

struct CeilingProbe {
  uint64_t chunk_bytes = 4 << 20;
  int depth = 16;
  uint64_t bytes = uint64_t{2} << 30;  // read in all, unless the time is over before
  double seconds = 10;
  uint64_t seed = 1;
};

// Reads whole chunks at random places of the sources that are large enough. Memory is lent and
// touched before the clock starts.
Status measure_ceiling(Drive& drive, const std::vector<Source>& sources, const CeilingProbe& probe,
                       double* bytes_per_second);

}  // namespace ring::io
