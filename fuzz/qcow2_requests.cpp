#include "fuzz/qcow2_requests.h"

#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>

#include "block/formats/qcow2/check.h"
#include "block/formats/qcow2/image.h"
#include "block/formats/qcow2/open.h"

namespace blockbed::fuzz {

namespace {

constexpr uint64_t kMostBytes = 64 << 10;
constexpr uint64_t kBackingBytes = 40 << 10;
// Larger images are written to all the same, but not judged.
constexpr uint64_t kMostToCheck = 1 << 20;
constexpr std::size_t kMostSnapshots = 6;

enum class What : uint8_t {
  kRead,
  kWrite,
  kZero,
  kUnmap,
  kDiscard,
  kCompressed,
  kFlush,
  kResize,
  kMakeEmpty,
  kReopen,
  kSnapshot,
  kApply,
  kDelete,
  kVmState,
};
constexpr What kWrites[] = {What::kRead,   What::kWrite,      What::kWrite,   What::kWrite,
                            What::kZero,   What::kUnmap,      What::kDiscard, What::kCompressed,
                            What::kFlush,  What::kCompressed, What::kResize,  What::kMakeEmpty,
                            What::kReopen, What::kSnapshot,   What::kWrite,   What::kDiscard};
constexpr What kSnapshots[] = {What::kRead,     What::kWrite,  What::kCompressed, What::kUnmap,
                               What::kSnapshot, What::kApply,  What::kDelete,     What::kSnapshot,
                               What::kApply,    What::kDelete, What::kVmState,    What::kReopen,
                               What::kResize,   What::kWrite,  What::kFlush,      What::kVmState};

class Session {
 public:
  Session(FuzzEnv& env, FuzzStorage& file, std::span<std::byte> buffer)
      : env_(env), file_(file), buffer_(buffer) {}

  bool failed() const { return failed_; }

  Task<bool> open() {
    auto header = co_await qcow2::read_header(file_, true);
    // No node is so long (it refuses the driver's answer); a data file of its own and an image that
    // was not closed are not for this target.
    if (!header || header->size > kMaxLength || header->external_data() ||
        header->crypt_method != 0 || header->has(qcow2::incompatible::kDirty)) {
      co_return false;
    }
    backing_.emplace(header->backing_name.empty() ? 0 : kBackingBytes);
    qcow2::MetadataOptions options;
    options.writable = true;
    options.l2_pieces = 4;
    options.refcount_pieces = 4;
    options.l2_piece_bytes = 512;
    options.lazy_refcounts = (header->compatible_features & qcow2::compatible::kLazyRefcounts) != 0;
    options.overlap_checks = qcow2::overlap::kAll;
    options.reuse_bytes = 3 << header->cluster_bits;
    image_.emplace(env_, file_, nullptr, *backing_, std::move(*header), options);
    if (co_await image_->open()) co_return true;
    image_.reset();
    co_return false;
  }

  Task<void> send(std::span<const uint8_t> requests, RequestMix mix) {
    for (; requests.size() >= kRequestBytes && image_; requests = requests.subspan(kRequestBytes)) {
      const What what =
          mix == RequestMix::kWrites ? kWrites[requests[0] % 16] : kSnapshots[requests[0] % 16];
      co_await send_one(what, requests[0] >> 4, requests[1] << 8 | requests[2], requests[3]);
      if (print_) co_await print(what, requests);
    }
    if (image_) co_await close();
  }

 private:
  template <class Answer>
  void account(const Answer& answer) {
    if (!answer) failed_ = true;
  }
  void account(const Result<void>& answer) {
    if (!answer && answer.error().number() != ENOTSUP) failed_ = true;
  }
  // For people who look at a finding.
  Task<void> print(What what, std::span<const uint8_t> request) {
    if (image_) (void)co_await image_->flush();
    auto header = co_await qcow2::read_header(file_, qcow2::HeaderUse::kChecking);
    if (!header) co_return;
    auto report = co_await qcow2::check_image(file_, *header);
    std::fprintf(stderr, "request %d, %d at %d: disk %llu, failed %d: %s\n", static_cast<int>(what),
                 request[3], request[1] << 8 | request[2],
                 static_cast<unsigned long long>(header->size), failed_,
                 report ? report->describe().c_str() : "cannot be checked");
  }
  Task<void> close() {
    account(co_await image_->close());
    image_.reset();
  }

