#include "qmp/server/image_check.h"

#include <fmt/format.h>

#include <array>
#include <map>
#include <ranges>
#include <set>
#include <utility>

#include "block/formats/qcow2/bitmaps.h"
#include "block/formats/qcow2/graph_storage.h"
#include "block/formats/qcow2/open.h"
#include "block/formats/qcow2/options.h"
#include "block/formats/qcow2/repair.h"
#include "block/graph/filename.h"
#include "block/graph/request.h"
#include "qmp/schema/json_write.h"
#include "qmp/server/image_tool.h"
#include "qmp/server/messages.h"

namespace blockbed::server {

namespace {

constexpr int kCorruptions = 2;
constexpr int kLeaks = 3;
constexpr int kNoCheck = 63;

// Faults that --explain tells of; the totals have all.
constexpr std::size_t kMaxExplained = 4096;

constexpr std::array<ToolOption, 11> kOptions = {{
    {'h', "help", false},
    {'f', "format", true},
    {'r', "repair", true},
    {'T', "source-cache", true},
    {'q', "quiet", false},
    {'U', "force-share", false},
    {0, "output", true},
    {0, "image-opts", false},
    {0, "explain", false},
    {0, "object", true},
    kDenyImageReferences,
}};

constexpr std::string_view kUsage =
    "Usage: {} check [options] IMAGE\n"
    "Looks for faults in an image, and repairs them if asked to.\n"
    "\n"
    "  -f, --format FMT       the format of the image; looked for when not given\n"
    "  --image-opts           IMAGE is driver=qcow2,file.filename=... instead of a file name\n"
    "  -r, --repair leaks     give back what nothing refers to\n"
    "  -r, --repair all       repair all that can be repaired\n"
    "  --output human|json\n"
    "  --explain              each fault with its class, its place and who refers to it\n"
    "  -U, --force-share      the image may be in use\n"
    "  -T, --source-cache M   taken as qemu-img takes it, and of no effect\n"
    "  -q, --quiet            no report\n"
    "  --deny-image-references\n"
    "                         open no file because an image names it\n"
    "\n"
    "Status: 0 no errors, 1 the check could not be done, 2 corruptions, 3 leaks only,\n"
    "63 the format has no check.\n";

struct Request {
  ImageName image;
  qcow2::Repair repair = qcow2::Repair::kNone;
  bool json = false;
  bool quiet = false;
  bool force_share = false;
  bool deny_image_references = false;
  bool explain = false;
};

struct Fault {
  qcow2::CheckFinding finding;
  std::vector<std::string> referrers;
};

// Nothing: it was said why.
std::optional<Request> read_request(const ToolArguments& arguments) {
  Request request;
  auto output = read_tool_output(arguments);
  if (!output) return std::nullopt;
  request.json = *output;
  if (const std::string* repair = arguments.value("repair")) {
    if (*repair != "leaks" && *repair != "all") {
      usage_error(
          fmt::format("Unknown option value for -r (expecting 'leaks' or 'all'): {}", *repair));
      return std::nullopt;
    }
    request.repair = *repair == "all" ? qcow2::Repair::kAll : qcow2::Repair::kLeaks;
  }
  auto image = read_image_name(arguments);
  if (!image) return std::nullopt;
  request.image = *std::move(image);
  if (arguments.names.size() != 1) {
    usage_error("Expecting one image file name");
    return std::nullopt;
  }
  if (const std::string* cache = arguments.value("source-cache")) {
    if (!check_cache_mode("source cache", *cache)) return std::nullopt;
  }
  request.quiet = arguments.has("quiet");
  request.force_share = arguments.has("force-share");
  request.deny_image_references = arguments.has(kDenyImageReferences.name);
  request.explain = arguments.has("explain");
  return request;
}

// --- output

json::Object fault_object(const Fault& fault) {
  json::Object object;
  object.set("class", std::string(qcow2::fault_class_name(fault.finding.fault)));
  if (fault.finding.offset != UINT64_MAX) object.set("offset", fault.finding.offset);
  object.set("text", fault.finding.text);
  json::Array by;
  for (const std::string& referrer : fault.referrers) by.push_back(referrer);
  object.set("referred-to-by", std::move(by));
  return object;
}

std::string json_report(const Request& request, const std::string& format,
                        const qcow2::CheckReport& report, const std::vector<Fault>& faults) {
  json::Object object;
  const auto unless_zero = [&](std::string_view name, uint64_t value) {
    if (value != 0) object.set(std::string(name), value);
  };
  // In qemu-img's order.
  unless_zero("image-end-offset", report.image_end_offset);
  unless_zero("compressed-clusters", report.compressed_clusters);
  unless_zero("total-clusters", report.total_clusters);
  unless_zero("corruptions", report.corruptions);
  unless_zero("corruptions-fixed", report.corruptions_fixed);
  object.set("check-errors", report.check_errors);
  unless_zero("leaks", report.leaks);
  unless_zero("leaks-fixed", report.leaks_fixed);
  unless_zero("allocated-clusters", report.allocated_clusters);
  object.set("filename", request.image.text);
  object.set("format", format);
  unless_zero("fragmented-clusters", report.fragmented_clusters);
  if (request.explain) {
    json::Array list;
    for (const Fault& fault : faults) list.push_back(fault_object(fault));
    object.set("faults", std::move(list));
  }
  std::string text;
  json::write_pretty(text, object);
  return text + "\n";
}

std::string human_report(const qcow2::CheckReport& report) {
  std::string text;
  if (report.clean()) {
    text = "No errors were found on the image.\n";
  } else {
    if (report.corruptions > 0) {
      text += fmt::format(
          "\n{} errors were found on the image.\n"
          "Data may be corrupted, or further writes to the image may corrupt it.\n",
          report.corruptions);
    }
    if (report.leaks > 0) {
      text += fmt::format(
          "\n{} leaked clusters were found on the image.\n"
          "This means waste of disk space, but no harm to data.\n",
          report.leaks);
    }
    if (report.check_errors > 0) {
      text += fmt::format("\n{} internal errors have occurred during the check.\n",
                          report.check_errors);
    }
  }
  if (report.total_clusters != 0 && report.allocated_clusters != 0) {
    const double allocated = static_cast<double>(report.allocated_clusters);
    text +=
        fmt::format("{}/{} = {:.2f}% allocated, {:.2f}% fragmented, {:.2f}% compressed clusters\n",
                    report.allocated_clusters, report.total_clusters,
                    allocated * 100.0 / static_cast<double>(report.total_clusters),
                    static_cast<double>(report.fragmented_clusters) * 100.0 / allocated,
                    static_cast<double>(report.compressed_clusters) * 100.0 / allocated);
  }
  if (report.image_end_offset > 0) {
    text += fmt::format("Image end offset: {}\n", report.image_end_offset);
  }
  return text;
}

std::string explanation(const std::vector<Fault>& faults) {
  std::string text;
  for (const Fault& fault : faults) {
    text += fmt::format("{}", qcow2::fault_class_name(fault.finding.fault));
    if (fault.finding.offset != UINT64_MAX) text += fmt::format(" at {:#x}", fault.finding.offset);
    text += ": " + fault.finding.text + "\n";
    for (const std::string& referrer : fault.referrers) {
      text += "    referred to by " + referrer + "\n";
    }
    if (fault.finding.fault == qcow2::FaultClass::kLeak && fault.referrers.empty()) {
      text += "    referred to by nothing\n";
    }
  }
  return text;
}

// --- the check

void tell(const qcow2::CheckFinding& finding) { write_stderr(finding.text + "\n"); }

int check_failed(const qcow2::CheckReport& report, Errno error) {
  if (!report.table_error.empty()) {
    report_error("", report.table_hint.empty() ? report.table_error
                                               : report.table_error + "\n" + report.table_hint);
  }
  report_error("", fmt::format("Check failed: {}", strerror_text(error)));
  return kToolFailed;
}

// Of a wrong count only who was counted, of what lies behind the end only who was not.
bool told_by(qcow2::FaultClass fault, const qcow2::Reference& reference) {
  switch (fault) {
    case qcow2::FaultClass::kOutsideFile:
      return !reference.is_counted;
    case qcow2::FaultClass::kLeak:
    case qcow2::FaultClass::kUncounted:
    case qcow2::FaultClass::kCountTooLow:
    case qcow2::FaultClass::kCountOverflow:
    case qcow2::FaultClass::kUnreadableCount:
      return reference.is_counted;
    default:
      return true;
  }
}

Task<Result<std::vector<Fault>>> explain(qcow2::Storage& file, const qcow2::Header& header) {
  std::vector<Fault> faults;
  std::vector<uint64_t> places;
  qcow2::CheckReport report;
  (void)co_await qcow2::check_image(file, header, report, [&](const qcow2::CheckFinding& finding) {
    if (faults.size() >= kMaxExplained || finding.fault == qcow2::FaultClass::kNote) return;
    faults.push_back(Fault{finding, {}});
    if (finding.offset != UINT64_MAX) places.push_back(finding.offset);
  });
  auto references = co_await qcow2::find_references(file, header, places);
  if (!references) co_return io_error(references.error());
  // Those of a cluster in the order in which they were found.
  std::multimap<uint64_t, const qcow2::Reference*> referrers;
  for (const qcow2::Reference& reference : *references) {
    referrers.emplace(reference.cluster_offset, &reference);
  }
  // Thousands of faults can be of one place, which thousands refer to: they are told once.
  std::set<std::pair<uint64_t, qcow2::FaultClass>> told;
  for (Fault& fault : faults) {
    const uint64_t cluster = fault.finding.offset >> header.cluster_bits << header.cluster_bits;
    if (!told.emplace(cluster, fault.finding.fault).second) continue;
    const auto [first, last] = referrers.equal_range(cluster);
    for (const auto& [_, reference] : std::ranges::subrange(first, last)) {
      if (told_by(fault.finding.fault, *reference)) fault.referrers.push_back(reference->by);
    }
  }
  co_return faults;
}

// What would be said of the options if the image were opened with them.
Expected<void> check_options(const schema::BlockdevOptions& given, const qcow2::Header& header,
                             bool writable) {
  const auto& options = std::get<schema::BlockdevOptionsQcow2>(given.u);
  if (auto parsed = qcow2::parse_options(options, header, writable, true); !parsed) {
    return fail(std::move(parsed).error());
  }
  BB_TRY(qcow2::check_encryption(options, header));
  if (options.data_file && !header.external_data()) {
    return fail("'data-file' can only be set for images with an external data file");
  }
  return {};
}

// Null: there is none, or it is not to be opened. Nothing of it is looked at, but a check of an
// image that cannot be opened would promise too much.
Task<Expected<NodeRef>> open_data_file(ToolGraph& tool, const Request& request,
                                       const StorageOfImage& image, const qcow2::Header& header) {
  if (!header.external_data()) co_return NodeRef();
  Graph::OpenRequest open;
  open.inherited = InheritedOptions();
  open.inherited->flags.read_only = request.repair == qcow2::Repair::kNone;
  open.inherited->flags.force_share = request.force_share;
  if (image.data_file && image.data_file->is_string()) {
    // No node is there that it could mean.
    const std::string& node = image.data_file->as_string();
    co_return fail(std::move(tool.graph().find_device_or_node(node, node)).error());
  }
  if (image.data_file) {
    open.options = image.data_file->as_object();
    open.keyval = open.keep_text = true;
  } else if (request.deny_image_references) {
    co_return NodeRef();
  } else if (!header.data_file_name) {
    co_return fail("'data-file' is required for this image");
  } else if (protocol_of(*header.data_file_name)) {
    // As when it is opened: no image leads to a protocol.
    co_return fail(
        fmt::format("Could not open '{}': {}", *header.data_file_name, strerror_text(ENOENT)));
  } else {
    open.filename = *header.data_file_name;
    open.protocol_only = true;
  }
  auto lock = co_await tool.graph().lock();
  co_return co_await tool.graph().open(std::move(open));
}

Task<int> check_qcow2(ToolGraph& tool, const Request& request, StorageOfImage& image) {
  qcow2::NodeStorage file(*image.storage);
  auto header = co_await qcow2::read_header(file, qcow2::HeaderUse::kChecking);
  Expected<void> usable;
  Expected<NodeRef> data_file;
  if (!header) {
    usable = fail(header.error());
  } else if (header->size > blockbed::kMaxLength) {
    usable = fail(fmt::format("Could not refresh total sector count: {}", strerror_text(EFBIG)));
  } else if (header->l1_offset > blockbed::kMaxLength - uint64_t{header->l1_size} * 8) {
    usable = fail(fmt::format("Could not read L1 table: {}", strerror_text(EIO)));
  } else if (auto options = image.options ? check_options(*image.options, *header,
                                                          request.repair != qcow2::Repair::kNone)
                                          : qcow2::check_encryption({}, *header);
             !options) {
    usable = std::move(options);
  } else if (data_file = co_await open_data_file(tool, request, image, *header); !data_file) {
    usable = fail(data_file.error());
  } else if (auto bitmaps = co_await qcow2::load_directory(file, *header); !bitmaps) {
    usable = fail(bitmaps.error());
  }
  if (!usable) {
    report_error(
        "", fmt::format("Could not open '{}': {}", request.image.text, full_text(usable.error())));
    co_return kToolFailed;
  }
  if (header->bitmaps_inconsistent) {
    report_warning("", qcow2::inconsistent_bitmaps_warning(*header));
    write_stderr(fmt::format("{}\n", qcow2::kInconsistentBitmapsHint));
  }
  std::vector<Fault> faults;
  if (request.explain) {
    auto explained = co_await explain(file, *header);
    if (!explained) co_return check_failed({}, explained.error());
    faults = std::move(*explained);
  }

  qcow2::CheckReport report;
  Result<void> done;
  if (request.repair == qcow2::Repair::kNone) {
    done = co_await qcow2::check_image(file, *header, report, tell);
  } else {
    done = co_await qcow2::repair_image(file, *header, qcow2::RepairOptions(request.repair), report,
                                        tell);
  }
  if (!done) co_return check_failed(report, done.error());
  if (report.leaks_fixed > 0 || report.corruptions_fixed > 0) {
    if (!request.json && !request.quiet) {
      write_stdout(fmt::format(
          "The following inconsistencies were found and repaired:\n\n    {} leaked clusters\n"
          "    {} corruptions\n\nDouble checking the fixed image now...\n",
          report.leaks_fixed, report.corruptions_fixed));
    }
    const qcow2::CheckReport repaired = std::move(report);
    report = {};
    done = co_await qcow2::check_image(file, *header, report, tell);
    if (!done) co_return check_failed(report, done.error());
    report.leaks_fixed = repaired.leaks_fixed;
    report.corruptions_fixed = repaired.corruptions_fixed;
  }
  if (!request.quiet) {
    if (request.json) {
      write_stdout(json_report(request, "qcow2", report, faults));
    } else {
      write_stdout(human_report(report));
      if (request.explain) write_stdout(explanation(faults));
    }
  }
  if (report.check_errors > 0) {
    report_error("", "Check failed");
    co_return kToolFailed;
  }
  if (report.corruptions > 0) co_return kCorruptions;
  co_return report.leaks > 0 ? kLeaks : kToolOk;
}

Task<int> check(ToolGraph& tool, Request request) {
  const bool writable = request.repair != qcow2::Repair::kNone;
  auto opened = co_await tool.open_storage(request.image, writable, request.force_share);
  if (!opened) {
    report_error("", full_text(opened.error()));
    co_return kToolFailed;
  }
  if (opened->format == "qcow2") {
    const int status = co_await check_qcow2(tool, request, *opened);
    auto lock = co_await tool.graph().lock();
    co_await opened->storage->remove();
    co_return status;
  }
  {
    auto lock = co_await tool.graph().lock();
    co_await opened->storage->remove();
  }
  // An image that cannot be opened is told apart from one that has no check.
  if (!request.image.is_options && !request.image.text.starts_with("json:")) {
    request.image.format = opened->format;
  }
  {
    auto image = co_await tool.open_image(request.image, false, request.force_share);
    if (!image) {
      report_error("", full_text(image.error()));
      co_return kToolFailed;
    }
  }
  report_error("", "This image format does not support checks");
  co_return kNoCheck;
}

}  // namespace

int run_check(const std::vector<std::string>& arguments) {
  auto parsed = parse_tool_arguments(arguments, kOptions, kUsage);
  if (!parsed) return parsed.error();
  ToolGraph tool(*parsed);
  if (auto made = tool.make_objects(*parsed); !made) return made.error();
  auto request = read_request(*parsed);
  if (!request) return kToolFailed;
  return tool.run([&request](ToolGraph& graph) { return check(graph, *request); });
}

}  // namespace blockbed::server
