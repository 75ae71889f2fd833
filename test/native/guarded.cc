// See guarded.h.
#include "guarded.h"

#include "harness.h"

#include <cstring>
#include <map>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

namespace ring::test {
namespace {

std::map<size_t, std::vector<uint8_t*>>& kept_regions() {
  static std::map<size_t, std::vector<uint8_t*>> kept;  // by size
  return kept;
}

uint8_t* map_region(size_t bytes, size_t page) {
  void* memory = mmap(nullptr, bytes + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  require(memory != MAP_FAILED, "no memory for %zu guarded bytes", bytes);
  uint8_t* begin = static_cast<uint8_t*>(memory) + page;
  require(mprotect(begin, bytes, PROT_READ | PROT_WRITE) == 0, "mprotect failed");
  return begin;
}

}  // namespace

Region take_region(size_t bytes) {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t whole = (bytes > 0 ? bytes + page - 1 : page) / page * page;
  std::vector<uint8_t*>& kept = kept_regions()[whole];
  uint8_t* begin = nullptr;
  if (kept.empty()) {
    begin = map_region(whole, page);
  } else {
    begin = kept.back();
    kept.pop_back();
  }
  memset(begin, 0xff, whole);
  return {begin, whole};
}

void give_region(const Region& region) { kept_regions()[region.bytes].push_back(region.begin); }

}  // namespace ring::test
