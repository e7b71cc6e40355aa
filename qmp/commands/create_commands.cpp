#include "qmp/commands/create_commands.h"

#include "block/formats/image_amend.h"
#include "block/formats/image_create.h"
#include "block/graph/medium.h"
#include "block/jobs/one_step.h"
#include "block/protocols/file_create.h"
#include "qmp/monitor/command_context.h"
#include "schema/blockdev_create.h"

namespace blockbed {

namespace {

namespace c = schema::commands;

// Null when the driver makes no images. The options live as long as the function.
OneStepJob::Step maker_of(Graph& graph, const schema::BlockdevCreateOptions& options) {
  if (const auto* file = std::get_if<schema::BlockdevCreateOptionsFile>(&options.u)) {
    return [&graph, file = *file](OneStepJob& job) {
      return create_file(graph.env(), file, [&job] { return job.begun(); });
    };
  }
  if (const auto* qcow2 = std::get_if<schema::BlockdevCreateOptionsQcow2>(&options.u)) {
    return [&graph, qcow2 = *qcow2](OneStepJob& job) {
      job.begin();
      return create_qcow2_image(graph, qcow2);
    };
  }
  return nullptr;
}

Task<Expected<void>> blockdev_create(Graph& graph, JobRegistry& jobs,
                                     c::BlockdevCreate::Args arguments) {
  OneStepJob::Step make = maker_of(graph, arguments.options);
  if (make == nullptr) co_return fail("Driver does not support blockdev-create");
  co_return co_await OneStepJob::start(jobs, "create", std::move(arguments.job_id),
                                       std::move(make));
}

Task<Expected<void>> blockdev_amend(Graph& graph, JobRegistry& jobs,
                                    c::XBlockdevAmend::Args arguments) {
  auto found = graph.find_device_or_node(std::nullopt, arguments.node_name);
  if (!found) co_return fail(std::move(found).error());
  Node& node = **found;
  // A node that has lost its medium has no driver for QEMU.
  if (name(arguments.options.driver) != node.driver().name() || lost_its_medium(node)) {
    co_return fail("x-blockdev-amend doesn't support changing the block driver");
  }
  const AmendImage amend = amend_of(node);
  if (amend == nullptr) co_return fail("Driver does not support x-blockdev-amend");
  co_return co_await OneStepJob::start(
      jobs, "amend", std::move(arguments.job_id),
      [amend, kept = NodeRef(node), options = std::move(arguments.options)](OneStepJob& job) {
        job.begin();
        return amend(*kept, options);
      });
}

}  // namespace

void register_create_commands(CommandTable& commands, Graph& graph, JobRegistry& jobs) {
  commands.implement<c::BlockdevCreate>(
      [&graph, &jobs](CommandContext&, c::BlockdevCreate::Args arguments) {
        return blockdev_create(graph, jobs, std::move(arguments));
      });
  commands.implement<c::XBlockdevAmend>(
      [&graph, &jobs](CommandContext&, c::XBlockdevAmend::Args arguments) {
        return blockdev_amend(graph, jobs, std::move(arguments));
      });
}

}  // namespace blockbed
