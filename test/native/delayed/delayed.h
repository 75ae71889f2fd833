// A compute backend for tests: the CPU's, with slots in memory of its own that a thread fills late.
// It holds the device to the rules of slots: bytes of a slot that is being filled are poison, each
// copy stamps the slot with layer, expert and generation, and nothing is computed with a slot that
// does not hold, whole, the expert it is named for, before and after. Read from the environment at
// open: RING_DELAY_US is what a copy takes, from nothing to twice that by chance; RING_DELAY_SEED
// belongs to the chance; RING_DELAY_LOST_AT is how manyth mix finds the memory lost, for good in
// this backend, counted over all that are opened one after the other with that number;
// RING_DELAY_SLOTS is how many slots there is memory for, if not all; RING_DELAY_LEFT the bytes of
// its memory that it says are free whenever it is asked. While RING_DELAY_PINS_NOTHING is set,
// memory that is lent is refused.
#pragma once
#include "backend.h"

namespace ring::test {

const Backend* delayed_backend();

// Where a matrix of the expert in a slot lies.
const uint8_t* delayed_bytes(void* self, int32_t slot, int32_t matrix);

// Bytes of RAM that it was lent.
uint64_t delayed_lent(void* self);

}  // namespace ring::test
