#include "qmp/commands/create_commands.h"

#include "block/formats/image_create.h"
#include "block/jobs/create.h"
#include "block/protocols/file_create.h"
#include "qmp/monitor/command_context.h"
#include "schema/blockdev_create.h"

namespace blockbed {

namespace {

namespace c = schema::commands;

// Null when the driver makes no images. The options live as long as the function.
CreateJob::Make maker_of(Graph& graph, const schema::BlockdevCreateOptions& options) {
  if (const auto* file = std::get_if<schema::BlockdevCreateOptionsFile>(&options.u)) {
    return [&graph, file = *file](CreateJob& job) {
      return create_file(graph.env(), file, [&job] { return job.begun(); });
    };
  }
  if (const auto* qcow2 = std::get_if<schema::BlockdevCreateOptionsQcow2>(&options.u)) {
    return [&graph, qcow2 = *qcow2](CreateJob& job) {
      job.begin();
      return create_qcow2_image(graph, qcow2);
    };
  }
  return nullptr;
}

Task<Expected<void>> blockdev_create(Graph& graph, JobRegistry& jobs,
                                     c::BlockdevCreate::Args arguments) {
  CreateJob::Make make = maker_of(graph, arguments.options);
  if (make == nullptr) co_return fail("Driver does not support blockdev-create");
  BB_CO_TRY(jobs.check_id(arguments.job_id));
  const std::shared_ptr<CreateJob> job =
      CreateJob::create(jobs, std::move(arguments.job_id), std::move(make));
  jobs.start(*job);
  co_await jobs.settle(job);
  co_return Expected<void>();
}

}  // namespace

void register_create_commands(CommandTable& commands, Graph& graph, JobRegistry& jobs) {
  commands.implement<c::BlockdevCreate>(
      [&graph, &jobs](CommandContext&, c::BlockdevCreate::Args arguments) {
        return blockdev_create(graph, jobs, std::move(arguments));
      });
}

}  // namespace blockbed
