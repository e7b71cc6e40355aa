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

// The tables of one thread: 200 KiB that would else be taken anew for each cluster, and page faults
// with them.
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
    stream_.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(from.data()));
    stream_.avail_in = static_cast<uInt>(from.size());
    stream_.next_out = reinterpret_cast<Bytef*>(into.data());
    stream_.avail_out = static_cast<uInt>(into.size());
    return deflate(&stream_, Z_FINISH) == Z_STREAM_END ? into.size() - stream_.avail_out : 0;
  }

 private:
  z_stream stream_{};
  const bool usable_;
};

bool inflate_cluster(std::span<const std::byte> from, std::span<std::byte> into) {
  z_stream stream{};
  if (inflateInit2(&stream, kReadWindowBits) != Z_OK) return false;
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(from.data()));
  stream.avail_in = static_cast<uInt>(from.size());
  stream.next_out = reinterpret_cast<Bytef*>(into.data());
  stream.avail_out = static_cast<uInt>(into.size());
  const int result = inflate(&stream, Z_FINISH);
  // Z_BUF_ERROR with a full cluster: the end mark of the stream was not reached, the data was.
  const bool done = (result == Z_STREAM_END || result == Z_BUF_ERROR) && stream.avail_out == 0;
  inflateEnd(&stream);
  return done;
}

std::size_t deflate_cluster(std::span<const std::byte> from, std::span<std::byte> into) {
  thread_local Deflate deflate;
  return deflate.run(from, into);
}

struct FreeDctx {
  void operator()(ZSTD_DCtx* context) const { ZSTD_freeDCtx(context); }
};

bool unzstd_cluster(std::span<const std::byte> from, std::span<std::byte> into) {
  std::unique_ptr<ZSTD_DCtx, FreeDctx> context(ZSTD_createDCtx());
  if (!context) return false;
  ZSTD_inBuffer in{from.data(), from.size(), 0};
  ZSTD_outBuffer out{into.data(), into.size(), 0};
  // Each turn consumes or produces, or the data is damaged: no loop without end.
  while (out.pos < out.size) {
    const std::size_t before = in.pos + out.pos;
    const std::size_t result = ZSTD_decompressStream(context.get(), &out, &in);
    if (ZSTD_isError(result)) return false;
    if (in.pos + out.pos == before) return false;
  }
  return true;
}

std::size_t zstd_cluster(std::span<const std::byte> from, std::span<std::byte> into) {
  const std::size_t used =
      ZSTD_compress(into.data(), into.size(), from.data(), from.size(), ZSTD_CLEVEL_DEFAULT);
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
