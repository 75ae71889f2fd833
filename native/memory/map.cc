// See map.h. The signal handler is the one thing here that belongs to the process and not to a
// device: it reads a fixed table of ranges without locks, because nothing else is allowed there.
#include "map.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <mutex>
#include <utility>

namespace ring {
namespace {

// Ring-1T has about a hundred shards; 4,096 leaves room for several models in one process.
constexpr int kGuardsMax = 4096;
// Pages about which the system is asked at once: so many cost hardly more than one.
constexpr uintptr_t kPagesAtOnce = 64;

struct Guard {
  std::atomic<uintptr_t> begin{0};
  std::atomic<uintptr_t> end{0};  // 0: free; written last, so the handler never sees half an entry
  std::atomic<int64_t> unreadable{-1};
};

Guard guards[kGuardsMax];
std::mutex guards_mutex;
struct sigaction previous_action;
uintptr_t page_bytes = 4096;

void on_bus_error(int signal, siginfo_t* info, void* context) {
  const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  for (Guard& guard : guards) {
    const uintptr_t end = guard.end.load(std::memory_order_acquire);
    const uintptr_t begin = guard.begin.load(std::memory_order_relaxed);
    if (end == 0 || address < begin || address >= end) continue;
    const uintptr_t page = address & ~(page_bytes - 1);
    int64_t none = -1;
    guard.unreadable.compare_exchange_strong(none, static_cast<int64_t>(page - begin));
    void* zeros = mmap(reinterpret_cast<void*>(page), page_bytes, PROT_READ,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (zeros != MAP_FAILED) return;  // the faulting load runs again and reads zeros
    break;
  }
  // Not ours: whoever was there before decides, by default the end of the process.
  if (previous_action.sa_flags & SA_SIGINFO) {
    previous_action.sa_sigaction(signal, info, context);
  } else if (previous_action.sa_handler != SIG_DFL && previous_action.sa_handler != SIG_IGN) {
    previous_action.sa_handler(signal);
  } else {
    sigaction(SIGBUS, &previous_action, nullptr);
  }
}

void install_handler_once() {
  static std::once_flag once;
  std::call_once(once, [] {
    page_bytes = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    struct sigaction action {};
    action.sa_sigaction = on_bus_error;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, &previous_action);
  });
}

int guard_range(const uint8_t* data, uint64_t bytes) {
  const std::lock_guard<std::mutex> lock(guards_mutex);
  for (int index = 0; index < kGuardsMax; ++index) {
    Guard& guard = guards[index];
    if (guard.end.load() != 0) continue;
    guard.unreadable.store(-1);
    guard.begin.store(reinterpret_cast<uintptr_t>(data), std::memory_order_relaxed);
    const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes + page_bytes - 1);
    guard.end.store(end & ~(page_bytes - 1), std::memory_order_release);
    return index;
  }
  return -1;
}

// As the system judges it before it tells which pages of a file lie in memory.
bool may_know(const std::string& path, const struct stat& facts) {
  return facts.st_uid == geteuid() || faccessat(AT_FDCWD, path.c_str(), W_OK, AT_EACCESS) == 0;
}

bool pages_are_in_memory(uintptr_t first, uintptr_t count) {
  unsigned char states[kPagesAtOnce];
  if (mincore(reinterpret_cast<void*>(first), count * page_bytes, states) != 0) return false;
  return std::all_of(states, states + count, [](unsigned char state) { return (state & 1) != 0; });
}

void release_guard(int index) {
  if (index < 0) return;
  const std::lock_guard<std::mutex> lock(guards_mutex);
  guards[index].end.store(0, std::memory_order_release);
}

}  // namespace

FileMap::FileMap(FileMap&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      guard_(std::exchange(other.guard_, -1)),
      tells_residency_(other.tells_residency_) {}

FileMap::~FileMap() {
  release_guard(guard_);
  if (data_ != nullptr) munmap(const_cast<uint8_t*>(data_), bytes_);
  if (descriptor_ >= 0) ::close(descriptor_);
}

Status FileMap::open(const std::string& path, uint64_t bytes) {
  install_handler_once();
  path_ = path;
  descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor_ < 0) {
    return failure(Code::cannot_read, "%s: cannot be opened: %s", path.c_str(), strerror(errno));
  }
  struct stat facts {};
  if (fstat(descriptor_, &facts) != 0 || static_cast<uint64_t>(facts.st_size) != bytes) {
    return failure(
        Code::cannot_read,
        "%s: has %lld bytes, but had %llu when its header was read; is it being written?",
        path.c_str(), static_cast<long long>(facts.st_size),
        static_cast<unsigned long long>(bytes));
  }
  void* address = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, descriptor_, 0);
  if (address == MAP_FAILED) {
    return failure(Code::cannot_read, "%s: cannot be mapped: %s", path.c_str(), strerror(errno));
  }
  data_ = static_cast<const uint8_t*>(address);
  bytes_ = bytes;
  tells_residency_ = may_know(path, facts);
  guard_ = guard_range(data_, bytes_);
  if (guard_ < 0) return failure(Code::out_of_memory, "more than %d files are mapped", kGuardsMax);
  return {};
}

int64_t FileMap::size_now() const {
  struct stat facts {};
  return fstat(descriptor_, &facts) == 0 ? facts.st_size : 0;
}

int64_t FileMap::unreadable() const {
  return guard_ < 0 ? -1 : guards[guard_].unreadable.load(std::memory_order_acquire);
}

bool is_in_memory(const uint8_t* data, uint64_t bytes, int most) {
  if (bytes == 0) return true;
  const auto begin = reinterpret_cast<uintptr_t>(data);
  const uintptr_t first = begin / page_bytes;
  const uintptr_t pages = (begin + bytes - 1) / page_bytes - first + 1;
  if (pages <= kPagesAtOnce) return pages_are_in_memory(first * page_bytes, pages);
  const auto count = static_cast<uintptr_t>(most);
  for (uintptr_t i = 0; i < count; ++i) {
    const uintptr_t page = first + pages * (2 * i + 1) / (2 * count);
    if (!pages_are_in_memory(page * page_bytes, 1)) return false;
  }
  return true;
}

}  // namespace ring
