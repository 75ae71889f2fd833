// The reader over every drive: the same bytes from every place of a file, demand before look-ahead,
// orders that change while a read is under way, and faults. A rung that this machine does not have
// is read by the next one down, which is what users get too.
#include "io/reader.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "harness.h"
#include "io/ceiling.h"
#include "io/crc32c.h"

using namespace ring;
using namespace ring::test;
using io::kBlockBytes;

namespace {

struct Way {
  const char* name;
  Rung rung;
};
constexpr Way kWays[] = {{"io_uring with registered buffers", Rung::uring_registered},
                         {"io_uring", Rung::uring},
                         {"threads", Rung::threads},
                         {"the page cache", Rung::buffered},
                         {"a paced drive", Rung::paced}};

// A file whose bytes are alike nowhere near each other, gone at the end of the case.
class File {
 public:
  explicit File(size_t bytes, uint64_t hole = 0) : data(bytes), begin(hole) {
    uint32_t state = 7;
    for (uint8_t& byte : data) {
      state = state * 1664525u + 1013904223u;
      byte = static_cast<uint8_t>(state >> 24);
    }
    const char* folder = getenv("TMPDIR");
    path = std::string(folder != nullptr ? folder : P_tmpdir) + "/ring-reader-XXXXXX";
    const int descriptor = mkstemp(path.data());
    require(descriptor >= 0, "no file in %s", path.c_str());
    const ssize_t written = pwrite(descriptor, data.data(), data.size(), static_cast<off_t>(hole));
    ::close(descriptor);
    require(written == static_cast<ssize_t>(data.size()), "%s takes no data", path.c_str());
  }
  ~File() { unlink(path.c_str()); }
  File(const File&) = delete;

  uint64_t bytes() const { return begin + data.size(); }

  std::string path;
  std::vector<uint8_t> data;
  uint64_t begin;  // what lies before is a hole
};

struct Aligned {
  explicit Aligned(uint64_t bytes) : bytes(bytes) {
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    require(memory != MAP_FAILED, "no memory");
    data = static_cast<uint8_t*>(memory);
    memset(data, 0xee, bytes);
  }
  ~Aligned() { munmap(data, bytes); }
  Aligned(const Aligned&) = delete;

  uint8_t* data = nullptr;
  uint64_t bytes;
};

struct Opened {
  std::unique_ptr<io::Reader> reader = std::make_unique<io::Reader>();
};

Opened open(const std::vector<io::Source>& sources, Rung rung, std::vector<io::Fault> faults = {},
            uint64_t chunk_bytes = 65536, io::Pace pace = {4e9, 1e-5, 16, 0, 1}) {
  std::unique_ptr<io::Drive> drive;
  const Status status = rung == Rung::paced ? io::open_paced_drive(sources, pace, &drive)
                                            : io::open_drive(sources, {rung, 0}, &drive);
  require(!status.failed(), "%s", status.text);
  if (!faults.empty()) drive = io::make_faulty_drive(std::move(drive), std::move(faults));
  Opened opened;
  io::ReaderOptions options;
  options.chunk_bytes = chunk_bytes;
  const Status started = opened.reader->open(std::move(drive), sources, options);
  require(!started.failed(), "%s", started.text);
  return opened;
}

io::Source source_of(const File& file) { return {{file.path}, file.bytes()}; }

io::Arrival next(io::Reader& reader) {
  io::Arrival arrival;
  require(reader.wait(20000), "nothing arrived within 20 seconds");
  require(reader.poll(&arrival, 1) == 1, "an arrival was promised and is not there");
  return arrival;
}

io::Read read_of(int64_t tag, uint64_t offset, uint64_t bytes, uint8_t* target,
                 const uint32_t* checksums = nullptr) {
  io::Read read;
  read.tag = tag;
  read.parts.push_back({0, offset, bytes, target, checksums});
  return read;
}

void expect_bytes(const File& file, uint64_t offset, uint64_t bytes, const uint8_t* target,
                  const char* way) {
  const uint8_t* got = target + offset % kBlockBytes;
  require(memcmp(got, file.data.data() + (offset - file.begin), bytes) == 0,
          "%s: %llu bytes at %llu are not the file's", way, static_cast<unsigned long long>(bytes),
          static_cast<unsigned long long>(offset));
}

std::vector<uint32_t> checksums_of(const File& file, uint64_t offset, uint64_t bytes) {
  std::vector<uint32_t> sums;
  for (uint64_t at = 0; at < bytes; at += io::kChecksumBytes) {
    sums.push_back(
        io::crc32c(0, file.data.data() + offset + at, std::min(io::kChecksumBytes, bytes - at)));
  }
  return sums;
}

}  // namespace

