// In which order the reader reads: demand before look-ahead, reads that are promoted or cancelled
// under way, and what is refused or dropped. A gate shows which chunks were sent, and when.
#include <algorithm>
#include <cstring>
#include <optional>
#include <vector>

#include "drives.h"
#include "harness.h"
#include "io/reader.h"

using namespace ring;
using namespace ring::test;
using namespace ring::io;

namespace {

// What was sent, as offsets.
std::vector<uint64_t> offsets_of(const std::vector<Chunk>& chunks) {
  std::vector<uint64_t> offsets;
  for (const Chunk& chunk : chunks) offsets.push_back(chunk.offset);
  return offsets;
}

void require_order(const std::vector<Chunk>& sent, const std::vector<uint64_t>& expected) {
  const std::vector<uint64_t> offsets = offsets_of(sent);
  for (size_t i = 0; i < std::max(offsets.size(), expected.size()); ++i) {
    const uint64_t found = i < offsets.size() ? offsets[i] : ~uint64_t{0};
    const uint64_t wanted = i < expected.size() ? expected[i] : ~uint64_t{0};
    require(found == wanted, "chunk %zu is of chunk-place %lld, expected %lld", i,
            static_cast<long long>(found / kTestChunkBytes),
            static_cast<long long>(wanted / kTestChunkBytes));
  }
}

// A reader over a gated drive that takes `depth` chunks at once, and memory for the whole file.
struct Gated {
  explicit Gated(int depth, ReaderOptions options = small_chunks(), std::vector<Fault> faults = {})
      : sources(one_file(folder.write("file", kFileBytes))), memory(kRoom) {
    auto made = std::make_unique<GatedDrive>(
        open_setup({"threads", Rung::threads, false}, sources, std::move(faults)), depth);
    gate = made.get();
    reading.emplace(std::move(made), sources, options);
  }

  // A read of whole chunks, by their places in the file.
  void ask(int64_t tag, uint64_t from, uint64_t chunks, Priority priority) {
    const uint64_t offset = from * kTestChunkBytes;
    (*reading)->submit(
        read_of(tag, offset, chunks * kTestChunkBytes, memory.data() + offset, priority));
  }

  Folder folder;
  std::vector<Source> sources;
  Memory memory;
  GatedDrive* gate = nullptr;
  std::optional<Reading> reading;
};

std::vector<uint64_t> places(std::initializer_list<uint64_t> chunks) {
  std::vector<uint64_t> offsets;
  for (const uint64_t chunk : chunks) offsets.push_back(chunk * kTestChunkBytes);
  return offsets;
}

}  // namespace

RING_CASE(reader_order, "demand goes first, in its order; parts too; look-ahead fills the rest") {
  Gated gated(2);
  gated.ask(1, 0, 4, Priority::ahead);
  gated.gate->await_sent(2);
  gated.ask(2, 10, 2, Priority::demand);
  Read expert;
  expert.tag = 3;
  for (const uint64_t place : {20, 16, 18}) {
    const uint64_t offset = place * kTestChunkBytes;
    expert.parts.push_back({0, offset, 2 * kTestChunkBytes, gated.memory.data() + offset, nullptr});
  }
  (*gated.reading)->submit(std::move(expert));
  gated.gate->open();
  gated.reading->take(3);
  require_order(gated.gate->sent(), places({0, 1, 10, 11, 20, 21, 16, 17, 18, 19, 2, 3}));
}

RING_CASE(reader_retry_order, "a look-ahead chunk that failed does not overtake demand") {
  Gated gated(1, small_chunks(), {{FaultKind::error, 0, 0, kTestChunkBytes, 1, 0}});
  gated.ask(1, 0, 1, Priority::ahead);
  gated.gate->await_sent(1);
  gated.ask(2, 10, 2, Priority::demand);
  gated.gate->open();
  gated.reading->take(2);
  require_order(gated.gate->sent(), places({0, 10, 11, 0}));
}

RING_CASE(reader_beside, "look-ahead beside demand takes no more than it may") {
  ReaderOptions options = small_chunks();
  options.ahead_bytes_beside_demand = kTestChunkBytes;
  Gated gated(3, options);
  gated.ask(1, 10, 8, Priority::demand);
  gated.gate->await_sent(3);
  gated.ask(2, 0, 2, Priority::ahead);
  gated.gate->open();
  gated.reading->take(2);
  const std::vector<uint64_t> sent = offsets_of(gated.gate->sent());
  // One of the two goes as soon as there is room, and before the last of demand.
  const auto first = std::find(sent.begin(), sent.end(), 0);
  require(first - sent.begin() == 3, "look-ahead was sent as chunk %td, expected 3",
          first - sent.begin());
}

RING_CASE(reader_ahead_bound, "look-ahead alone keeps no more under way than it may") {
  ReaderOptions options = small_chunks();
  options.ahead_bytes = 2 * kTestChunkBytes;
  Gated gated(8, options);
  gated.ask(1, 0, 6, Priority::ahead);
  gated.gate->await_sent(2);
  gated.ask(2, 10, 1, Priority::demand);
  gated.gate->await_sent(3);
  // The demand chunk would have been the third or later; it came while 4 of look-ahead waited.
  require_order(gated.gate->sent(), places({0, 1, 10}));
  gated.gate->open();
  gated.reading->take(2);
  require(gated.gate->sent().size() == 7, "%zu chunks were sent", gated.gate->sent().size());
}

