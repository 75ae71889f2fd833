// The ladder: the best way of reading that works here, or the one that is asked for and, where it
// cannot be had, the next one down.
#include "drive.h"

#include "files.h"
#include "threads.h"
#include "uring.h"

namespace ring::io {
namespace {

// A drive that says, beside what it is, what could not be had. Only its description differs.
class Described : public Drive {
 public:
  Described(std::unique_ptr<Drive> drive, std::string missing)
      : drive_(std::move(drive)), missing_(std::move(missing)) {}
  int depth() const override { return drive_->depth(); }
  void submit(const Chunk& chunk) override { drive_->submit(chunk); }
  void lend(const Region& region) override { drive_->lend(region); }
  int reap(Landed* landed, int capacity, int wait_ms) override {
    return drive_->reap(landed, capacity, wait_ms);
  }
  void wake() override { drive_->wake(); }
  uint64_t cpu_ns() const override { return drive_->cpu_ns(); }
  std::string describe() const override { return drive_->describe() + " (" + missing_ + ")"; }

 private:
  std::unique_ptr<Drive> drive_;
  std::string missing_;
};

}  // namespace

Status open_drive(const std::vector<Source>& sources, const DriveOptions& options,
                  std::unique_ptr<Drive>* drive) {
  std::string missing;
  bool refused = false;
  if (options.rung != Rung::buffered) {
    OpenFiles files;
    const Status status = files.open(sources, true, &refused);
    if (status.failed() && !refused) return status;
    if (refused) {
      missing = "no O_DIRECT on this file system";
    } else if (options.rung == Rung::threads) {
      *drive = make_thread_drive(std::move(files), options.depth, true);
      return {};
    } else {
      const bool registers = options.rung != Rung::uring;
      *drive = make_uring_drive(&files, options.depth, registers, &missing);
      if (*drive == nullptr) *drive = make_thread_drive(std::move(files), options.depth, true);
    }
  }
  if (*drive == nullptr) {
    OpenFiles files;
    RING_TRY(files.open(sources, false, &refused));
    *drive = make_thread_drive(std::move(files), options.depth, false);
  }
  if (!missing.empty()) *drive = std::make_unique<Described>(std::move(*drive), missing);
  return {};
}

}  // namespace ring::io
