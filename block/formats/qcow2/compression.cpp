#include "block/formats/qcow2/compression.h"

#include <zlib.h>
#include <zstd.h>

#include <memory>

namespace blockbed::qcow2 {

namespace {

// Negative: raw deflate. 12: readers may be built for the 4 KiB window that the format prescribes.
constexpr int kWriteWindowBits = -12;
// Reading accepts every window, for images written by others.
constexpr int kReadWindowBits = -15;
// What zlib itself takes when nobody asks: within a thousandth the size of the most there can be,
// and its tables stay in the processor's cache.
constexpr int kMemoryLevel = 8;

// The state of a codec is kept by each thread: what it takes (7 to 660 KiB) would else be taken
// anew for each cluster, and page faults with it.

void set_ends(z_stream& stream, std::span<const std::byte> from, std::span<std::byte> into) {
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(from.data()));
  stream.avail_in = static_cast<uInt>(from.size());
  stream.next_out = reinterpret_cast<Bytef*>(into.data());
  stream.avail_out = static_cast<uInt>(into.size());
}

class Deflate {
 public:
  Deflate()
      : usable_(deflateInit2(&stream_, Z_DEFAULT_COMPRESSION, Z_DEFLATED, kWriteWindowBits,
                             kMemoryLevel, Z_DEFAULT_STRATEGY) == Z_OK) {}
  ~Deflate() {
    if (usable_) deflateEnd(&stream_);
  }
  Deflate(const Deflate&) = delete;
  Deflate& operator=(const Deflate&) = delete;

  std::size_t run(std::span<const std::byte> from, std::span<std::byte> into) {
    if (!usable_) return 0;
    deflateReset(&stream_);
    set_ends(stream_, from, into);
    return deflate(&stream_, Z_FINISH) == Z_STREAM_END ? into.size() - stream_.avail_out : 0;
  }

 private:
  z_stream stream_{};
  const bool usable_;
};

class Inflate {
 public:
  Inflate() : usable_(inflateInit2(&stream_, kReadWindowBits) == Z_OK) {}
  ~Inflate() {
    if (usable_) inflateEnd(&stream_);
  }
  Inflate(const Inflate&) = delete;
  Inflate& operator=(const Inflate&) = delete;

  bool run(std::span<const std::byte> from, std::span<std::byte> into) {
    if (!usable_) return false;
    inflateReset(&stream_);
    set_ends(stream_, from, into);
    const int result = inflate(&stream_, Z_FINISH);
    // Z_BUF_ERROR with a full cluster: the end mark of the stream was not reached, the data was.
    return (result == Z_STREAM_END || result == Z_BUF_ERROR) && stream_.avail_out == 0;
  }

 private:
  z_stream stream_{};
  const bool usable_;
};

std::size_t deflate_cluster(std::span<const std::byte> from, std::span<std::byte> into) {
  thread_local Deflate deflate;
  return deflate.run(from, into);
}

bool inflate_cluster(std::span<const std::byte> from, std::span<std::byte> into) {
  thread_local Inflate inflate;
  return inflate.run(from, into);
}

// A frame may ask for a window of 128 MiB: so much is not kept.
constexpr std::size_t kMostKept = std::size_t{4} << 20;

struct FreeContext {
  void operator()(ZSTD_DCtx* context) const { ZSTD_freeDCtx(context); }
  void operator()(ZSTD_CCtx* context) const { ZSTD_freeCCtx(context); }
};

bool run_unzstd(ZSTD_DCtx& context, std::span<const std::byte> from, std::span<std::byte> into) {
  ZSTD_inBuffer in{from.data(), from.size(), 0};
  ZSTD_outBuffer out{into.data(), into.size(), 0};
  // Each turn consumes or produces, or the data is damaged: no loop without end.
  while (out.pos < out.size) {
    const std::size_t before = in.pos + out.pos;
    const std::size_t result = ZSTD_decompressStream(&context, &out, &in);
    if (ZSTD_isError(result)) return false;
    if (in.pos + out.pos == before) return false;
  }
  return true;
}

bool unzstd_cluster(std::span<const std::byte> from, std::span<std::byte> into) {
  thread_local std::unique_ptr<ZSTD_DCtx, FreeContext> context;
  if (!context) context.reset(ZSTD_createDCtx());
  if (!context) return false;
  ZSTD_DCtx_reset(context.get(), ZSTD_reset_session_only);
  const bool done = run_unzstd(*context, from, into);
  if (ZSTD_sizeof_DCtx(context.get()) > kMostKept) context.reset();
  return done;
}

std::size_t zstd_cluster(std::span<const std::byte> from, std::span<std::byte> into) {
  thread_local std::unique_ptr<ZSTD_CCtx, FreeContext> context;
  if (!context) context.reset(ZSTD_createCCtx());
  if (!context) return 0;
  const std::size_t used = ZSTD_compressCCtx(context.get(), into.data(), into.size(), from.data(),
                                             from.size(), ZSTD_CLEVEL_DEFAULT);
  if (ZSTD_sizeof_CCtx(context.get()) > kMostKept) context.reset();
  return ZSTD_isError(used) ? 0 : used;
}

}  // namespace

bool decompress(CompressionType type, std::span<const std::byte> from, std::span<std::byte> into) {
  return type == CompressionType::kZstd ? unzstd_cluster(from, into) : inflate_cluster(from, into);
}

std::size_t compress(CompressionType type, std::span<const std::byte> from,
                     std::span<std::byte> into) {
  return type == CompressionType::kZstd ? zstd_cluster(from, into) : deflate_cluster(from, into);
}

}  // namespace blockbed::qcow2