RING_CASE(every_place, "a read gives the file's bytes from every place, whatever its length") {
  const File file(3 * 65536 + 1234);
  const uint64_t end = file.bytes();
  const std::pair<uint64_t, uint64_t> places[] = {
      {0, 1},         {0, end},     {1, 4095},    {4095, 2},          {4096, 4096},      {5, 65536},
      {65535, 65538}, {end - 1, 1}, {end - 5, 5}, {end - 4097, 4097}, {70000, 3 * 40000}};
  for (const Way& way : kWays) {
    Opened opened = open({source_of(file)}, way.rung);
    Aligned memory(16 * io::room_for(end));
    opened.reader->lend({memory.data, memory.bytes});
    uint8_t* target = memory.data;
    int64_t tag = 0;
    for (const auto& [offset, bytes] : places) {
      opened.reader->submit(read_of(tag++, offset, bytes, target));
      target += io::room_for(bytes);
    }
    for (int64_t i = 0; i < tag; ++i) {
      const io::Arrival arrival = next(*opened.reader);
      require(arrival.landing == io::Landing::arrived, "%s: %s", way.name, arrival.why.text);
    }
    target = memory.data;
    for (const auto& [offset, bytes] : places) {
      expect_bytes(file, offset, bytes, target, way.name);
      require(target[io::room_for(bytes)] == 0xee || target + io::room_for(bytes) > memory.data,
              "%s wrote past its room", way.name);
      target += io::room_for(bytes);
    }
  }
}

RING_CASE(far_places, "offsets beyond 4 GiB are read, not those they alias") {
  const uint64_t hole = (uint64_t{4} << 30) + 8192;
  const File file(70000, hole);
  for (const Way& way : kWays) {
    if (way.rung == Rung::paced) continue;  // it would hold the hole too
    Opened opened = open({source_of(file)}, way.rung);
    Aligned memory(io::room_for(60000));
    opened.reader->submit(read_of(1, hole + 77, 60000, memory.data));
    require(next(*opened.reader).landing == io::Landing::arrived, "%s", way.name);
    expect_bytes(file, hole + 77, 60000, memory.data, way.name);
  }
}

RING_CASE(several_parts, "a read of several parts arrives once, when all of them have") {
  const File file(500000);
  for (const Way& way : kWays) {
    Opened opened = open({source_of(file)}, way.rung);
    Aligned memory(3 * io::room_for(150001));
    io::Read read;
    read.tag = 9;
    for (uint64_t part = 0; part < 3; ++part) {
      read.parts.push_back(
          {0, part * 150001 + 3, 150001, memory.data + part * io::room_for(150001), nullptr});
    }
    opened.reader->submit(read);
    const io::Arrival arrival = next(*opened.reader);
    require(arrival.tag == 9 && arrival.landing == io::Landing::arrived, "%s", way.name);
    for (uint64_t part = 0; part < 3; ++part) {
      expect_bytes(file, part * 150001 + 3, 150001, memory.data + part * io::room_for(150001),
                   way.name);
    }
    require(!opened.reader->wait(0), "%s: it arrived twice", way.name);
  }
}

RING_CASE(demand_first,
          "demand overtakes look-ahead that is queued, and what is promoted counts as demand") {
  const File file(4 << 20);
  // Slow enough that all is queued before the second chunk begins.
  Opened opened = open({source_of(file)}, Rung::paced, {}, 65536, {2e7, 1e-3, 2, 0, 1});
  Aligned memory(8 * io::room_for(1 << 19));
  const auto target = [&](int64_t tag) { return memory.data + tag * io::room_for(1 << 19); };
  for (int64_t tag = 0; tag < 3; ++tag) {
    io::Read read = read_of(tag, static_cast<uint64_t>(tag) << 19, 1 << 19, target(tag));
    read.priority = io::Priority::ahead;
    opened.reader->submit(read);
  }
  opened.reader->promote(2);
  opened.reader->submit(read_of(3, 3 << 19, 1 << 19, target(3)));
  int64_t order[4];
  for (int64_t& tag : order) tag = next(*opened.reader).tag;
  require(order[0] == 2 && order[1] == 3 && order[2] == 0 && order[3] == 1,
          "arrived in the order %d %d %d %d", static_cast<int>(order[0]),
          static_cast<int>(order[1]), static_cast<int>(order[2]), static_cast<int>(order[3]));
  for (int64_t tag = 0; tag < 4; ++tag)
    expect_bytes(file, static_cast<uint64_t>(tag) << 19, 1 << 19, target(tag), "promoted");
}

