// Maps of checkpoint files: opened only as the header was checked against, alive when a file
// shrinks beneath them, and no shelter for faults of anybody else. Files lie in the system's folder
// for temporary ones and go with their case.
#include "memory/map.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "harness.h"

using namespace ring;
using namespace ring::test;

namespace {

size_t page_bytes() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }

// A file whose every byte is 1 + its page's number; gone with the object.
class PagedFile {
 public:
  explicit PagedFile(size_t bytes) : bytes_(bytes) {
    const char* folder = getenv("TMPDIR");
    path_ = std::string(folder != nullptr ? folder : P_tmpdir) + "/ring-map-XXXXXX";
    descriptor_ = mkstemp(path_.data());
    require(descriptor_ >= 0, "%s cannot be made", path_.c_str());
    std::vector<uint8_t> content(bytes);
    for (size_t i = 0; i < bytes; ++i) content[i] = static_cast<uint8_t>(1 + i / page_bytes());
    const ssize_t written = write(descriptor_, content.data(), bytes);
    require(written == static_cast<ssize_t>(bytes), "%s: short write", path_.c_str());
  }
  ~PagedFile() {
    close(descriptor_);
    unlink(path_.c_str());
  }
  PagedFile(const PagedFile&) = delete;
  PagedFile& operator=(const PagedFile&) = delete;

  const std::string& path() const { return path_; }
  size_t bytes() const { return bytes_; }
  int descriptor() const { return descriptor_; }
  void truncate(size_t bytes) const {
    require(ftruncate(descriptor_, static_cast<off_t>(bytes)) == 0, "it cannot be cut");
  }

 private:
  std::string path_;
  size_t bytes_;
  int descriptor_ = -1;
};

void open_map(FileMap& map, const PagedFile& file) {
  const Status status = map.open(file.path(), file.bytes());
  require(!status.failed(), "%s", status.text);
}

void require_refused(const std::string& path, uint64_t bytes, const char* words) {
  FileMap map;
  const Status status = map.open(path, bytes);
  require(status.code == Code::cannot_read, "code %d", static_cast<int>(status.code));
  require(strstr(status.text, path.c_str()) != nullptr, "the file is not named: %s", status.text);
  require(strstr(status.text, words) != nullptr, "said: %s", status.text);
  require(map.data() == nullptr, "there is a map");
}

bool is_mapped(const void* address) {
  return msync(const_cast<void*>(address), page_bytes(), MS_ASYNC) == 0;
}

uint8_t read_byte(const uint8_t* address) { return *static_cast<const volatile uint8_t*>(address); }

// How a child that runs `body` ends: its wait status.
template <typename Body>
int status_of_child(const Body& body) {
  const pid_t child = fork();
  require(child >= 0, "fork");
  if (child == 0) {
    const rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    body();
    _exit(0);
  }
  int status = 0;
  require(waitpid(child, &status, 0) == child, "waitpid");
  return status;
}

}  // namespace

RING_CASE(map_reads, "a map shows the bytes of its file, to the last one") {
  const PagedFile file(2 * page_bytes() + 100);
  FileMap map;
  open_map(map, file);
  require(map.bytes() == file.bytes() && map.path() == file.path(), "other size or path");
  require(read_byte(map.data()) == 1, "first byte");
  require(read_byte(map.data() + file.bytes() - 1) == 3, "last byte");
  require(map.unreadable() == -1, "a page is unreadable");
}

RING_CASE(map_wrong_size, "a file of another size than was checked is refused, with both sizes") {
  const PagedFile file(1000);
  require_refused(file.path(), 999, "has 1000 bytes, but had 999");
  require_refused(file.path(), 1001, "has 1000 bytes, but had 1001");
}

RING_CASE(map_missing, "a missing file is refused") {
  const PagedFile file(10);
  require_refused(file.path() + "-absent", 10, "No such file");
}

RING_CASE(map_empty, "an empty file and a folder are refused") {
  const PagedFile file(0);
  require_refused(file.path(), 0, "cannot be mapped");
  FileMap map;
  require(map.open("/", 1).failed(), "a folder was mapped");
}

RING_CASE(map_closed, "a map that was never opened is empty, and ends quietly") {
  FileMap map;
  require(map.data() == nullptr && map.bytes() == 0, "it holds something");
  require(map.unreadable() == -1, "a page is unreadable");
}

