// Run-time options of a qcow2 node: BlockdevOptionsQcow2 to what the engine needs.
//
// Units: bytes as the options have them; pieces for the caches. Errors: texts of QEMU.
// Threading: pure functions.
// Source: rules of QEMU for cache sizes (docs/qcow2-cache.txt), its texts, its defaults.
#pragma once

#include "block/formats/qcow2/header.h"
#include "block/formats/qcow2/metadata.h"
#include "qmp/schema/error.h"
#include "qmp/schema/json.h"

namespace blockbed::schema {
struct BlockdevOptionsQcow2;
}

namespace blockbed::qcow2 {

// `unmap`: the node was opened with discard=unmap, which is the default of pass-discard-request.
Expected<MetadataOptions> parse_options(const schema::BlockdevOptionsQcow2& options,
                                        const Header& header, bool writable, bool unmap);

// Why an encrypted image cannot be opened, or one that is not with options of encryption.
Expected<void> check_encryption(const schema::BlockdevOptionsQcow2& options, const Header& header);

// Options of -drive are text with rules of their own (sizes have suffixes): replaced by text that
// the schema reads alike.
Expected<void> read_option_text(json::Object& options);

}  // namespace blockbed::qcow2
