// SimFile: an open file of a SimStorage. See file.h for the contract and sim_storage.h for what the
// simulation adds. Threading: one thread.
#pragma once

#include <memory>

#include "block/sim/sim_storage.h"

namespace blockbed::sim {

class SimFile final : public File {
 public:
  SimFile(SimStorage& storage, std::shared_ptr<SimStorage::Inode> inode, FileOpenOptions options);
  ~SimFile() override;

  Task<Result<void>> read(uint64_t offset, IoVector buffers) override;
  Task<Result<void>> write(uint64_t offset, IoVector buffers) override;
  Task<Result<void>> flush() override;
  // What a crash leaves of unflushed bytes is chance already.
  Task<void> expect_flush() override { co_return; }
  Task<Result<void>> zero(uint64_t offset, uint64_t length, bool may_unmap) override;
  Task<Result<void>> discard(uint64_t offset, uint64_t length) override;
  Task<Result<void>> copy_from(File& source, uint64_t source_offset, uint64_t offset,
                               uint64_t length) override;
  Task<Result<void>> truncate(uint64_t size, FilePreallocation preallocation) override;
  Task<Result<FileInfo>> info() override;
  Task<Result<FileExtent>> extent(uint64_t offset, uint64_t length) override;
  uint32_t alignment() const override { return options_.direct ? storage_.direct_alignment_ : 1; }
  FileKind kind() const override { return inode_->kind; }
  Result<bool> try_lock_shared(uint64_t start, uint64_t length) override;
  Result<void> unlock(uint64_t start, uint64_t length) override;
  Result<bool> is_locked_by_others(uint64_t start, uint64_t length) override;
  Task<Result<void>> reopen(FileOpenOptions options) override;
  Task<Result<void>> close() override;

 private:
  struct Busy {
    SimFile& file;
    explicit Busy(SimFile& f) : file(f) { ++file.busy_; }
    ~Busy() { --file.busy_; }
    Busy(const Busy&) = delete;
    Busy& operator=(const Busy&) = delete;
  };

  bool aligned(uint64_t offset, const IoVector& buffers) const;
  bool beyond_device(uint64_t end) const;

  SimStorage& storage_;
  const std::shared_ptr<SimStorage::Inode> inode_;
  FileOpenOptions options_;
  int busy_ = 0;
  bool open_ = true;
};

}  // namespace blockbed::sim
