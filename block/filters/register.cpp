#include "block/filters/register.h"

#include "block/filters/blkdebug.h"
#include "block/filters/blklogwrites.h"
#include "block/filters/blkverify.h"
#include "block/filters/compress.h"
#include "block/filters/copy_before_write.h"
#include "block/filters/copy_on_read.h"
#include "block/filters/preallocate.h"
#include "block/filters/quorum.h"
#include "block/filters/snapshot_access.h"
#include "block/filters/throttle.h"
#include "block/graph/graph.h"
#include "block/graph/option_text.h"

namespace blockbed {

namespace {

using ReadText = decltype(DriverEntry::read_text);

template <class Filter>
void add_filter(DriverRegistry& registry, ReadText read_text = nullptr) {
  DriverEntry entry;
  entry.name = Filter::kName;
  entry.is_filter = true;
  entry.open = Filter::open;
  entry.read_text = read_text;
  registry.add(std::move(entry));
}

}  // namespace

void register_filters(DriverRegistry& registry) {
  add_filter<Blklogwrites>(
      registry, [](json::Object& options) { return read_size_text(options, {"log-sector-size"}); });
  add_filter<Compress>(registry);
  add_filter<CopyBeforeWrite>(registry);
  add_filter<CopyOnRead>(registry);
  add_filter<Preallocate>(registry, [](json::Object& options) {
    return read_size_text(options, {"prealloc-align", "prealloc-size"});
  });
  add_filter<Quorum>(registry);
  add_filter<Throttle>(registry);

  DriverEntry snapshot_access;
  snapshot_access.name = SnapshotAccess::kName;
  snapshot_access.open = SnapshotAccess::open;
  registry.add(std::move(snapshot_access));

  DriverEntry blkdebug;
  blkdebug.name = Blkdebug::kName;
  blkdebug.is_filter = true;
  blkdebug.is_protocol = true;
  blkdebug.protocol_names = {"blkdebug"};
  blkdebug.named_child = "image";
  blkdebug.parse_filename = Blkdebug::parse_filename;
  blkdebug.open = Blkdebug::open;
  blkdebug.read_text = [](json::Object& options) {
    return read_size_text(options, {"align", "max-transfer", "opt-write-zero", "max-write-zero",
                                    "opt-discard", "max-discard"});
  };
  registry.add(std::move(blkdebug));

  DriverEntry blkverify;
  blkverify.name = Blkverify::kName;
  blkverify.is_filter = true;
  blkverify.is_protocol = true;
  blkverify.protocol_names = {"blkverify"};
  blkverify.named_child = "test";
  blkverify.parse_filename = Blkverify::parse_filename;
  blkverify.open = Blkverify::open;
  registry.add(std::move(blkverify));
}

}  // namespace blockbed