  Task<void> send_one(What what, uint64_t fine, uint64_t place, uint64_t amount) {
    qcow2::Image& image = *image_;
    const uint64_t length = image.length();
    const uint64_t cluster = image.geometry().cluster_size;
    // Sectors from the beginning, or a part of the whole: small and large disks.
    uint64_t offset = fine % 2 == 0 ? place * 512 : length / 65536 * place;
    if (length > 0) offset %= length;
    offset -= offset % (fine % 4 < 2 ? 512 : 1);
    const uint64_t size =
        length == 0 ? 0 : std::min({(amount + 1) * 256, kMostBytes, length - offset});
    switch (what) {
      case What::kFlush:
        co_return account(co_await image.flush());
      case What::kResize: {
        uint64_t target =
            fine < 8 ? length + (amount + 1) * 512 : length - std::min(length, (amount + 1) * 512);
        TruncateOptions options;
        options.zero_new = target > length && backing_->length() > length;
        co_return account(co_await image.truncate(target - target % 512, options));
      }
      case What::kMakeEmpty:
        co_return account(co_await image.make_empty());
      case What::kReopen:
        co_await close();
        (void)co_await open();
        co_return;
      case What::kSnapshot: {
        if (image.snapshots().size() >= kMostSnapshots) co_return;
        qcow2::Snapshot snapshot;
        snapshot.name = "fuzz";
        if (fine % 2 == 1) snapshot.vm_state_size = amount;
        co_return account(co_await image.create_snapshot(std::move(snapshot)));
      }
      case What::kApply:
        if (image.snapshots().empty()) co_return;
        co_return account(co_await image.apply_snapshot(place % image.snapshots().size()));
      case What::kDelete:
        if (image.snapshots().empty()) co_return;
        co_return account(co_await image.delete_snapshot(place % image.snapshots().size()));
      case What::kVmState:
        if (fine % 2 == 1) {
          (void)co_await image.read_vm_state(place, IoVector(buffer_.first(amount + 1)));
          co_return;
        }
        co_return account(
            co_await image.write_vm_state(place, IoVector(buffer_.first(amount + 1))));
      default:
        break;
    }
    if (size == 0) co_return;
    std::span<std::byte> bytes = buffer_.first(size);
    switch (what) {
      case What::kRead:
        (void)co_await image.status(offset, size);
        (void)co_await image.read(offset, IoVector(bytes));
        break;
      case What::kWrite:
        fill(bytes, fine);
        account(co_await image.write(offset, IoVector(bytes)));
        break;
      case What::kCompressed: {
        const uint64_t begin = offset - offset % cluster;
        const uint64_t all = std::min(cluster, length - begin);
        if (all > buffer_.size()) co_return;
        fill(buffer_.first(all), fine);
        account(co_await image.write_compressed(begin, IoVector(buffer_.first(all))));
        break;
      }
      case What::kZero:
        account(co_await image.zero(offset, size, RequestFlags()));
        break;
      case What::kUnmap:
        account(co_await image.zero(offset, size, RequestFlags().with_may_unmap()));
        break;
      case What::kDiscard:
        account(co_await image.discard(offset, size));
        break;
      default:
        break;
    }
  }

  static void fill(std::span<std::byte> bytes, uint64_t kind) {
    uint64_t state = kind + 1;
    for (std::byte& byte : bytes) {
      if (kind % 4 == 3) state = state * 6364136223846793005u + 1442695040888963407u;
      byte = static_cast<std::byte>(state >> 56 ^ kind);
    }
  }

  FuzzEnv& env_;
  FuzzStorage& file_;
  std::span<std::byte> buffer_;
  std::optional<FuzzBacking> backing_;
  std::optional<qcow2::Image> image_;
  bool failed_ = false;
  const bool print_ = std::getenv("BLOCKBED_TRACE") != nullptr;
};

Task<void> write_and_judge(FuzzEnv& env, ImageAndRequests input, RequestMix mix,
                           std::span<std::byte> buffer) {
  FuzzStorage file(input.image);
  bool clean = false;
  if (input.image.size() <= kMostToCheck) {
    clean = co_await clean_before(file);
  }
  Session session(env, file, buffer);
  if (!co_await session.open()) co_return;
  co_await session.send(input.requests, mix);
  if (!clean) co_return;
  const auto after = co_await judge(file);
  // A disk that is full at the wrong moment leaves the dirty bit.
  if (!after && file.was_full()) co_return;
  const bool good = after && after->corruptions == 0 && after->check_errors == 0 &&
                    (after->leaks == 0 || session.failed() || file.was_full());
  if (!good) {
    std::fprintf(stderr, "the image was clean before: %s\n",
                 after ? after->describe().c_str() : "now it cannot be checked");
  }
  BB_ASSERT(good);
}

}  // namespace

Task<std::optional<qcow2::CheckReport>> judge(FuzzStorage& file) {
  auto header = co_await qcow2::read_header(file, qcow2::HeaderUse::kChecking);
  if (!header || header->has(qcow2::incompatible::kDirty)) co_return std::nullopt;
  auto report = co_await qcow2::check_image(file, *header);
  if (!report) co_return std::nullopt;
  co_return std::move(*report);
}

Task<bool> clean_before(FuzzStorage& file) {
  const auto now = co_await judge(file);
  if (!now || !now->clean()) co_return false;
  file.pretend_length(FuzzStorage::kMostBytes);
  const auto grown = co_await judge(file);
  file.pretend_length(0);
  co_return grown && grown->clean();
}

void write_to_image(std::span<const uint8_t> input, RequestMix mix) {
  static FuzzEnv env;
  static std::vector<std::byte> buffer(kMostBytes);
  env.run(write_and_judge(env, split_input(input), mix, buffer));
}

}  // namespace blockbed::fuzz
