// How fast this machine's threads can read memory: what bounds a model whose weights are all in it.
#pragma once
#include <cstddef>
#include <cstdint>

#include "../status.h"

namespace ring::cpu {

// Reads whole cache lines and adds them, fetching `ahead` lines on or (0) leaving that to the
// processor. Returns the sum, so that nothing is left out.
uint64_t read_only(const uint8_t* data, size_t bytes, int ahead);

// Bytes per second of all `threads` (0: as many as the backend takes) reading 512 MiB, in the best
// of a few ways to fetch ahead, each the median of three rounds. Takes a few tenths of a second.
Status measure_memory(int threads, double* bytes_per_second);

}  // namespace ring::cpu
