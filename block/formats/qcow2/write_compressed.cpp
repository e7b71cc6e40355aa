// Image: writing compressed clusters.
#include <utility>

#include "block/formats/qcow2/compression.h"
#include "block/formats/qcow2/image.h"
#include "block/formats/qcow2/parallel.h"

namespace blockbed::qcow2 {

Task<Result<void>> Image::write_compressed(uint64_t offset, IoVector buffers) {
  const Geometry& g = geometry();
  if (metadata_.failed()) co_return io_error(ENOMEDIUM);
  if (g.external_data) co_return io_error(ENOTSUP);
  const uint64_t size = buffers.size();
  if (size == 0) co_return Result<void>();
  if (g.in_cluster(offset) != 0) co_return io_error(EINVAL);
  if (g.in_cluster(size) != 0 && offset + size != length()) co_return io_error(EINVAL);
  Metadata::RequestGuard guard(metadata_);
  if (!writing_) BB_CO_TRY(co_await begin_writing());
  if (size <= g.cluster_size) {
    co_return co_await write_compressed_cluster(offset, std::move(buffers));
  }
  Parallel parallel(env_.executor());
  for (uint64_t done = 0; done < size && !parallel.failed(); done += g.cluster_size) {
    IoVector part = buffers.slice(done, std::min(g.cluster_size, size - done));
    co_await parallel.start(write_compressed_cluster(offset + done, std::move(part)));
  }
  co_await parallel.finish();
  co_return parallel.result();
}

Task<Result<void>> Image::write_compressed_cluster(uint64_t guest, IoVector buffers) {
  const Geometry& g = geometry();
  const auto ranges = buffers.ranges();
  Buffer plain;
  const std::byte* source = nullptr;
  if (buffers.size() == g.cluster_size && ranges.size() == 1) {
    source = static_cast<const std::byte*>(ranges[0].iov_base);
  } else {
    // The end of the disk: a cluster is compressed whole, with zeroes behind.
    plain = Buffer::zeroed(g.cluster_size);
    buffers.copy_to(plain.data());
    source = plain.data();
  }
  co_await codecs_.acquire();
  // One byte less than a cluster: what does not shrink is stored as it is.
  Buffer packed(g.cluster_size);
  std::size_t bytes = 0;
  const CompressionType type = header().compression;
  std::function<void()> work = [&bytes, type, source, &packed, size = g.cluster_size] {
    bytes = compress(type, std::span<const std::byte>(source, size),
                     std::span<std::byte>(packed.data(), size - 1));
  };
  co_await env_.run_on_worker(std::move(work));
  codecs_.release();
  if (bytes == 0) {
    const uint64_t size = buffers.size();
    for (uint64_t done = 0; done < size;) {
      auto some = co_await write_some(guest + done, Payload(buffers.slice(done, size - done)));
      if (!some) co_return io_error(some.error());
      done += *some;
    }
    co_return Result<void>();
  }
  for (;;) {
    auto done = co_await store_compressed(guest, packed.io(0, bytes));
    if (done || !co_await make_room(done.error())) co_return done;
  }
}

Task<Result<void>> Image::store_compressed(uint64_t guest, IoVector packed) {
  const Geometry& g = geometry();
  const uint64_t bytes = packed.size();
  uint64_t host = 0;
  InFlight change;
  {
    MutexGuard guard = co_await lock_range(guest, guest + g.cluster_size);
    auto piece = co_await metadata_.writable_piece(guest);
    if (!piece) co_return io_error(piece.error());
    auto allocated = co_await metadata_.allocate_bytes(bytes);
    if (!allocated) co_return io_error(allocated.error());
    host = *allocated;
    change.begin = guest;
    change.end = guest + g.cluster_size;
    enter(change);
  }
  // The entry is changed when the data is there. QEMU does it before.
  co_await metadata_.file().debug_event(DebugEvent::kL2UpdateCompressed);
  co_await metadata_.file().debug_event(DebugEvent::kWriteCompressed);
  auto done = co_await write_data(host, std::move(packed));
  MutexGuard guard = co_await metadata_.lock();
  if (done) {
    auto piece = co_await metadata_.writable_piece(guest);
    if (piece) {
      const uint32_t index = g.index_in_piece(guest);
      const L2Entry old = load_entry(g, (*piece)->data(), index);
      store_entry(g, (*piece)->data(), index, L2Entry{make_compressed(g, host, bytes), 0});
      metadata_.free_entry_later(old.value, FreeReason::kNever);
      metadata_.piece_changed(**piece, true);
    } else {
      done = io_error(piece.error());
    }
  }
  if (!done) (void)co_await metadata_.give_back(host, bytes);
  leave(change);
  co_return done;
}

}  // namespace blockbed::qcow2
