#include "qmp/commands/human_jobs.h"

namespace blockbed {

namespace {

using Human = Task<Expected<void>>;

// A verb that needs to know the device alone.
void add_verb(HumanTable& human, std::string_view name, std::string_view qmp,
              std::string_view help) {
  human.add({.name = name,
             .arguments = {{"device", HumanKind::kBlockDevice}},
             .parameters = "device",
             .help = help,
             .run = [qmp](HumanContext& context, HumanArguments arguments) {
               return context.run(std::string(qmp), {{"device", arguments.text("device")}});
             }});
}

Human block_stream(HumanContext& context, HumanArguments arguments) {
  const std::string device = arguments.text("device");
  json::Object qmp{{"job-id", device}, {"device", device}};
  if (arguments.has("speed")) qmp.set("speed", arguments.size("speed"));
  if (arguments.has("base")) qmp.set("base", arguments.text("base"));
  return context.run("block-stream", std::move(qmp));
}

Human snapshot_blkdev(HumanContext& context, HumanArguments arguments) {
  if (!arguments.has("snapshot-file")) co_return fail("Parameter 'snapshot-file' is missing");
  json::Object qmp{{"device", arguments.text("device")},
                   {"snapshot-file", arguments.text("snapshot-file")},
                   {"mode", arguments.flag("n") ? "existing" : "absolute-paths"}};
  if (arguments.has("format")) qmp.set("format", arguments.text("format"));
  co_return co_await context.run("blockdev-snapshot-sync", std::move(qmp));
}

Human delete_internal_snapshot(HumanContext& context, HumanArguments arguments) {
  json::Object qmp{{"device", arguments.text("device")}, {"name", arguments.text("name")}};
  if (arguments.has("id")) qmp.set("id", arguments.text("id"));
  return context.run("blockdev-snapshot-delete-internal-sync", std::move(qmp));
}

// What a copy of a device to a new image, or to one that is there, says of both.
json::Object copy_to_image(const HumanArguments& arguments) {
  json::Object qmp{{"device", arguments.text("device")},
                   {"target", arguments.text("target")},
                   {"sync", arguments.flag("f") ? "full" : "top"},
                   {"mode", arguments.flag("n") ? "existing" : "absolute-paths"}};
  if (arguments.has("format")) qmp.set("format", arguments.text("format"));
  return qmp;
}

void add_copies(HumanTable& human) {
  human.add({.name = "drive_backup",
             .arguments = {{"n", HumanKind::kFlag},
                           {"f", HumanKind::kFlag},
                           {"c", HumanKind::kFlag},
                           {"device", HumanKind::kBlockDevice},
                           {"target", HumanKind::kString},
                           {"format", HumanKind::kString, true}},
             .parameters = "[-n] [-f] [-c] device target [format]",
             .help = "begin to copy a device to a new image (-n: to one that is there; -f: all of "
                     "it and not the top image alone; -c: compressed)",
             .run = [](HumanContext& context, HumanArguments arguments) {
               json::Object qmp = copy_to_image(arguments);
               qmp.set("compress", arguments.flag("c"));
               return context.run("drive-backup", std::move(qmp));
             }});
  human.add({.name = "drive_mirror",
             .arguments = {{"n", HumanKind::kFlag},
                           {"f", HumanKind::kFlag},
                           {"device", HumanKind::kBlockDevice},
                           {"target", HumanKind::kString},
                           {"format", HumanKind::kString, true}},
             .parameters = "[-n] [-f] device target [format]",
             .help =
                 "begin to mirror a device to a new image (-n: to one that is there; -f: all of "
                 "it and not the top image alone)",
             .run = [](HumanContext& context, HumanArguments arguments) {
               return context.run("drive-mirror", copy_to_image(arguments));
             }});
}

void add_jobs(HumanTable& human) {
  human.add({.name = "block_stream",
             .arguments = {{"device", HumanKind::kBlockDevice},
                           {"speed", HumanKind::kSize, true},
                           {"base", HumanKind::kString, true}},
             .parameters = "device [speed [base]]",
             .help = "bring the data of backing files up into a device's image",
             .run = block_stream});
  human.add({.name = "block_job_set_speed",
             .arguments = {{"device", HumanKind::kBlockDevice}, {"speed", HumanKind::kSize}},
             .parameters = "device speed",
             .help = "limit the speed of a block job",
             .run = [](HumanContext& context, HumanArguments arguments) {
               return context.run("block-job-set-speed", {{"device", arguments.text("device")},
                                                          {"speed", arguments.size("speed")}});
             }});
  human.add({.name = "block_job_cancel",
             .arguments = {{"f", HumanKind::kFlag}, {"device", HumanKind::kBlockDevice}},
             .parameters = "[-f] device",
             .help = "end a block job without its result (-f: also one that is ready)",
             .run = [](HumanContext& context, HumanArguments arguments) {
               return context.run("block-job-cancel", {{"device", arguments.text("device")},
                                                       {"force", arguments.flag("f")}});
             }});
  add_verb(human, "block_job_complete", "block-job-complete", "end a block job that is ready");
  add_verb(human, "block_job_pause", "block-job-pause", "pause a block job");
  add_verb(human, "block_job_resume", "block-job-resume", "let a paused block job go on");
}

void add_snapshots(HumanTable& human) {
  human.add({.name = "snapshot_blkdev",
             .arguments = {{"n", HumanKind::kFlag},
                           {"device", HumanKind::kBlockDevice},
                           {"snapshot-file", HumanKind::kString, true},
                           {"format", HumanKind::kString, true}},
             .parameters = "[-n] device [new-image-file] [format]",
             .help = "put a new image over that of a device (-n: one that is there already)",
             .run = snapshot_blkdev});
  human.add({.name = "snapshot_blkdev_internal",
             .arguments = {{"device", HumanKind::kBlockDevice}, {"name", HumanKind::kString}},
             .parameters = "device name",
             .help = "make a snapshot within a device's image",
             .run = [](HumanContext& context, HumanArguments arguments) {
               return context.run(
                   "blockdev-snapshot-internal-sync",
                   {{"device", arguments.text("device")}, {"name", arguments.text("name")}});
             }});
  human.add({.name = "snapshot_delete_blkdev_internal",
             .arguments = {{"device", HumanKind::kBlockDevice},
                           {"name", HumanKind::kString},
                           {"id", HumanKind::kString, true}},
             .parameters = "device name [id]",
             .help = "delete a snapshot within a device's image",
             .run = delete_internal_snapshot});
}

}  // namespace

void register_human_job_commands(HumanTable& human) {
  add_copies(human);
  add_jobs(human);
  add_snapshots(human);
}

}  // namespace blockbed
