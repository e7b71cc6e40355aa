#include "qmp/commands/machine_snapshot_commands.h"

#include "block/jobs/one_step.h"
#include "qmp/monitor/command_context.h"
#include "schema/migration.h"

namespace blockbed {

namespace {

namespace c = schema::commands;
using Human = Task<Expected<void>>;

template <class Arguments>
MachineSnapshots::Place place_of(const Arguments& arguments) {
  MachineSnapshots::Place place;
  place.disks = arguments.devices;
  if constexpr (requires { arguments.vmstate; }) place.vmstate = arguments.vmstate;
  return place;
}

using Step = std::function<Task<Expected<void>>()>;

Task<Expected<void>> in_job(OneStepJob& job, Step step) {
  co_await job.begun();
  co_return co_await step();
}

Task<Expected<void>> start(JobRegistry& jobs, std::string_view type, std::string id, Step step) {
  return OneStepJob::start(jobs, type, std::move(id),
                           [step = std::move(step)](OneStepJob& job) { return in_job(job, step); });
}

void add_jobs(CommandTable& commands, JobRegistry& jobs, MachineSnapshots& snapshots) {
  commands.implement<c::SnapshotSave>([&](CommandContext&, c::SnapshotSave::Args arguments) {
    return start(jobs, "snapshot-save", arguments.job_id, [&snapshots, arguments] {
      return snapshots.save(arguments.tag, MachineSnapshots::Existing::kRefuse,
                            place_of(arguments));
    });
  });
  commands.implement<c::SnapshotLoad>([&](CommandContext&, c::SnapshotLoad::Args arguments) {
    return start(jobs, "snapshot-load", arguments.job_id, [&snapshots, arguments] {
      return snapshots.load(arguments.tag, place_of(arguments));
    });
  });
  commands.implement<c::SnapshotDelete>([&](CommandContext&, c::SnapshotDelete::Args arguments) {
    return start(jobs, "snapshot-delete", arguments.job_id, [&snapshots, arguments] {
      return snapshots.remove(arguments.tag, place_of(arguments));
    });
  });
}

void add_human(HumanTable& human, MachineSnapshots& snapshots) {
  human.add({.name = "savevm",
             .arguments = {{"name", HumanKind::kString, true}},
             .parameters = "tag",
             .help = "make a snapshot of the machine; without a tag, one is made up",
             .run = [&snapshots](HumanContext&, HumanArguments arguments) -> Human {
               std::optional<std::string> name;
               if (arguments.has("name")) name = arguments.text("name");
               co_return co_await snapshots.save(std::move(name),
                                                 MachineSnapshots::Existing::kReplace, {});
             }});
  human.add({.name = "loadvm",
             .arguments = {{"name", HumanKind::kString}},
             .parameters = "tag",
             .help = "go back to a snapshot of the machine",
             .run = [&snapshots](HumanContext&, HumanArguments arguments) -> Human {
               co_return co_await snapshots.load(arguments.text("name"), {});
             }});
  human.add({.name = "delvm",
             .arguments = {{"name", HumanKind::kString}},
             .parameters = "tag",
             .help = "delete a snapshot of the machine",
             .run = [&snapshots](HumanContext&, HumanArguments arguments) -> Human {
               co_return co_await snapshots.remove(arguments.text("name"), {});
             }});
  human.add_info({.name = "snapshots",
                  .arguments = {},
                  .parameters = "",
                  .help = "the snapshots of the machine, and those of some disks only",
                  .run = [&snapshots](HumanContext& context, HumanArguments) -> Human {
                    context.print(snapshots.list());
                    co_return Expected<void>();
                  }});
}

}  // namespace

void register_machine_snapshot_commands(CommandTable& commands, HumanTable& human,
                                        JobRegistry& jobs, MachineSnapshots& snapshots) {
  add_jobs(commands, jobs, snapshots);
  add_human(human, snapshots);
}

}  // namespace blockbed
