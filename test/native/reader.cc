// The reader on every drive: bytes are exact at any place, and whatever goes wrong below is either
// put right or said in one sentence while other reads go on. In which order it reads: order.cc.
#include "io/reader.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "drives.h"
#include "harness.h"
#include "io/crc32c.h"

using namespace ring;
using namespace ring::test;
using namespace ring::io;

namespace {

std::vector<uint32_t> checksums_of(uint64_t offset, uint64_t bytes) {
  std::vector<uint8_t> data(bytes);
  for (uint64_t i = 0; i < bytes; ++i) data[i] = byte_at(offset + i, 0);
  std::vector<uint32_t> sums;
  for (uint64_t at = 0; at < bytes; at += kChecksumBytes)
    sums.push_back(crc32c(0, data.data() + at, std::min(kChecksumBytes, bytes - at)));
  return sums;
}

void require_said(const char* where, const Arrival& arrival, const std::string& what) {
  require_landing(where, arrival, Landing::failed);
  require(arrival.why.code == Code::cannot_read, "%s: the code is %d", where,
          static_cast<int>(arrival.why.code));
  require(std::string(arrival.why.text).find(what) != std::string::npos,
          "%s: \"%s\" does not say \"%s\"", where, arrival.why.text, what.c_str());
}

// Reads it, and requires that every byte is there.
void require_read(const char* where, Reading& reading, Read read) {
  const ReadPart part = read.parts.front();
  reading->submit(std::move(read));
  require_landing(where, reading.next(), Landing::arrived);
  require_bytes(where, part);
}

}  // namespace

