#include "block/filters/register.h"

#include "block/filters/copy_before_write.h"
#include "block/graph/graph.h"

namespace blockbed {

void register_filters(DriverRegistry& registry) {
  DriverEntry copy_before_write;
  copy_before_write.name = CopyBeforeWrite::kName;
  copy_before_write.is_filter = true;
  copy_before_write.open = CopyBeforeWrite::open;
  registry.add(std::move(copy_before_write));
}

}  // namespace blockbed
