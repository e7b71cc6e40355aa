#include "block/sim/sim_file.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <span>
#include <utility>

#include "block/runtime/assert.h"

namespace blockbed::sim {

namespace {

Result<void> outcome(int error) {
  if (error != 0) return io_error(error);
  return {};
}

bool range_exists(uint64_t offset, uint64_t length) {
  return offset <= INT64_MAX && length <= INT64_MAX - offset;
}

bool overlap(uint64_t a, uint64_t a_length, uint64_t b, uint64_t b_length) {
  return a < b + b_length && b < a + a_length;
}

std::shared_ptr<const std::vector<std::byte>> copy_of(const IoVector& buffers) {
  auto bytes = std::make_shared<std::vector<std::byte>>(buffers.size());
  buffers.copy_to(bytes->data());
  return bytes;
}

bool holds(const IoVector& buffers, std::span<const std::byte> bytes) {
  for (const iovec& range : buffers.ranges()) {
    if (std::memcmp(range.iov_base, bytes.data(), range.iov_len) != 0) return false;
    bytes = bytes.subspan(range.iov_len);
  }
  return bytes.empty();
}

}  // namespace

SimFile::SimFile(SimStorage& storage, std::shared_ptr<SimStorage::Inode> inode,
                 FileOpenOptions options)
    : storage_(storage), inode_(std::move(inode)), options_(options) {
  ++storage_.open_files_;
}

SimFile::~SimFile() { BB_ASSERT(!open_ && busy_ == 0); }

bool SimFile::aligned(uint64_t offset, const IoVector& buffers) const {
  return !options_.direct || (offset % alignment() == 0 && buffers.aligned_to(alignment()));
}

bool SimFile::beyond_device(uint64_t end) const {
  return inode_->kind == FileKind::kBlockDevice && end > inode_->disk.live().size();
}

Task<Result<void>> SimFile::read(uint64_t offset, IoVector buffers) {
  BB_ASSERT(open_ && aligned(offset, buffers));
  if (!range_exists(offset, buffers.size())) co_return io_error(EINVAL);
  if (buffers.empty()) co_return {};
  const Busy busy(*this);
  co_return outcome(co_await storage_.read(inode_, offset, std::move(buffers)));
}

Task<Result<void>> SimFile::write(uint64_t offset, IoVector buffers) {
  BB_ASSERT(open_ && aligned(offset, buffers));
  if (!options_.write) co_return io_error(EBADF);
  if (!range_exists(offset, buffers.size())) co_return io_error(EFBIG);
  if (buffers.empty()) co_return {};
  if (beyond_device(offset + buffers.size())) co_return io_error(ENOSPC);
  const Busy busy(*this);
  Change what;
  what.offset = offset;
  what.length = buffers.size();
  what.data = copy_of(buffers);
  const int error = co_await storage_.change(inode_, kSimWrite, what);
  // The memory belongs to the request until it ends.
  BB_ASSERT(error != 0 || holds(buffers, *what.data));
  co_return outcome(error);
}

Task<Result<void>> SimFile::flush() {
  BB_ASSERT(open_);
  const Busy busy(*this);
  co_return outcome(co_await storage_.flush(inode_));
}

Task<Result<void>> SimFile::zero(uint64_t offset, uint64_t length, bool may_unmap) {
  BB_ASSERT(open_);
  if (!options_.write) co_return io_error(EBADF);
  if (!range_exists(offset, length)) co_return io_error(EFBIG);
  if (!storage_.abilities_.zero) co_return io_error(ENOTSUP);
  if (length == 0) co_return {};
  if (beyond_device(offset + length)) co_return io_error(ENOSPC);
  const Busy busy(*this);
  Change what;
  what.kind = may_unmap ? Change::Kind::kDiscard : Change::Kind::kZero;
  what.offset = offset;
  what.length = length;
  co_return outcome(co_await storage_.change(inode_, kSimZero, what));
}

Task<Result<void>> SimFile::discard(uint64_t offset, uint64_t length) {
  BB_ASSERT(open_);
  if (!options_.write) co_return io_error(EBADF);
  if (!range_exists(offset, length)) co_return io_error(EINVAL);
  if (!storage_.abilities_.discard) co_return io_error(ENOTSUP);
  const uint64_t size = inode_->disk.live().size();
  // It never makes the file longer.
  if (offset >= size) co_return {};
  length = std::min(length, size - offset);
  if (length == 0) co_return {};
  const Busy busy(*this);
  Change what;
  what.kind = Change::Kind::kDiscard;
  what.offset = offset;
  what.length = length;
  co_return outcome(co_await storage_.change(inode_, kSimDiscard, what));
}

Task<Result<void>> SimFile::copy_from(File& source, uint64_t source_offset, uint64_t offset,
                                      uint64_t length) {
  BB_ASSERT(open_);
  auto* const from = dynamic_cast<SimFile*>(&source);
  if (from == nullptr || &from->storage_ != &storage_ || !storage_.abilities_.copy) {
    co_return io_error(ENOTSUP);
  }
  if (!options_.write) co_return io_error(EBADF);
  if (!range_exists(source_offset, length) || !range_exists(offset, length)) {
    co_return io_error(EINVAL);
  }
  if (length == 0) co_return {};
  if (from->inode_ == inode_ && overlap(source_offset, length, offset, length)) {
    co_return io_error(ENOTSUP);
  }
  if (beyond_device(offset + length)) co_return io_error(ENOSPC);
  const Busy busy(*this);
  const Busy source_busy(*from);
  auto bytes = std::make_shared<std::vector<std::byte>>(length);
  from->inode_->disk.live().read(source_offset, *bytes);
  Change what;
  what.offset = offset;
  what.length = length;
  what.data = std::move(bytes);
  co_return outcome(co_await storage_.change(inode_, kSimCopy, what));
}

Task<Result<void>> SimFile::truncate(uint64_t size, FilePreallocation preallocation) {
  BB_ASSERT(open_);
  if (!options_.write) co_return io_error(EINVAL);
  const uint64_t before = inode_->disk.live().size();
  if (inode_->kind != FileKind::kRegular) {
    if (preallocation != FilePreallocation::kOff) co_return io_error(ENOTSUP);
    if (size == before) co_return {};
    co_return io_error(size > before ? EINVAL : ENOTSUP);
  }
  if (size > INT64_MAX) co_return io_error(EFBIG);
  if (preallocation != FilePreallocation::kOff && size < before) co_return io_error(ENOTSUP);
  const Busy busy(*this);
  Change what;
  what.kind = Change::Kind::kResize;
  what.offset = size;
  co_return outcome(co_await storage_.change(inode_, kSimTruncate, what));
}

Task<Result<FileInfo>> SimFile::info() {
  BB_ASSERT(open_);
  const Busy busy(*this);
  const int error = co_await storage_.pass(inode_->path, kSimInfo, 0, 0);
  if (error != 0) co_return io_error(error);
  FileInfo result;
  result.kind = inode_->kind;
  result.size = inode_->disk.live().size();
  result.allocated = inode_->disk.live().allocated();
  co_return result;
}

Task<Result<FileExtent>> SimFile::extent(uint64_t offset, uint64_t length) {
  BB_ASSERT(open_ && length > 0);
  const Busy busy(*this);
  const int error = co_await storage_.pass(inode_->path, kSimExtent, offset, length);
  if (error != 0) co_return io_error(error);
  FileExtent result;
  result.length = length;
  if (!storage_.abilities_.extents) co_return result;
  if (offset >= inode_->disk.live().size()) {
    result.data = false;
    co_return result;
  }
  const SparseBytes::Run run = inode_->disk.live().run_at(offset, length);
  result.length = run.length;
  result.data = run.data;
  co_return result;
}

Result<bool> SimFile::try_lock_shared(uint64_t start, uint64_t length) {
  BB_ASSERT(open_ && length > 0);
  // Locks are shared ones only, which never conflict with each other.
  inode_->locks.push_back({this, start, length});
  return true;
}

Result<void> SimFile::unlock(uint64_t start, uint64_t length) {
  BB_ASSERT(open_);
  std::vector<SimStorage::Lock> left;
  const uint64_t end = start + length;
  for (const SimStorage::Lock& held : inode_->locks) {
    if (held.owner != this || !overlap(held.start, held.length, start, length)) {
      left.push_back(held);
      continue;
    }
    const uint64_t held_end = held.start + held.length;
    if (held.start < start) left.push_back({this, held.start, start - held.start});
    if (held_end > end) left.push_back({this, end, held_end - end});
  }
  inode_->locks = std::move(left);
  return {};
}

Result<bool> SimFile::is_locked_by_others(uint64_t start, uint64_t length) {
  BB_ASSERT(open_);
  return std::ranges::any_of(inode_->locks, [&](const SimStorage::Lock& held) {
    return held.owner != this && overlap(held.start, held.length, start, length);
  });
}

Task<Result<void>> SimFile::reopen(FileOpenOptions options) {
  BB_ASSERT(open_ && busy_ == 0);
  BB_ASSERT(!options.create && !options.truncate);
  const Busy busy(*this);
  const int error = co_await storage_.pass(inode_->path, kSimOpen, 0, 0);
  if (error != 0) co_return io_error(error);
  if (options.write && inode_->read_only) co_return io_error(EACCES);
  options_ = options;
  co_return {};
}

Task<Result<void>> SimFile::close() {
  BB_ASSERT(open_ && busy_ == 0);
  std::erase_if(inode_->locks, [this](const SimStorage::Lock& l) { return l.owner == this; });
  open_ = false;
  --storage_.open_files_;
  co_return {};
}

}  // namespace blockbed::sim