RING_CASE(reader_exact, "bytes are exact at any place and length, many reads at once") {
  const Folder folder;
  const auto sources = one_file(folder.write("file", kFileBytes));
  std::vector<std::pair<uint64_t, uint64_t>> extents = {{0, kFileBytes}, {1, kFileBytes - 1}};
  for (const uint64_t offset : {0, 1, 777, 4095, 4096, 4097, 65535, 65537, 1 << 20}) {
    for (const uint64_t bytes : {1, 2, 4095, 4096, 4097, 65536, 200'001})
      extents.emplace_back(offset, bytes);
  }
  for (const uint64_t bytes : {1, 123, 124, 4219, 4220, 70'000})
    extents.emplace_back(kFileBytes - bytes, bytes);

  for (const Setup& setup : setups()) {
    uint64_t room = 0;
    for (const auto& extent : extents) room += room_for(extent.second);
    Memory memory(room);
    Reading reading(open_setup(setup, sources), sources, small_chunks());
    // Some reads land in memory that was lent, some beside it, some across the border.
    reading->lend({memory.data(), memory.bytes() / 2 / kBlockBytes * kBlockBytes});
    uint8_t* target = memory.data();
    std::vector<ReadPart> parts;
    for (const auto& [offset, bytes] : extents) {
      Read read = read_of(static_cast<int64_t>(parts.size()), offset, bytes, target);
      parts.push_back(read.parts.front());
      target += room_for(bytes);
      reading->submit(std::move(read));
    }
    for (const auto& [tag, arrival] : reading.take(extents.size()))
      require_landing(setup.name, arrival, Landing::arrived);
    for (const ReadPart& part : parts) require_bytes(setup.name, part);
  }
}

RING_CASE(reader_parts, "a read of several parts arrives once, when all of them have") {
  const Folder folder;
  const auto sources = one_file(folder.write("file", kFileBytes));
  constexpr uint64_t kPartBytes = 150'001;
  for (const Setup& setup : setups()) {
    Memory memory(3 * room_for(kPartBytes));
    Reading reading(open_setup(setup, sources), sources, small_chunks());
    Read read;
    read.tag = 9;
    for (const uint64_t part : {0, 1, 2}) {
      read.parts.push_back({0, (2 - part) * kPartBytes + 3, kPartBytes,
                            memory.data() + part * room_for(kPartBytes), nullptr});
    }
    const std::vector<ReadPart> parts = read.parts;
    reading->submit(std::move(read));
    require_landing(setup.name, reading.next(), Landing::arrived);
    for (const ReadPart& part : parts) require_bytes(setup.name, part);
    require(reading.count_now() == 0, "%s: it arrived twice", setup.name);
  }
}

RING_CASE(reader_room, "nothing is written beyond the room of a part") {
  const Folder folder;
  const auto sources = one_file(folder.write("file", kFileBytes));
  for (const Setup& setup : setups()) {
    for (const uint64_t bytes : {uint64_t{1}, uint64_t{4096}, uint64_t{70'001}}) {
      const uint64_t room = room_for(bytes);
      Memory memory(room + 2 * kBlockBytes);
      uint8_t* target = memory.data() + kBlockBytes;
      Reading reading(open_setup(setup, sources), sources, small_chunks());
      reading->submit(read_of(1, 4095, bytes, target));
      require_landing(setup.name, reading.next(), Landing::arrived);
      const auto is_untouched = [](uint8_t byte) { return byte == Memory::kUntouched; };
      require(std::all_of(memory.data(), target, is_untouched), "%s: bytes before the room",
              setup.name);
      require(std::all_of(target + room, target + room + kBlockBytes, is_untouched),
              "%s: bytes behind the room of %llu", setup.name,
              static_cast<unsigned long long>(bytes));
    }
  }
}

RING_CASE(reader_far, "bytes on both sides of 4 GiB are those of their place") {
  const uint64_t border = uint64_t{1} << 32;
  const uint64_t offset = border - 100'001, bytes = 200'003;
  const Folder folder;
  const auto sources =
      one_file(folder.write_sparse("file", border + (1 << 20), offset, bytes), border + (1 << 20));
  for (const Setup& setup : setups()) {
    Memory memory(room_for(bytes));
    Reading reading(open_setup(setup, sources), sources, small_chunks());
    reading->lend({memory.data(), memory.bytes()});
    Read read = read_of(1, offset, bytes, memory.data());
    require_read(setup.name, reading, std::move(read));
  }
}

RING_CASE(reader_counts, "counters say what was wanted, what was delivered and what for") {
  const Folder folder;
  const auto sources = one_file(folder.write("file", kFileBytes));
  for (const Setup& setup : setups()) {
    const uint64_t bytes = 300'001;
    Memory memory(2 * room_for(bytes));
    Reading reading(open_setup(setup, sources), sources, small_chunks());
    reading->submit(read_of(1, 5, bytes, memory.data()));
    reading->submit(read_of(2, 5, bytes, memory.data() + room_for(bytes), Priority::ahead));
    reading.take(2);
    const ReaderCounters& counters = reading->counters();
    const uint64_t widened = room_for(bytes) - kBlockBytes;  // 5 bytes in, it ends in a block
    require(counters.bytes_wanted == 2 * bytes, "%s: %llu bytes wanted", setup.name,
            static_cast<unsigned long long>(counters.bytes_wanted));
    require(counters.bytes_landed == 2 * widened, "%s: %llu bytes landed, expected %llu",
            setup.name, static_cast<unsigned long long>(counters.bytes_landed),
            static_cast<unsigned long long>(2 * widened));
    require(counters.bytes_ahead == widened, "%s: %llu bytes ahead", setup.name,
            static_cast<unsigned long long>(counters.bytes_ahead));
    require(counters.retries == (setup.is_faulty ? 2 : 0), "%s: %llu retries", setup.name,
            static_cast<unsigned long long>(counters.retries));
    require(counters.failures == 0, "%s: failures", setup.name);
    require(counters.busy_ns > 0 && counters.depth_ns >= counters.busy_ns, "%s: %llu ns busy",
            setup.name, static_cast<unsigned long long>(counters.busy_ns));
  }
}

RING_CASE(reader_tag_again, "a tag can be used again once its read was reported") {
  const Folder folder;
  const auto sources = one_file(folder.write("file", kFileBytes));
  Memory memory(room_for(kFileBytes));
  Reading reading(open_setup(setups().front(), sources), sources, small_chunks());
  for (int i = 0; i < 3; ++i) {
    reading->submit(read_of(5, 100, 1000, memory.data()));
    require_landing("again", reading.next(), Landing::arrived);
  }
  Read empty;
  empty.tag = 5;
  reading->submit(empty);
  require_landing("without parts", reading.next(), Landing::arrived);
}

RING_CASE(reader_short, "short reads are continued where they stopped") {
  const Folder folder;
  const auto sources = one_file(folder.write("file", kFileBytes));
  for (const Setup& setup : setups()) {
    if (setup.is_faulty) continue;
    Memory memory(kRoom);
    Reading reading(open_setup(setup, sources, {{FaultKind::short_read, 0, 0, kFileBytes, 12, 0}}),
                    sources, small_chunks());
    Read read = read_of(1, 0, kFileBytes, memory.data());
    require_read(setup.name, reading, std::move(read));
  }
}

RING_CASE(reader_error_twice, "a chunk that fails twice and then does not has arrived") {
  const Folder folder;
  const auto sources = one_file(folder.write("file", kFileBytes));
  for (const Setup& setup : setups()) {
    if (setup.is_faulty) continue;
    Memory memory(kRoom);
    Reading reading(open_setup(setup, sources, {{FaultKind::error, 0, 5000, 1, 2, 0}}), sources,
                    small_chunks());
    Read read = read_of(1, 0, kFileBytes, memory.data());
    require_read(setup.name, reading, std::move(read));
    require(reading->counters().retries == 2, "%s: %llu retries", setup.name,
            static_cast<unsigned long long>(reading->counters().retries));
  }
}

RING_CASE(reader_error_always, "a chunk that always fails fails its read alone, and says where") {
  const Folder folder;
  const auto sources = one_file(folder.write("file", kFileBytes));
  const std::pair<FaultKind, const char*> kinds[] = {{FaultKind::error, "Input/output error"},
                                                     {FaultKind::gone, "No such file"}};
  for (const Setup& setup : setups()) {
    for (const auto& [kind, words] : kinds) {
      if (setup.is_faulty) continue;
      Memory memory(2 * kRoom);
      Reading reading(open_setup(setup, sources, {{kind, 0, 3 * kTestChunkBytes + 9, 1, -1, 0}}),
                      sources, small_chunks());
      reading->submit(read_of(1, 0, kFileBytes, memory.data()));
      Read other = read_of(2, 8 * kTestChunkBytes, 100'000, memory.data() + kRoom);
      const ReadPart part = other.parts.front();
      reading->submit(std::move(other));
      const auto ended = reading.take(2);
      require_said(setup.name, ended.at(1), sources[0].paths[0] + ": cannot be read at byte");
      require_said(setup.name, ended.at(1), words);
      require_landing(setup.name, ended.at(2), Landing::arrived);
      require_bytes(setup.name, part);
      require(reading->counters().failures == 1, "%s: failures", setup.name);
      // The same place can be asked for again, and others still arrive.
      reading->submit(read_of(1, 8 * kTestChunkBytes, 5000, memory.data()));
      require_landing(setup.name, reading.next(), Landing::arrived);
    }
  }
}

RING_CASE(reader_cut_file, "a file that was cut under way fails with the byte where it ends") {
  for (const Setup& setup : setups()) {
    if (setup.rung == Rung::paced) continue;  // holds the bytes that the file had
    const Folder folder;
    const auto sources = one_file(folder.write("file", kFileBytes));
    Memory memory(2 * kRoom);
    Reading reading(open_setup(setup, sources), sources, small_chunks());
    cut_file(sources[0].paths[0], 500'000);
    reading->submit(read_of(1, 100, kFileBytes - 100, memory.data()));
    reading->submit(read_of(2, 100, 400'000, memory.data() + kRoom));
    const auto ended = reading.take(2);
    require_said(setup.name, ended.at(1), sources[0].paths[0] + ": ends at byte ");
    require_said(setup.name, ended.at(1), ", expected at least " + std::to_string(kFileBytes));
    require_landing(setup.name, ended.at(2), Landing::arrived);
  }
}

RING_CASE(reader_slow, "a slow chunk does not hold back those after it") {
  const Folder folder;
  const auto sources = one_file(folder.write("file", kFileBytes));
  for (const Setup& setup : setups()) {
    Memory memory(kRoom);
    Reading reading(open_setup(setup, sources, {{FaultKind::slow, 0, 0, 1, 1, 0.1}}), sources,
                    small_chunks());
    reading->submit(read_of(1, 0, 100, memory.data()));
    reading->submit(read_of(2, 200'000, 100, memory.data() + 200'000 / 4096 * 4096));
    require(reading.next().tag == 2, "%s: the slow one came first", setup.name);
    require(reading.next().tag == 1, "%s: the slow one did not come", setup.name);
    require_bytes(setup.name, {0, 0, 100, memory.data(), nullptr});
  }
}

RING_CASE(reader_checksums, "extents with their checksums arrive, however they are cut") {
  const Folder folder;
  const auto sources = one_file(folder.write("file", kFileBytes));
  for (const Setup& setup : setups()) {
    for (const uint64_t chunk_bytes : {uint64_t{12'288}, kTestChunkBytes, uint64_t{4} << 20}) {
      Memory memory(kRoom);
      ReaderOptions options;
      options.chunk_bytes = chunk_bytes;
      Reading reading(open_setup(setup, sources), sources, options);
      for (const uint64_t offset : {uint64_t{0}, uint64_t{777}, kFileBytes - 1}) {
        const auto sums = checksums_of(offset, kFileBytes - offset);
        Read read = read_of(1, offset, kFileBytes - offset, memory.data());
        read.parts[0].checksums = sums.data();
        reading->submit(std::move(read));
        require_landing(setup.name, reading.next(), Landing::arrived);
      }
      require(reading->counters().mismatches == 0, "%s: mismatches", setup.name);
    }
  }
}

RING_CASE(reader_flip_once, "a byte that flipped on its way is read again") {
  const Folder folder;
  const auto sources = one_file(folder.write("file", kFileBytes));
  const uint64_t offset = 777, bytes = kFileBytes - 777;
  const auto sums = checksums_of(offset, bytes);
  for (const Setup& setup : setups()) {
    if (setup.is_faulty) continue;
    // The first block, the second, the border between them, the last byte.
    for (const uint64_t at : {offset, offset + kChecksumBytes + 5, offset + kChecksumBytes,
                              offset + kChecksumBytes - 1, kFileBytes - 1}) {
      Memory memory(kRoom);
      Reading reading(open_setup(setup, sources, {{FaultKind::flip, 0, at, 1, 1, 0}}), sources,
                      small_chunks());
      Read read = read_of(1, offset, bytes, memory.data());
      read.parts[0].checksums = sums.data();
      require_read(setup.name, reading, std::move(read));
      require(reading->counters().mismatches == 1, "%s: %llu mismatches", setup.name,
              static_cast<unsigned long long>(reading->counters().mismatches));
    }
  }
}

RING_CASE(reader_flip_always, "a byte that is wrong on the drive fails its read, and says where") {
  const Folder folder;
  const auto sources = one_file(folder.write("file", kFileBytes));
  const auto sums = checksums_of(777, kFileBytes - 777);
  flip_byte(sources[0].paths[0], 777 + kChecksumBytes + 5);
  const std::string range =
      "bytes " + std::to_string(777 + kChecksumBytes) + " to " +
      std::to_string(kFileBytes - 1 < 777 + 2 * kChecksumBytes - 1 ? kFileBytes - 1
                                                                   : 777 + 2 * kChecksumBytes - 1);
  for (const Setup& setup : setups()) {
    Memory memory(2 * kRoom);
    Reading reading(open_setup(setup, sources), sources, small_chunks());
    Read bad = read_of(1, 777, kFileBytes - 777, memory.data());
    bad.parts[0].checksums = sums.data();
    reading->submit(std::move(bad));
    Read good = read_of(2, 777, kChecksumBytes, memory.data() + kRoom);
    good.parts[0].checksums = sums.data();
    reading->submit(std::move(good));
    const auto ended = reading.take(2);
    require_said(setup.name, ended.at(1), sources[0].paths[0] + ": " + range);
    require_landing(setup.name, ended.at(2), Landing::arrived);
  }
}

RING_CASE(reader_mirrors, "a copy that was cut or changed is made good by the other") {
  const Folder folder;
  const std::string good = folder.write("good", kFileBytes), bad = folder.write("bad", kFileBytes);
  const auto sums = checksums_of(1, kFileBytes - 1);
  for (const bool is_cut : {false, true}) {
    if (is_cut) cut_file(bad, 300'000);
    if (!is_cut) flip_byte(bad, 5000);
    for (const Setup& setup : setups()) {
      if (setup.rung == Rung::paced) continue;  // holds one copy
      const std::vector<Source> sources = {{{bad, good}, kFileBytes}};
      Memory memory(kRoom);
      Reading reading(open_setup(setup, sources), sources, small_chunks());
      for (int i = 0; i < 3; ++i) {
        Read read = read_of(1, 1, kFileBytes - 1, memory.data());
        read.parts[0].checksums = sums.data();
        require_read(setup.name, reading, std::move(read));
      }
    }
  }
}

RING_CASE(reader_mirrors_both,
          "a copy that failed is asked again when the others have failed too") {
  const Folder folder;
  const std::string bad = folder.write("bad", kFileBytes), good = folder.write("good", kFileBytes);
  cut_file(bad, 0);
  for (const Setup& setup : setups()) {
    if (setup.rung == Rung::paced || setup.is_faulty) continue;
    const std::vector<Source> sources = {{{bad, good}, kFileBytes}};
    Memory memory(kRoom);
    ReaderOptions options = small_chunks();
    options.tries = 4;
    // Both fail once; then the bad one has nothing, and the good one has it all.
    Reading reading(open_setup(setup, sources, {{FaultKind::error, 0, 0, 100, 2, 0}}), sources,
                    options);
    reading->submit(read_of(1, 0, 100, memory.data()));
    require_landing(setup.name, reading.next(), Landing::arrived);
    require_bytes(setup.name, {0, 0, 100, memory.data(), nullptr});
  }
}

RING_CASE(reader_spread, "chunks are spread over copies on two drives") {
  // Two file systems, so that they count as two drives.
  std::error_code none;
  if (!std::filesystem::is_directory("/dev/shm", none)) skip("there is no /dev/shm");
  if (std::filesystem::temp_directory_path(none).string().starts_with("/dev/shm"))
    skip("temporary files go to /dev/shm too");
  const Folder here, there("/dev/shm");
  const std::string first = here.write("file", kFileBytes), other = there.write("file", kFileBytes);
  const std::vector<Source> sources = {{{first, other}, kFileBytes}};
  auto made = std::make_unique<GatedDrive>(
      open_setup({"the page cache", Rung::buffered, false}, sources), 8);
  GatedDrive* gate = made.get();
  Reading reading(std::move(made), sources, small_chunks());
  Memory memory(kRoom);
  Read read = read_of(1, 0, kFileBytes, memory.data());
  const ReadPart part = read.parts.front();
  reading->submit(std::move(read));
  gate->await_sent(8);
  // None has landed yet, so both drives are thought to be equally quick.
  const std::vector<Chunk> sent = gate->sent();
  const auto on_other =
      std::count_if(sent.begin(), sent.end(), [](const Chunk& chunk) { return chunk.copy == 1; });
  require(on_other == 4, "%td of 8 chunks went to the other copy", on_other);
  gate->open();
  require_landing("spread", reading.next(), Landing::arrived);
  require_bytes("spread", part);
}