RING_CASE(map_shrinks, "pages lost by truncation read as zeros, and the first one lost is told") {
  const PagedFile file(5 * page_bytes() + 100);
  FileMap map;
  open_map(map, file);
  file.truncate(page_bytes());
  require(read_byte(map.data() + 3 * page_bytes() + 17) == 0, "a lost page is not zeros");
  require(map.unreadable() == static_cast<int64_t>(3 * page_bytes()), "told %lld",
          static_cast<long long>(map.unreadable()));
  require(read_byte(map.data() + 2 * page_bytes()) == 0, "another lost page is not zeros");
  require(read_byte(map.data() + file.bytes() - 1) == 0, "the lost last page is not zeros");
  require(map.unreadable() == static_cast<int64_t>(3 * page_bytes()), "the mark moved to %lld",
          static_cast<long long>(map.unreadable()));
  require(read_byte(map.data() + page_bytes() - 1) == 1, "a page that is left was lost too");
}

RING_CASE(map_shrinks_for_threads, "threads that meet the same lost pages all read zeros") {
  constexpr size_t kPages = 64;
  const PagedFile file(kPages * page_bytes());
  FileMap map;
  open_map(map, file);
  file.truncate(0);
  std::atomic<int> not_zero{0};
  std::vector<std::thread> readers;
  for (int reader = 0; reader < 4; ++reader) {
    readers.emplace_back([&] {
      for (size_t page = 0; page < kPages; ++page) {
        if (read_byte(map.data() + page * page_bytes()) != 0) not_zero.fetch_add(1);
      }
    });
  }
  for (std::thread& reader : readers) reader.join();
  require(not_zero == 0, "%d reads gave something else", not_zero.load());
  require(map.unreadable() == 0, "told %lld", static_cast<long long>(map.unreadable()));
}

RING_CASE(map_two, "two maps at once are told apart") {
  const PagedFile whole(3 * page_bytes()), cut(3 * page_bytes());
  FileMap first, second;
  open_map(first, whole);
  open_map(second, cut);
  cut.truncate(page_bytes());
  require(read_byte(second.data() + page_bytes()) == 0, "a lost page is not zeros");
  require(second.unreadable() == static_cast<int64_t>(page_bytes()), "the cut file is not marked");
  require(first.unreadable() == -1, "the whole file is marked");
  require(read_byte(first.data() + page_bytes()) == 2, "the whole file lost a page");
}

RING_CASE(map_again, "a map that takes the place of a marked one starts unmarked") {
  const PagedFile file(2 * page_bytes());
  {
    FileMap map;
    open_map(map, file);
    file.truncate(0);
    require(read_byte(map.data()) == 0 && map.unreadable() == 0, "the first map is not marked");
  }
  const PagedFile other(2 * page_bytes());
  FileMap map;
  open_map(map, other);
  require(map.unreadable() == -1, "the mark stayed");
}

RING_CASE(map_moves, "moving a map leaves one owner, which keeps its guard") {
  const PagedFile file(3 * page_bytes());
  const uint8_t* data = nullptr;
  {
    auto first = std::make_unique<FileMap>();
    open_map(*first, file);
    data = first->data();
    FileMap second(std::move(*first));
    require(first->data() == nullptr && first->bytes() == 0 && first->unreadable() == -1,
            "the old owner still holds it");
    require(second.data() == data && second.bytes() == file.bytes() && second.path() == file.path(),
            "the new owner holds something else");
    first.reset();
    require(is_mapped(data) && read_byte(data + page_bytes()) == 2, "it went with the old owner");
    file.truncate(0);
    require(read_byte(data + 2 * page_bytes()) == 0, "a lost page is not zeros");
    require(second.unreadable() == static_cast<int64_t>(2 * page_bytes()), "the guard was lost");
  }
  require(!is_mapped(data), "it is mapped without an owner");
}

