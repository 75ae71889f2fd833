// See drives.h.
#include "drives.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "harness.h"

namespace ring::test {

using io::Arrival;
using io::Chunk;

uint8_t byte_at(uint64_t offset, uint32_t salt) {
  const uint64_t mixed = (offset + 1 + uint64_t{salt} * 0x1000193) * 0x9E3779B97F4A7C15;
  return static_cast<uint8_t>((mixed ^ (mixed >> 29)) >> 21);
}

namespace {

constexpr auto kLimit = std::chrono::seconds(20);

void write_all(int file, uint64_t offset, uint64_t bytes, uint32_t salt) {
  std::vector<uint8_t> data(bytes);
  for (uint64_t i = 0; i < bytes; ++i) data[i] = byte_at(offset + i, salt);
  const ssize_t done = pwrite(file, data.data(), bytes, static_cast<off_t>(offset));
  require(done == static_cast<ssize_t>(bytes), "a test file cannot be written: %s",
          strerror(errno));
}

int create(const std::string& path) {
  const int file = open(path.c_str(), O_CREAT | O_RDWR | O_TRUNC | O_CLOEXEC, 0600);
  require(file >= 0, "%s cannot be made: %s", path.c_str(), strerror(errno));
  return file;
}

}  // namespace

Folder::Folder(const std::string& parent) {
  std::string name =
      (parent.empty() ? std::filesystem::temp_directory_path().string() : parent) + "/ring-XXXXXX";
  require(mkdtemp(name.data()) != nullptr, "%s cannot be made: %s", name.c_str(), strerror(errno));
  path_ = name;
}

Folder::~Folder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string Folder::write(const std::string& name, uint64_t bytes, uint32_t salt) const {
  const int file = create(path(name));
  write_all(file, 0, bytes, salt);
  close(file);
  return path(name);
}

std::string Folder::write_sparse(const std::string& name, uint64_t file_bytes, uint64_t offset,
                                 uint64_t bytes) const {
  const int file = create(path(name));
  const bool is_long = ftruncate(file, static_cast<off_t>(file_bytes)) == 0;
  if (is_long) write_all(file, offset, bytes, 0);
  close(file);
  require(is_long, "a sparse file cannot be made: %s", strerror(errno));
  return path(name);
}

void flip_byte(const std::string& path, uint64_t offset) {
  const int file = open(path.c_str(), O_RDWR | O_CLOEXEC);
  uint8_t byte = 0;
  const bool has_read = pread(file, &byte, 1, static_cast<off_t>(offset)) == 1;
  byte ^= 0x10;
  const bool has_written = pwrite(file, &byte, 1, static_cast<off_t>(offset)) == 1;
  close(file);
  require(has_read && has_written, "a byte of %s cannot be changed", path.c_str());
}

void cut_file(const std::string& path, uint64_t bytes) {
  require(truncate(path.c_str(), static_cast<off_t>(bytes)) == 0, "%s cannot be cut", path.c_str());
}

void Memory::Free::operator()(uint8_t* memory) const { free(memory); }

Memory::Memory(uint64_t bytes)
    : bytes_((bytes + io::kBlockBytes - 1) / io::kBlockBytes * io::kBlockBytes) {
  data_.reset(static_cast<uint8_t*>(aligned_alloc(io::kBlockBytes, bytes_)));
  memset(data_.get(), kUntouched, bytes_);
}

const std::vector<Setup>& setups() {
  static const std::vector<Setup> all = {
      {"io_uring with registered buffers", Rung::uring_registered, false},
      {"io_uring", Rung::uring, false},
      {"threads", Rung::threads, false},
      {"the page cache", Rung::buffered, false},
      {"a drive of RAM", Rung::paced, false},
      {"faulty io_uring with registered buffers", Rung::uring_registered, true},
      {"faulty io_uring", Rung::uring, true},
      {"faulty threads", Rung::threads, true},
      {"the faulty page cache", Rung::buffered, true},
      {"a faulty drive of RAM", Rung::paced, true},
  };
  return all;
}

std::unique_ptr<io::Drive> open_setup(const Setup& setup, const std::vector<io::Source>& sources,
                                      std::vector<io::Fault> faults) {
  std::unique_ptr<io::Drive> drive;
  io::Pace pace;
  pace.bytes_per_second = 4e9;
  pace.latency_seconds = 50e-6;
  pace.jitter = 0.5;
  const Status status = setup.rung == Rung::paced
                            ? io::open_paced_drive(sources, pace, &drive)
                            : io::open_drive(sources, {setup.rung, 0}, &drive);
  require(!status.failed(), "%s: %s", setup.name, status.text);
  if (setup.is_faulty) faults.push_back({FaultKind::error, 0, 0, ~uint64_t{0}, 2, 0});
  if (faults.empty()) return drive;
  return io::make_faulty_drive(std::move(drive), std::move(faults));
}

GatedDrive::GatedDrive(std::unique_ptr<io::Drive> under, int depth)
    : under_(std::move(under)), depth_(depth) {}

void GatedDrive::submit(const Chunk& chunk) {
  under_->submit(chunk);
  const std::lock_guard<std::mutex> guard(lock_);
  sent_.push_back(chunk);
  ++*count_;
  changed_.notify_all();
}

int GatedDrive::reap(io::Landed* landed, int capacity, int wait_ms) {
  {
    std::unique_lock<std::mutex> guard(lock_);
    const auto is_called = [this] { return is_open_ || is_woken_; };
    // A case that failed does not open the gate; its reader must end all the same.
    if (wait_ms < 0 && !changed_.wait_for(guard, kLimit, is_called)) is_open_ = true;
    is_woken_ = false;
    if (!is_open_) return 0;
  }
  return under_->reap(landed, capacity, wait_ms);
}

void GatedDrive::wake() {
  {
    const std::lock_guard<std::mutex> guard(lock_);
    is_woken_ = true;
    if (opens_on_wake_) is_open_ = true;
    changed_.notify_all();
  }
  under_->wake();
}

void GatedDrive::open() {
  const std::lock_guard<std::mutex> guard(lock_);
  is_open_ = true;
  changed_.notify_all();
}

void GatedDrive::open_on_wake() {
  const std::lock_guard<std::mutex> guard(lock_);
  opens_on_wake_ = true;
}

void GatedDrive::await_sent(size_t chunks) {
  std::unique_lock<std::mutex> guard(lock_);
  const bool have_come = changed_.wait_for(guard, kLimit, [&] { return sent_.size() >= chunks; });
  require(have_come, "%zu chunks were sent, expected %zu", sent_.size(), chunks);
}

std::vector<Chunk> GatedDrive::sent() {
  const std::lock_guard<std::mutex> guard(lock_);
  return sent_;
}

Reading::Reading(std::unique_ptr<io::Drive> drive, const std::vector<io::Source>& sources,
                 io::ReaderOptions options)
    : reader_(std::make_unique<io::Reader>()) {
  const Status status = reader_->open(std::move(drive), sources, options);
  require(!status.failed(), "%s", status.text);
}

Arrival Reading::next() {
  require(reader_->wait(20'000), "nothing has arrived in 20 s");
  Arrival arrival;
  require(reader_->poll(&arrival, 1) == 1, "wait promised an arrival that poll does not have");
  return arrival;
}

std::map<int64_t, Arrival> Reading::take(size_t count) {
  std::map<int64_t, Arrival> arrivals;
  for (size_t i = 0; i < count; ++i) {
    const Arrival arrival = next();
    require(arrivals.emplace(arrival.tag, arrival).second, "read %lld was reported twice",
            static_cast<long long>(arrival.tag));
  }
  return arrivals;
}

size_t Reading::count_now() {
  Arrival arrivals[16];
  return static_cast<size_t>(reader_->poll(arrivals, 16));
}

io::ReaderOptions small_chunks() {
  io::ReaderOptions options;
  options.chunk_bytes = kTestChunkBytes;
  return options;
}

std::vector<io::Source> one_file(const std::string& path, uint64_t bytes) {
  return {{{path}, bytes}};
}

io::Read read_of(int64_t tag, uint64_t offset, uint64_t bytes, uint8_t* target,
                 io::Priority priority) {
  io::Read read;
  read.tag = tag;
  read.priority = priority;
  read.parts.push_back({0, offset, bytes, target, nullptr});
  return read;
}

void require_landing(const char* where, const Arrival& arrival, io::Landing landing) {
  require(arrival.landing == landing, "%s: read %lld ended as %d, expected %d: %s", where,
          static_cast<long long>(arrival.tag), static_cast<int>(arrival.landing),
          static_cast<int>(landing), arrival.why.text);
}

void require_bytes(const char* where, const io::ReadPart& part, uint32_t salt) {
  const uint8_t* data = part.target + part.offset % io::kBlockBytes;
  for (uint64_t i = 0; i < part.bytes; ++i) {
    const uint8_t expected = byte_at(part.offset + i, salt);
    if (data[i] == expected) continue;
    require(false, "%s: byte %llu of the file is %u, expected %u", where,
            static_cast<unsigned long long>(part.offset + i), data[i], expected);
  }
}

}  // namespace ring::test
