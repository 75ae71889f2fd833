// What tests of reading share: a folder of files whose every byte is known from its place, memory
// that shows where it was written, the drives that all of them run on, and a drive with a gate.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "io/reader.h"

namespace ring::test {

// The byte that a file of tests has at a place.
uint8_t byte_at(uint64_t offset, uint32_t salt);

// Gone with all its files at the end.
class Folder {
 public:
  // `parent` empty: where temporary files go.
  explicit Folder(const std::string& parent = {});
  ~Folder();
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  std::string path(const std::string& name) const { return path_ + "/" + name; }
  // Returns the path.
  std::string write(const std::string& name, uint64_t bytes, uint32_t salt = 0) const;
  // Known bytes at [offset, offset + bytes), holes elsewhere.
  std::string write_sparse(const std::string& name, uint64_t file_bytes, uint64_t offset,
                           uint64_t bytes) const;

 private:
  std::string path_;
};

// Changes one byte of a file.
void flip_byte(const std::string& path, uint64_t offset);
void cut_file(const std::string& path, uint64_t bytes);

// Memory at a block's border, all of it one value that no test file is full of.
class Memory {
 public:
  static constexpr uint8_t kUntouched = 0xA5;
  explicit Memory(uint64_t bytes);
  uint8_t* data() { return data_.get(); }
  uint64_t bytes() const { return bytes_; }

 private:
  struct Free {
    void operator()(uint8_t* memory) const;
  };
  std::unique_ptr<uint8_t, Free> data_;
  uint64_t bytes_;
};

// A way of reading that every test of the reader must hold on.
struct Setup {
  const char* name;
  Rung rung;
  bool is_faulty;  // two chunks fail once, which nobody may notice
};
const std::vector<Setup>& setups();

std::unique_ptr<io::Drive> open_setup(const Setup& setup, const std::vector<io::Source>& sources,
                                      std::vector<io::Fault> faults = {});

// Lets chunks through to the drive under it, remembers them, and delivers nothing until opened. So
// a test can ask for things in an order of its own, and see in which order they were read.
class GatedDrive : public io::Drive {
 public:
  GatedDrive(std::unique_ptr<io::Drive> under, int depth);
  int depth() const override { return depth_; }
  void submit(const io::Chunk& chunk) override;
  void lend(const io::Region& region) override { under_->lend(region); }
  int reap(io::Landed* landed, int capacity, int wait_ms) override;
  void wake() override;
  std::string describe() const override { return under_->describe(); }

  void open();
  // As soon as it is woken the next time.
  void open_on_wake();
  // Waits until so many chunks have come.
  void await_sent(size_t chunks);
  std::vector<io::Chunk> sent();
  // How many chunks have come, also when the drive is gone.
  std::shared_ptr<const std::atomic<size_t>> count() const { return count_; }

 private:
  std::unique_ptr<io::Drive> under_;
  int depth_;
  std::mutex lock_;
  std::condition_variable changed_;
  std::vector<io::Chunk> sent_;
  std::shared_ptr<std::atomic<size_t>> count_ = std::make_shared<std::atomic<size_t>>(0);
  bool is_open_ = false, is_woken_ = false, opens_on_wake_ = false;
};

// A reader and what it has reported.
class Reading {
 public:
  Reading(std::unique_ptr<io::Drive> drive, const std::vector<io::Source>& sources,
          io::ReaderOptions options);
  io::Reader* operator->() { return reader_.get(); }

  // Waits for the next arrival, whichever it is.
  io::Arrival next();
  // Waits until so many more have arrived, and returns them by tag.
  std::map<int64_t, io::Arrival> take(size_t count);
  // Whatever has been reported by now.
  size_t count_now();
  void end() { reader_.reset(); }

 private:
  std::unique_ptr<io::Reader> reader_;
};

// Chunks of tests are small, so that small files have many.
constexpr uint64_t kTestChunkBytes = 64 << 10;
io::ReaderOptions small_chunks();

// The file that most cases read, and memory that all of it fits into.
constexpr uint64_t kFileBytes = (2 << 20) + 123;
constexpr uint64_t kRoom = io::room_for(kFileBytes);
std::vector<io::Source> one_file(const std::string& path, uint64_t bytes = kFileBytes);

// One part, of file 0.
io::Read read_of(int64_t tag, uint64_t offset, uint64_t bytes, uint8_t* target,
                 io::Priority priority = io::Priority::demand);

void require_landing(const char* where, const io::Arrival& arrival, io::Landing landing);

// Claims that the bytes of the part lie where they should.
void require_bytes(const char* where, const io::ReadPart& part, uint32_t salt = 0);

}  // namespace ring::test