RING_CASE(cancelled,
          "a cancelled read is reported once, and its memory is not written afterwards") {
  const File file(4 << 20);
  Opened opened = open({source_of(file)}, Rung::paced, {}, 65536, {2e7, 1e-3, 2, 0, 1});
  Aligned memory(2 * io::room_for(1 << 20));
  io::Read read = read_of(1, 0, 1 << 20, memory.data);
  read.priority = io::Priority::ahead;
  opened.reader->submit(read);
  opened.reader->cancel(1);
  opened.reader->cancel(77);  // nobody
  const io::Arrival arrival = next(*opened.reader);
  require(arrival.tag == 1 && arrival.landing == io::Landing::cancelled, "it was not cancelled");
  memset(memory.data, 0xaa, io::room_for(1 << 20));
  opened.reader->submit(read_of(2, 1 << 20, 1 << 20, memory.data + io::room_for(1 << 20)));
  require(next(*opened.reader).tag == 2, "the next read did not arrive");
  require(std::all_of(memory.data, memory.data + (1 << 20), [](uint8_t b) { return b == 0xaa; }),
          "the cancelled read wrote later");
}

RING_CASE(tried_again, "an error is tried again twice, a short read is gone on with") {
  const File file(300000);
  for (const Way& way : kWays) {
    for (const FaultKind kind : {FaultKind::error, FaultKind::short_read}) {
      Opened opened = open({source_of(file)}, way.rung, {{kind, 0, 100000, 1, 2, 0}});
      Aligned memory(io::room_for(300000));
      opened.reader->submit(read_of(1, 0, 300000, memory.data));
      const io::Arrival arrival = next(*opened.reader);
      require(arrival.landing == io::Landing::arrived, "%s: %s", way.name, arrival.why.text);
      expect_bytes(file, 0, 300000, memory.data, way.name);
    }
  }
}

RING_CASE(fails_alone, "what cannot be read fails with file and byte, and others arrive") {
  const File file(300000);
  for (const Way& way : kWays) {
    Opened opened = open({source_of(file)}, way.rung, {{FaultKind::error, 0, 100000, 1, -1, 0}});
    Aligned memory(2 * io::room_for(150000));
    opened.reader->submit(read_of(1, 0, 150000, memory.data));
    opened.reader->submit(read_of(2, 150000, 150000, memory.data + io::room_for(150000)));
    bool failed = false;
    for (int i = 0; i < 2; ++i) {
      const io::Arrival arrival = next(*opened.reader);
      if (arrival.tag == 2) {
        require(arrival.landing == io::Landing::arrived, "%s: the other failed too", way.name);
        continue;
      }
      failed = arrival.landing == io::Landing::failed;
      require(strstr(arrival.why.text, file.path.c_str()) != nullptr &&
                  strstr(arrival.why.text, "cannot be read at byte ") != nullptr,
              "%s: %s", way.name, arrival.why.text);
    }
    require(failed, "%s: it did not fail", way.name);
    require(opened.reader->counters().failures.load() == 1, "%s: failures", way.name);
  }
}

RING_CASE(cut_short, "a file that was cut short is said to end where it ends") {
  const File file(300000);
  for (const Way& way : kWays) {
    if (way.rung == Rung::paced) continue;  // it has read the file already
    Opened opened = open({source_of(file)}, way.rung);
    require(truncate(file.path.c_str(), 100000) == 0, "cannot be cut");
    Aligned memory(io::room_for(300000));
    opened.reader->submit(read_of(1, 0, 300000, memory.data));
    const io::Arrival arrival = next(*opened.reader);
    require(arrival.landing == io::Landing::failed, "%s: it arrived", way.name);
    require(strstr(arrival.why.text, "ends at byte") != nullptr, "%s: %s", way.name,
            arrival.why.text);
    const int descriptor = ::open(file.path.c_str(), O_WRONLY);
    require(pwrite(descriptor, file.data.data(), file.data.size(), 0) > 0, "cannot be mended");
    ::close(descriptor);
  }
}

