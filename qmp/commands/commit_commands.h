// block-commit.
//
// Contract: the checks and texts of QEMU 7.2, in its order. A layer that somebody writes to, and
// the topmost one always, is committed by a mirror (block/jobs/mirror.h), every other by a commit
// (block/jobs/commit.h). Threading: engine thread.
#pragma once

#include "block/jobs/job_registry.h"
#include "qmp/monitor/command_table.h"

namespace blockbed {

void register_commit_commands(CommandTable& commands, Graph& graph, JobRegistry& jobs);

}  // namespace blockbed