RING_CASE(reader_promote, "look-ahead that is wanted after all overtakes other look-ahead") {
  Gated gated(1);
  gated.ask(1, 0, 2, Priority::ahead);
  gated.gate->await_sent(1);
  gated.ask(2, 4, 2, Priority::ahead);
  gated.ask(3, 8, 2, Priority::demand);
  (*gated.reading)->promote(2);
  (*gated.reading)->promote(2);    // again: nothing happens
  (*gated.reading)->promote(777);  // unknown: nothing happens
  gated.gate->open();
  for (const auto& [tag, arrival] : gated.reading->take(3))
    require_landing("promoted", arrival, Landing::arrived);
  require_order(gated.gate->sent(), places({0, 8, 9, 4, 5, 1}));
}

RING_CASE(reader_cancel_queued, "a cancelled read that was not begun is not read at all") {
  Gated gated(1);
  gated.ask(1, 0, 2, Priority::demand);
  gated.gate->await_sent(1);
  gated.ask(2, 4, 2, Priority::ahead);
  (*gated.reading)->cancel(2);
  const Arrival cancelled = gated.reading->next();
  require(cancelled.tag == 2, "read %lld ended", static_cast<long long>(cancelled.tag));
  require_landing("queued", cancelled, Landing::cancelled);
  gated.gate->open();
  require_landing("the other", gated.reading->next(), Landing::arrived);
  require(gated.memory.data()[4 * kTestChunkBytes] == Memory::kUntouched,
          "its memory was written to");
  require_order(gated.gate->sent(), places({0, 1}));
}

RING_CASE(reader_cancel_begun, "a cancelled read is reported after its last chunk under way") {
  Gated gated(1);
  gated.ask(1, 0, 3, Priority::ahead);
  gated.gate->await_sent(1);
  (*gated.reading)->cancel(1);
  gated.ask(2, 10, 1, Priority::demand);
  require(gated.reading->count_now() == 0, "it was reported with a chunk under way");
  gated.gate->open();
  const auto ended = gated.reading->take(2);
  require_landing("begun", ended.at(1), Landing::cancelled);
  require_landing("the other", ended.at(2), Landing::arrived);
  require_order(gated.gate->sent(), places({0, 10}));
}

RING_CASE(reader_cancel_late, "a cancelled read with nothing left to drop has arrived") {
  Gated gated(2);
  gated.ask(1, 0, 2, Priority::ahead);
  gated.gate->await_sent(2);
  (*gated.reading)->cancel(1);
  gated.gate->open();
  require_landing("late", gated.reading->next(), Landing::arrived);
  require_bytes("late", {0, 0, 2 * kTestChunkBytes, gated.memory.data(), nullptr});
}

RING_CASE(reader_refuses, "reads that cannot be meant are refused in one sentence") {
  const Folder folder;
  const auto sources = one_file(folder.write("file", kFileBytes));
  Memory memory(kRoom);
  Gated gated(1);
  const auto refused = [&](Read read, const char* words) {
    (*gated.reading)->submit(std::move(read));
    const Arrival arrival = gated.reading->next();
    require_landing(words, arrival, Landing::failed);
    require(arrival.why.code == Code::bad_argument && strstr(arrival.why.text, words) != nullptr,
            "\"%s\" does not say \"%s\"", arrival.why.text, words);
  };
  Read read = read_of(1, 0, 10, memory.data());
  read.parts[0].file = 1;
  refused(read, "no file 1");
  refused(read_of(1, kFileBytes, 1, memory.data()), "byte");
  refused(read_of(1, 1, kFileBytes, memory.data()), "byte");
  refused(read_of(1, 1, ~uint64_t{0}, memory.data()), "byte");
  refused(read_of(1, 0, 10, memory.data() + 8), "multiple of 4096");
  gated.ask(1, 0, 1, Priority::demand);
  refused(read_of(1, 0, 10, memory.data()), "being read already");
  require(gated.gate->sent().size() <= 1, "a refused read was sent");
  gated.gate->open();
  require_landing("the first of its tag", gated.reading->next(), Landing::arrived);
}

RING_CASE(reader_end, "a reader ends with reads queued, after what is under way and no more") {
  for (const Setup& setup : setups()) {
    const Folder folder;
    const auto sources = one_file(folder.write("file", kFileBytes));
    Memory memory(8 * kRoom);
    Reading reading(open_setup(setup, sources), sources, small_chunks());
    for (int64_t tag = 0; tag < 8; ++tag) {
      reading->submit(read_of(tag, 0, kFileBytes, memory.data() + tag * kRoom,
                              tag % 2 == 0 ? Priority::demand : Priority::ahead));
    }
    reading.end();
  }
  Gated gated(2);
  gated.ask(1, 0, 20, Priority::demand);
  gated.gate->await_sent(2);
  gated.ask(2, 20, 5, Priority::demand);
  const auto count = gated.gate->count();
  gated.gate->open_on_wake();
  gated.reading->end();
  require(*count == 2, "%zu chunks were sent, 2 were under way", count->load());
}
