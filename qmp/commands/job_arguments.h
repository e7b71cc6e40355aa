// What the arguments of the commands that start jobs have in common.
//
// Errors: QEMU's texts. Threading: engine thread.
#pragma once

#include <optional>
#include <string>

#include "block/graph/backend.h"
#include "block/jobs/job.h"
#include "schema/block_base.h"

namespace blockbed {

// `report` by default.
OnError error_policy(const std::optional<schema::BlockdevOnError>& policy);

// job-id, auto-finalize, auto-dismiss: the same names in all of them.
template <class Arguments>
JobParameters job_parameters(const Arguments& arguments) {
  JobParameters parameters;
  parameters.id = arguments.job_id.value_or("");
  parameters.auto_finalize = arguments.auto_finalize.value_or(true);
  parameters.auto_dismiss = arguments.auto_dismiss.value_or(true);
  return parameters;
}

// A device, or a node, that has a medium and that only devices, exports and their like use: "Need a
// root block node".
Expected<Node*> find_root_node(Graph& graph, const std::string& device);

}  // namespace blockbed
