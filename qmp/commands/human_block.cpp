#include "qmp/commands/human_block.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "block/graph/backend.h"
#include "block/jobs/block_job.h"
#include "qmp/commands/block_report.h"
#include "qmp/commands/human_commit.h"
#include "qmp/commands/human_jobs.h"
#include "qmp/commands/snapshot_text.h"
#include "qmp/monitor/monitor.h"

namespace blockbed {

namespace {

using Human = Task<Expected<void>>;

std::string image_text(const schema::ImageInfo& image) {
  std::string text = fmt::format(
      "image: {}\nfile format: {}\nvirtual size: {} ({} bytes)\ndisk size: {}\n", image.filename,
      image.format, human_size(static_cast<uint64_t>(image.virtual_size)), image.virtual_size,
      image.actual_size ? human_size(static_cast<uint64_t>(*image.actual_size))
                        : std::string("unavailable"));
  if (image.encrypted.value_or(false)) text += "encrypted: yes\n";
  if (image.cluster_size) text += fmt::format("cluster_size: {}\n", *image.cluster_size);
  if (image.dirty_flag.value_or(false)) text += "cleanly shut down: no\n";
  if (image.backing_filename) {
    text += fmt::format("backing file: {}", *image.backing_filename);
    if (!image.full_backing_filename) {
      text += " (cannot determine actual path)";
    } else if (*image.full_backing_filename != *image.backing_filename) {
      text += fmt::format(" (actual path: {})", *image.full_backing_filename);
    }
    text += "\n";
    if (image.backing_filename_format)
      text += fmt::format("backing file format: {}\n", *image.backing_filename_format);
  }
  if (image.snapshots) {
    text += "Snapshot list:\n" + snapshot_head();
    for (const schema::SnapshotInfo& snapshot : *image.snapshots) text += snapshot_line(snapshot);
  }
  if (image.format_specific) {
    text += "Format specific information:\n" +
            qemu_io::format_specific_text(to_json(*image.format_specific), 1);
  }
  return text;
}

// `info` null: a node as such; `inserted` null: a drive without medium.
std::string block_text(const schema::BlockInfo* info, const schema::BlockDeviceInfo* inserted,
                       bool verbose) {
  std::string text;
  if (info != nullptr && !info->device.empty()) {
    text += info->device;
    if (inserted != nullptr && inserted->node_name)
      text += fmt::format(" ({})", *inserted->node_name);
  } else if (inserted != nullptr && inserted->node_name) {
    text += *inserted->node_name;
  } else {
    text += info != nullptr && info->qdev ? *info->qdev : "<anonymous>";
  }
  if (inserted != nullptr) {
    text +=
        fmt::format(": {} ({}{}{})\n", inserted->file, inserted->drv,
                    inserted->ro ? ", read-only" : "", inserted->encrypted ? ", encrypted" : "");
  } else {
    text += ": [not inserted]\n";
  }
  if (info != nullptr) {
    if (info->io_status && *info->io_status != schema::BlockDeviceIoStatus::kOk) {
      text += fmt::format("    I/O status:       {}\n", name(*info->io_status));
    }
    if (info->qdev) text += fmt::format("    Attached to:      {}\n", *info->qdev);
    if (info->removable) {
      text += fmt::format("    Removable device: {}locked, tray {}\n", info->locked ? "" : "not ",
                          info->tray_open.value_or(false) ? "open" : "closed");
    }
  }
  if (inserted == nullptr) return text;
  text += fmt::format(
      "    Cache mode:       {}{}{}\n", inserted->cache.writeback ? "writeback" : "writethrough",
      inserted->cache.direct ? ", direct" : "", inserted->cache.no_flush ? ", ignore flushes" : "");
  if (inserted->backing_file) {
    text += fmt::format("    Backing file:     {} (chain depth: {})\n", *inserted->backing_file,
                        inserted->backing_file_depth);
  }
  if (inserted->detect_zeroes != schema::BlockdevDetectZeroesOptions::kOff) {
    text += fmt::format("    Detect zeroes:    {}\n", name(inserted->detect_zeroes));
  }
  if (inserted->group) {
    const schema::BlockDeviceInfo& i = *inserted;
    text += fmt::format(
        "    I/O throttling:   bps={} bps_rd={} bps_wr={} bps_max={} bps_rd_max={} bps_wr_max={} "
        "iops={} iops_rd={} iops_wr={} iops_max={} iops_rd_max={} iops_wr_max={} iops_size={} "
        "group={}\n",
        i.bps, i.bps_rd, i.bps_wr, i.bps_max.value_or(0), i.bps_rd_max.value_or(0),
        i.bps_wr_max.value_or(0), i.iops, i.iops_rd, i.iops_wr, i.iops_max.value_or(0),
        i.iops_rd_max.value_or(0), i.iops_wr_max.value_or(0), i.iops_size.value_or(0), *i.group);
  }
  if (verbose) {
    text += "\nImages:\n";
    const schema::ImageInfo* image = &inserted->image;
    while (true) {
      text += image_text(*image);
      if (!image->backing_image) break;
      image = &**image->backing_image;
    }
  }
  return text;
}

Human info_block(HumanContext& context, Graph& graph, const DeviceDirectory& devices,
                 HumanArguments arguments) {
  const bool nodes_only = arguments.flag("n");
  const bool verbose = arguments.flag("v");
  const bool any = !arguments.has("device");
  const std::string wanted = arguments.text("device");
  bool printed = false, first = true;
  // As for query-block: nobody changes the graph in between.
  const MutexGuard lock = co_await graph.lock();
  if (!nodes_only) {
    for (const Backend* backend : std::vector<Backend*>(graph.backends())) {
      if (!is_visible(*backend, devices)) continue;
      const schema::BlockInfo info = co_await block_info(*backend, devices);
      const bool is_first = std::exchange(first, false);
      if (!any && info.device != wanted) continue;
      if (!is_first) context.print("\n");
      context.print(block_text(&info, info.inserted ? &*info.inserted : nullptr, verbose));
      printed = true;
    }
  }
  if ((any && !nodes_only) || printed) co_return Expected<void>();
  first = true;
  for (Node* node : graph.nodes()) {
    const bool is_first = std::exchange(first, false);
    if (!any && node->name() != wanted) continue;
    if (!is_first) context.print("\n");
    const schema::BlockDeviceInfo info = co_await block_device_info(*node, nullptr, false);
    context.print(block_text(nullptr, &info, verbose));
  }
  co_return Expected<void>();
}

void info_block_jobs(HumanContext& context, JobRegistry& jobs) {
  bool any = false;
  for (const auto& job : jobs.jobs()) {
    if (!job->is_block_job()) continue;
    any = true;
    const auto& block_job = static_cast<const BlockJob&>(*job);
    const std::string head = job->type() == "stream"
                                 ? fmt::format("Streaming device {}", job->id())
                                 : fmt::format("Type {}, device {}", job->type(), job->id());
    context.print(fmt::format("{}: Completed {} of {} bytes, speed limit {} bytes/s\n", head,
                              job->progress().done, job->progress().total(), block_job.speed()));
  }
  if (!any) context.print("No active jobs\n");
}

void info_block_stats(HumanContext& context, Graph& graph, const DeviceDirectory& devices) {
  for (Backend* backend : graph.backends()) {
    if (!is_visible(*backend, devices)) continue;
    const schema::BlockStats stats = root_stats(*backend, devices);
    const schema::BlockDeviceStats& s = stats.stats;
    context.print(fmt::format(
        "{}: rd_bytes={} wr_bytes={} rd_operations={} wr_operations={} flush_operations={} "
        "wr_total_time_ns={} "
        "rd_total_time_ns={} flush_total_time_ns={} rd_merged={} wr_merged={} idle_time_ns={}\n",
        backend->name(), s.rd_bytes, s.wr_bytes, s.rd_operations, s.wr_operations,
        s.flush_operations, s.wr_total_time_ns, s.rd_total_time_ns, s.flush_total_time_ns,
        s.rd_merged, s.wr_merged, s.idle_time_ns.value_or(0)));
  }
}

}  // namespace

std::string human_size(uint64_t bytes) {
  static constexpr const char* kUnits[] = {"", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"};
  // The unit changes at 1000, not at 1024, so that no number has four digits.
  int exponent = 0;
  (void)std::frexp(static_cast<double>(bytes) / (1000.0 / 1024.0), &exponent);
  const int unit = exponent <= 0 ? 0 : (exponent - 1) / 10;
  const double value = static_cast<double>(bytes) / std::pow(1024.0, unit);
  return fmt::format("{:.3g} {}B", value, kUnits[unit]);
}

QemuIoRequests::QemuIoRequests(Graph& graph, const DeviceDirectory& devices, Monitor& monitor,
                               qemu_io::Runner::Print warn)
    : graph_(graph),
      devices_(devices),
      print_([&monitor](std::string_view text) { monitor.print(text); }),
      warn_(std::move(warn)),
      runner_(graph, print_, warn_) {}

QemuIoRequests::~QemuIoRequests() = default;

Task<Expected<void>> QemuIoRequests::run(std::string target, std::string line, bool by_qdev,
                                         std::string& complaints) {
  Backend* backend = by_qdev ? devices_.backend_of(target) : graph_.find_backend(target);
  if (backend != nullptr) {
    co_await runner_.run(*backend, std::move(line), complaints);
    co_return Expected<void>();
  }
  if (by_qdev)
    co_return fail(ErrorClass::kDeviceNotFound, fmt::format("Device '{}' not found", target));
  Node* node = graph_.find_node(target);
  if (node == nullptr)
    co_return fail(fmt::format("Cannot find device='' nor node-name='{}'", target));

  // A node is reached through a root of its own, which waits for what it began, and for nothing
  // that others did, before it goes.
  const NodeRef keep(*node);
  Backend own(graph_, "", {Permissions::none(), Permissions::all()});
  if (auto inserted = own.insert(*node); !inserted) co_return inserted;
  qemu_io::Runner runner(graph_, print_, warn_);
  if (silent_breakpoints_) runner.silence_breakpoints();
  co_await runner.run(own, std::move(line), complaints);
  co_await runner.finish();
  co_await own.release();
  co_return Expected<void>();
}

void QemuIoRequests::silence_breakpoints() {
  silent_breakpoints_ = true;
  runner_.silence_breakpoints();
}

Task<void> QemuIoRequests::finish() { co_await runner_.finish(); }

void register_human_block_commands(HumanTable& human, Graph& graph, JobRegistry& jobs,
                                   const DeviceDirectory& devices, QemuIoRequests& requests) {
  human.add({.name = "qemu-io",
             .arguments = {{"d", HumanKind::kFlag},
                           {"device", HumanKind::kBlockDevice},
                           {"command", HumanKind::kString}},
             .parameters = "[-d] [device] \"[command]\"",
             .help = "run a qemu-io command on a device, or on the device of that qdev id with -d",
             .run = [&requests](HumanContext& context, HumanArguments arguments) -> Human {
               std::string complaints;
               auto done =
                   co_await requests.run(arguments.text("device"), arguments.text("command"),
                                         arguments.flag("d"), complaints);
               context.print(complaints);
               co_return done;
             }});
  register_human_commit(human, graph);
  register_human_job_commands(human);
  human.add({.name = "block_resize",
             .arguments = {{"device", HumanKind::kBlockDevice}, {"size", HumanKind::kSize}},
             .parameters = "device size",
             .help = "change the size of a device's image",
             .run = [](HumanContext& context, HumanArguments arguments) {
               return context.run("block_resize", {{"device", arguments.text("device")},
                                                   {"size", arguments.size("size")}});
             }});
  human.add_info(
      {.name = "block",
       .arguments = {{"n", HumanKind::kFlag},
                     {"v", HumanKind::kFlag},
                     {"device", HumanKind::kBlockDevice, true}},
       .parameters = "[-n] [-v] [device]",
       .help = "one device or all of them (-n: nodes; -v: their images too)",
       .run = [&graph, &devices](HumanContext& context, HumanArguments arguments) -> Human {
         co_return co_await info_block(context, graph, devices, std::move(arguments));
       }});
  for (const std::string_view name : {"block-jobs", "jobs"}) {
    human.add_info({.name = name,
                    .arguments = {},
                    .parameters = "",
                    .help = "how far block jobs are",
                    .run = [&jobs](HumanContext& context, HumanArguments) -> Human {
                      info_block_jobs(context, jobs);
                      co_return Expected<void>();
                    }});
  }
  human.add_info({.name = "blockstats",
                  .arguments = {},
                  .parameters = "",
                  .help = "what devices read and wrote",
                  .run = [&graph, &devices](HumanContext& context, HumanArguments) -> Human {
                    info_block_stats(context, graph, devices);
                    co_return Expected<void>();
                  }});
}

}  // namespace blockbed