RING_CASE(checked,
          "a flipped byte is read again; one that stays wrong is a failure with its bytes") {
  const File file((3 << 20) + 5000);
  const uint64_t offset = 1234, bytes = (2 << 20) + 3000;
  const std::vector<uint32_t> sums = checksums_of(file, offset, bytes);
  for (const Way& way : kWays) {
    for (const int32_t times : {0, 1, -1}) {
      Opened opened =
          open({source_of(file)}, way.rung, {{FaultKind::flip, 0, (1 << 20) + 70000, 1, times, 0}});
      Aligned memory(io::room_for(bytes));
      opened.reader->submit(read_of(1, offset, bytes, memory.data, sums.data()));
      const io::Arrival arrival = next(*opened.reader);
      const bool arrived = arrival.landing == io::Landing::arrived;
      require(arrived == (times >= 0), "%s: %d flips: %s", way.name, times, arrival.why.text);
      const uint64_t mismatches = opened.reader->counters().mismatches.load();
      require((mismatches > 0) == (times != 0), "%s: %d flips, %d mismatches", way.name, times,
              static_cast<int>(mismatches));
      if (arrived) expect_bytes(file, offset, bytes, memory.data, way.name);
      if (!arrived)
        require(strstr(arrival.why.text, "bytes 1049810 to 2098385") != nullptr, "%s",
                arrival.why.text);
    }
  }
}

RING_CASE(mirrors, "copies share the work, and one that has died is done without") {
  const File file(2 << 20);
  const File copy(2 << 20);
  for (const Way& way : kWays) {
    if (way.rung == Rung::paced) continue;  // it holds one copy
    const io::Source both = {{file.path, copy.path}, file.bytes()};
    Opened opened = open({both}, way.rung);
    require(truncate(copy.path.c_str(), 0) == 0, "cannot be cut");
    Aligned memory(io::room_for(2 << 20));
    opened.reader->submit(read_of(1, 0, 2 << 20, memory.data));
    const io::Arrival arrival = next(*opened.reader);
    require(arrival.landing == io::Landing::arrived, "%s: %s", way.name, arrival.why.text);
    expect_bytes(file, 0, 2 << 20, memory.data, way.name);
    const int descriptor = ::open(copy.path.c_str(), O_WRONLY);
    require(pwrite(descriptor, copy.data.data(), copy.data.size(), 0) > 0, "cannot be mended");
    ::close(descriptor);
  }
}

RING_CASE(left_queued,
          "a reader that is destroyed with reads queued ends, and waits for what is under way") {
  const File file(4 << 20);
  for (const Way& way : kWays) {
    Aligned memory(8 * io::room_for(1 << 19));
    Opened opened = open({source_of(file)}, way.rung);
    for (int64_t tag = 0; tag < 8; ++tag) {
      opened.reader->submit(read_of(tag, static_cast<uint64_t>(tag) << 19, 1 << 19,
                                    memory.data + tag * io::room_for(1 << 19)));
    }
    opened.reader.reset();
  }
}

RING_CASE(absent, "a file that is not there is refused with its name") {
  std::unique_ptr<io::Drive> drive;
  const Status status = io::open_drive({{{"/no/such/file"}, 10}}, {}, &drive);
  require(status.failed() && strstr(status.text, "/no/such/file") != nullptr, "%s", status.text);
}

RING_CASE(paced_rate, "the paced drive keeps its rate within two in a hundred") {
  const File file(8 << 20);
  std::unique_ptr<io::Drive> drive;
  const std::vector<io::Source> sources = {source_of(file)};
  const Status status = io::open_paced_drive(sources, {1e9, 2e-4, 16, 0, 1}, &drive);
  require(!status.failed(), "%s", status.text);
  io::CeilingProbe probe;
  probe.chunk_bytes = 1 << 20;
  probe.bytes = 200 << 20;
  double rate = 0;
  const Status measured = io::measure_ceiling(*drive, sources, probe, &rate);
  require(!measured.failed(), "%s", measured.text);
  // Slower only where this machine holds up the thread that delivers.
  require(rate < 1.02e9 && rate > 0.5e9, "%.3g bytes per second", rate);
}
