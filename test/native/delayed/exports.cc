// The backend with delays as a shared library that the program opens like any other. Further words
// of the environment are for tests of the door: RING_DELAY_REASON is why the backend cannot be
// used, RING_DELAY_VERSION that of the table, as if it had been built from other sources, and
// RING_DELAY_MEMORY the bytes that are free.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "delayed.h"

#define RING_EXPORT extern "C" __attribute__((visibility("default")))

RING_EXPORT const ring::Backend* ring_backend() {
  static const ring::Backend table = [] {
    ring::Backend made = *ring::test::delayed_backend();
    const char* version = getenv("RING_DELAY_VERSION");
    if (version != nullptr) made.version = static_cast<uint32_t>(atoi(version));
    return made;
  }();
  return &table;
}

RING_EXPORT int32_t ring_probe(ring::BackendProbe* probe) {
  const char* reason = getenv("RING_DELAY_REASON");
  const char* memory = getenv("RING_DELAY_MEMORY");
  snprintf(probe->name, sizeof probe->name, "a memory with delays");
  snprintf(probe->driver, sizeof probe->driver, "none");
  snprintf(probe->reason, sizeof probe->reason, "%s", reason == nullptr ? "" : reason);
  probe->memory_bytes = probe->free_bytes =
      memory == nullptr ? uint64_t{1} << 30 : strtoull(memory, nullptr, 10);
  return reason == nullptr || reason[0] == 0 ? 0 : 1;
}
