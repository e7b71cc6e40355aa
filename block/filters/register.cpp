#include "block/filters/register.h"

#include "block/filters/blkdebug.h"
#include "block/filters/copy_before_write.h"
#include "block/filters/copy_on_read.h"
#include "block/filters/throttle.h"
#include "block/graph/graph.h"

namespace blockbed {

void register_filters(DriverRegistry& registry) {
  DriverEntry copy_before_write;
  copy_before_write.name = CopyBeforeWrite::kName;
  copy_before_write.is_filter = true;
  copy_before_write.open = CopyBeforeWrite::open;
  registry.add(std::move(copy_before_write));

  DriverEntry copy_on_read;
  copy_on_read.name = CopyOnRead::kName;
  copy_on_read.is_filter = true;
  copy_on_read.open = CopyOnRead::open;
  registry.add(std::move(copy_on_read));

  DriverEntry blkdebug;
  blkdebug.name = Blkdebug::kName;
  blkdebug.is_filter = true;
  blkdebug.is_protocol = true;
  blkdebug.protocol_names = {"blkdebug"};
  blkdebug.named_child = "image";
  blkdebug.parse_filename = Blkdebug::parse_filename;
  blkdebug.open = Blkdebug::open;
  registry.add(std::move(blkdebug));

  DriverEntry throttle;
  throttle.name = Throttle::kName;
  throttle.is_filter = true;
  throttle.open = Throttle::open;
  registry.add(std::move(throttle));
}

}  // namespace blockbed
