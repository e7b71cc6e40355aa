// Image: what opening reads of the file. All else is read when it is asked for.
#include "block/formats/qcow2/image.h"

#include "block/formats/encryption.h"

namespace blockbed::qcow2 {

Image::Image(Env& env, Storage& file, Storage* data, Backing& backing, Header header,
             MetadataOptions options)
    : env_(env),
      data_(data),
      backing_(backing),
      metadata_(env.executor(), file, data, std::move(header), options),
      in_flight_ended_(env.executor()),
      codecs_(env.executor(), kMaxCodecs) {}

Task<Expected<void>> Image::open() {
  // Whoever opens it has told better.
  if (header().crypt_method != 0) co_return encryption_unsupported();
  BB_CO_TRY(co_await metadata_.open());
  if (header().snapshot_count == 0) co_return Expected<void>();
  auto table = co_await load_snapshots(metadata_.file(), header());
  if (!table) co_return fail(std::move(table).error());
  snapshots_ = std::move(*table);
  co_return Expected<void>();
}

}  // namespace blockbed::qcow2
