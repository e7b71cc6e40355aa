#include "block/formats/image_amend.h"

#include <variant>

#include "block/formats/encryption.h"
#include "block/graph/node.h"
#include "schema/blockdev_create.h"

namespace blockbed {

namespace {

// Nothing of qcow2 can be amended in this way but the keys of its encryption.
Task<Expected<void>> amend_qcow2(Node& node, const schema::BlockdevAmendOptions& options) {
  const auto& own = std::get<schema::BlockdevAmendOptionsQcow2>(options.u);
  if (!own.encrypt) co_return Expected<void>();
  if (!node.driver().encrypted()) co_return fail("image is not encrypted, can't amend");
  co_return encryption_unsupported();
}

}  // namespace

AmendImage amend_of(const Node& node) {
  return node.driver().name() == "qcow2" ? amend_qcow2 : nullptr;
}

}  // namespace blockbed