RING_CASE(map_many, "maps in a growing vector stay where they are") {
  std::vector<std::unique_ptr<PagedFile>> files;
  std::vector<FileMap> maps;
  std::vector<const uint8_t*> places;
  for (int i = 0; i < 20; ++i) {
    files.push_back(std::make_unique<PagedFile>(page_bytes() + 1));
    FileMap map;
    open_map(map, *files.back());
    places.push_back(map.data());
    maps.push_back(std::move(map));
  }
  for (int i = 0; i < 20; ++i) {
    require(maps[i].data() == places[i], "map %d went elsewhere", i);
    require(read_byte(places[i] + page_bytes()) == 2, "map %d shows other bytes", i);
  }
}

RING_CASE(map_foreign_fault, "a bus error outside every map still ends the process") {
  const PagedFile ours(2 * page_bytes()), foreign(2 * page_bytes());
  FileMap map;
  open_map(map, ours);  // the handler stands
  const int status = status_of_child([&] {
    void* address = mmap(nullptr, foreign.bytes(), PROT_READ, MAP_SHARED, foreign.descriptor(), 0);
    if (address == MAP_FAILED || ftruncate(foreign.descriptor(), 0) != 0) _exit(1);
    read_byte(static_cast<const uint8_t*>(address));
  });
  require(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS, "wait status 0x%x", status);
}

RING_CASE(map_old_fault, "a closed map gives no shelter to whoever is mapped in its place") {
  const PagedFile file(2 * page_bytes());
  const uint8_t* place = nullptr;
  {
    FileMap map;
    open_map(map, file);
    place = map.data();
  }
  const int status = status_of_child([&] {
    void* address = mmap(const_cast<uint8_t*>(place), file.bytes(), PROT_READ,
                         MAP_SHARED | MAP_FIXED, file.descriptor(), 0);
    if (address == MAP_FAILED || ftruncate(file.descriptor(), 0) != 0) _exit(1);
    read_byte(place);
  });
  require(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS, "wait status 0x%x", status);
}

namespace {

constexpr size_t kHolePages = 1024;

// A map whose pages nobody has read, but for the first; reading one brings in no neighbours.
void open_holes(FileMap& map, const PagedFile& file) {
  file.truncate(kHolePages * page_bytes());
  const Status status = map.open(file.path(), kHolePages * page_bytes());
  require(!status.failed(), "%s", status.text);
  madvise(const_cast<uint8_t*>(map.data()), map.bytes(), MADV_RANDOM);
}

}  // namespace

RING_CASE(map_residency, "a short range lies in memory once all of its pages do") {
  const PagedFile file(1);
  FileMap map;
  open_holes(map, file);
  const uint8_t* range = map.data() + 512 * page_bytes() + 100;
  const uint64_t bytes = 3 * page_bytes();  // touches four
  require(!is_in_memory(range, bytes, 2), "it was never read");
  for (const size_t page : {512, 514, 515}) read_byte(map.data() + page * page_bytes());
  require(!is_in_memory(range, bytes, 2), "one page was never read");
  read_byte(map.data() + 513 * page_bytes());
  require(is_in_memory(range, bytes, 2), "all of it was read");
}

RING_CASE(map_residency_samples, "of a long range so many pages as are asked for count") {
  const PagedFile file(1);
  FileMap map;
  open_holes(map, file);
  const uint8_t* range = map.data() + 256 * page_bytes();
  const uint64_t bytes = 512 * page_bytes();
  for (const size_t page : {256 + 128, 256 + 384}) {
    require(!is_in_memory(range, bytes, 2), "page %zu was never read", page);
    read_byte(map.data() + page * page_bytes());
  }
  require(is_in_memory(range, bytes, 2), "both that count were read");
  require(!is_in_memory(range, bytes, 3), "more of them count");
}

RING_CASE(map_residency_told, "the system tells its owner what lies in memory, and no stranger") {
  const PagedFile file(page_bytes());
  FileMap map;
  open_map(map, file);
  require(map.tells_residency(), "it is ours");
  fchmod(file.descriptor(), 0444);
  if (geteuid() != 0) skip("only the superuser can become somebody else");
  const int status = status_of_child([&] {
    if (setuid(65534) != 0) _exit(2);
    FileMap theirs;
    if (theirs.open(file.path(), file.bytes()).failed()) _exit(2);
    _exit(theirs.tells_residency() ? 1 : 0);
  });
  require(WIFEXITED(status) && WEXITSTATUS(status) == 0, "wait status %d", status);
}
