// qemu-io's reopen: other options for the node of a backend, which keeps all others.
//
// Errors: QEMU's texts. Threading: engine thread only.
#pragma once

#include "block/graph/backend.h"
#include "qmp/commands/qemu_io_text.h"

namespace blockbed::qemu_io {

// -r, -w, -c MODE, -o OPTIONS as a command line has them. A backend whose node becomes read-only
// gives up writing.
Task<Expected<void>> reopen_as_told(Graph& graph, Backend& backend, Arguments arguments);

}  // namespace blockbed::qemu_io
