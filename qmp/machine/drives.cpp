#include "qmp/machine/drives.h"

#include <fmt/format.h>

#include <algorithm>

#include "block/formats/raw.h"
#include "block/graph/activation.h"
#include "block/graph/drive_errors.h"
#include "block/graph/filename.h"
#include "block/graph/graph_change.h"
#include "block/graph/probe.h"
#include "block/graph/throttle_group.h"
#include "block/runtime/env.h"
#include "qmp/commands/cache_mode.h"
#include "qmp/schema/scalar_text.h"

namespace blockbed {

namespace {

struct InterfaceFacts {
  DriveInterface interface;
  std::string_view name;
  // Units on one bus; 0: no limit.
  int units;
};
constexpr InterfaceFacts kInterfaces[] = {
    {DriveInterface::kNone, "none", 0},     {DriveInterface::kIde, "ide", 2},
    {DriveInterface::kScsi, "scsi", 7},     {DriveInterface::kFloppy, "floppy", 0},
    {DriveInterface::kPflash, "pflash", 0}, {DriveInterface::kMtd, "mtd", 0},
    {DriveInterface::kSd, "sd", 0},         {DriveInterface::kVirtio, "virtio", 0},
    {DriveInterface::kXen, "xen", 0},
};

const InterfaceFacts& facts_of(DriveInterface interface) {
  return *std::ranges::find(kInterfaces, interface, &InterfaceFacts::interface);
}

// The path of the plain file whose bytes are seen at this storage, itself or through filters; null
// when there is none.
const std::string* file_seen_through(const DriverRegistry& drivers, const json::Object& storage) {
  const json::Object* node = &storage;
  while (true) {
    const json::Value* driver = node->find("driver");
    if (driver == nullptr || !driver->is_string()) return nullptr;
    const DriverEntry* entry = drivers.find(driver->as_string());
    if (entry == nullptr) return nullptr;
    if (!entry->is_filter && entry->name != RawDriver::kName) {
      const json::Value* path = node->find("filename");
      const bool is_file = (entry->name == "file" || entry->name == "host_device") &&
                           path != nullptr && path->is_string();
      return is_file ? &path->as_string() : nullptr;
    }
    const json::Value* below = nullptr;
    for (const std::string_view child : {"file", "image", "raw"}) {
      if (below == nullptr) below = node->find(child);
    }
    if (below == nullptr || !below->is_object()) return nullptr;
    node = &below->as_object();
  }
}

// Older names of options and what they are called now.
constexpr std::pair<std::string_view, std::string_view> kAliases[] = {
    {"iops", "throttling.iops-total"},
    {"iops_rd", "throttling.iops-read"},
    {"iops_wr", "throttling.iops-write"},
    {"bps", "throttling.bps-total"},
    {"bps_rd", "throttling.bps-read"},
    {"bps_wr", "throttling.bps-write"},
    {"iops_max", "throttling.iops-total-max"},
    {"iops_rd_max", "throttling.iops-read-max"},
    {"iops_wr_max", "throttling.iops-write-max"},
    {"bps_max", "throttling.bps-total-max"},
    {"bps_rd_max", "throttling.bps-read-max"},
    {"bps_wr_max", "throttling.bps-write-max"},
    {"iops_size", "throttling.iops-size"},
    {"group", "throttling.group"},
    {"readonly", "read-only"},
};

Expected<void> rename_aliases(OptionText& options) {
  for (const auto& [older, now] : kAliases) {
    auto value = options.take(older);
    if (!value) continue;
    if (options.has(now)) {
      return fail(
          fmt::format("'{}' and its alias '{}' can't be used at the same time", now, older));
    }
    options.set(std::string(now), std::move(*value));
  }
  return {};
}

Expected<ThrottleLimits> take_throttle(OptionText& options) {
  static constexpr std::pair<std::string_view, ThrottleLimits::Bucket> kBuckets[] = {
      {"bps-total", ThrottleLimits::kBpsTotal}, {"bps-read", ThrottleLimits::kBpsRead},
      {"bps-write", ThrottleLimits::kBpsWrite}, {"iops-total", ThrottleLimits::kIopsTotal},
      {"iops-read", ThrottleLimits::kIopsRead}, {"iops-write", ThrottleLimits::kIopsWrite},
  };
  ThrottleLimits limits;
  const auto number = [&](const std::string& key, auto& out) -> Expected<void> {
    auto value = options.take_number("throttling." + key);
    if (!value) return std::unexpected(std::move(value).error());
    if (*value) out = static_cast<std::remove_cvref_t<decltype(out)>>(**value);
    return {};
  };
  for (const auto& [name, bucket] : kBuckets) {
    BB_TRY(number(std::string(name), limits.buckets[bucket].average));
    BB_TRY(number(fmt::format("{}-max", name), limits.buckets[bucket].maximum));
    BB_TRY(number(fmt::format("{}-max-length", name), limits.buckets[bucket].burst_length));
  }
  BB_TRY(number("iops-size", limits.iops_size));
  BB_TRY(check_throttle_limits(limits));
  return limits;
}

Expected<std::vector<uint32_t>> take_intervals(OptionText& options) {
  static constexpr std::string_view kPrefix = "stats-intervals.";
  std::vector<uint32_t> intervals;
  while (auto text = options.take(fmt::format("{}{}", kPrefix, intervals.size()))) {
    const auto seconds = schema::parse_int64(*text);
    if (!seconds || *seconds <= 0 || *seconds > int64_t{UINT32_MAX}) {
      return fail(fmt::format("Invalid interval length: {}", *text));
    }
    intervals.push_back(static_cast<uint32_t>(*seconds));
  }
  for (const auto& [key, value] : options.items()) {
    if (key.starts_with(kPrefix)) return fail(fmt::format("Invalid option {}", key));
  }
  return intervals;
}

}  // namespace

std::string_view interface_name(DriveInterface interface) { return facts_of(interface).name; }

Expected<OnError> parse_error_action(const std::string& text, bool is_read) {
  if (text == "ignore") return OnError::kIgnore;
  if (text == "enospc" && !is_read) return OnError::kEnospc;
  if (text == "stop") return OnError::kStop;
  if (text == "report") return OnError::kReport;
  return fail(fmt::format("'{}' invalid {} error action", text, is_read ? "read" : "write"));
}

Drives::~Drives() { BB_ASSERT(drives_.empty()); }

Drive* Drives::find(std::string_view name) {
  if (name.empty()) return nullptr;
  const auto found =
      std::ranges::find_if(drives_, [&](const Drive& drive) { return drive.name() == name; });
  return found == drives_.end() ? nullptr : &*found;
}

bool Drives::has_id(std::string_view id) const {
  return std::ranges::find(drives_, id, &Drive::id) != drives_.end();
}

Drive* Drives::of(const Backend& backend) {
  const auto found = std::ranges::find_if(
      drives_, [&](const Drive& drive) { return drive.backend.get() == &backend; });
  return found == drives_.end() ? nullptr : &*found;
}

Drive* Drives::at(DriveInterface interface, int bus, int unit) {
  const auto found = std::ranges::find_if(drives_, [&](const Drive& drive) {
    return drive.interface == interface && drive.bus == bus && drive.unit == unit;
  });
  return found == drives_.end() ? nullptr : &*found;
}

int Drives::units_of(DriveInterface interface) const {
  const int usual = facts_of(interface).units;
  return interface == DriveInterface::kIde ? ide_units_.value_or(usual) : usual;
}

Expected<Drives::Place> Drives::take_place(OptionText& options, DriveInterface default_interface) {
  Place place;
  place.interface = default_interface;
  if (const auto media = options.take("media")) {
    if (*media == "cdrom") {
      place.cdrom = true;
    } else if (*media != "disk") {
      return fail(fmt::format("'{}' invalid media", *media));
    }
  }
  if (const auto name = options.take("if")) {
    const auto found = std::ranges::find(kInterfaces, *name, &InterfaceFacts::name);
    if (found == std::end(kInterfaces))
      return fail(fmt::format("unsupported bus type '{}'", *name));
    place.interface = found->interface;
  }

  auto bus = options.take_number("bus");
  auto unit = options.take_number("unit");
  auto index = options.take_number("index");
  for (const auto* number : {&bus, &unit, &index}) {
    if (!*number) return std::unexpected(number->error());
    // Places are counted in machines' few buses; what is larger cannot be meant.
    if (**number && ***number > INT16_MAX) return fail("unit or index out of range");
  }
  const int units = units_of(place.interface);
  place.bus = static_cast<int>(bus->value_or(0));
  place.unit = *unit ? static_cast<int>(**unit) : -1;
  const int wanted = *index ? static_cast<int>(**index) : -1;
  if (wanted >= 0) {
    if (place.bus != 0 || place.unit != -1) return fail("index cannot be used with bus and unit");
    place.bus = units == 0 ? 0 : wanted / units;
    place.unit = units == 0 ? wanted : wanted % units;
  }
  if (place.unit == -1) {
    place.unit = 0;
    while (at(place.interface, place.bus, place.unit) != nullptr) {
      ++place.unit;
      if (units != 0 && place.unit >= units) {
        place.unit -= units;
        ++place.bus;
      }
    }
  }
  if (units != 0 && place.unit >= units) {
    return fail(fmt::format("unit {} too big (max is {})", place.unit, units - 1));
  }
  if (at(place.interface, place.bus, place.unit) != nullptr) {
    return fail(
        fmt::format("drive with bus={}, unit={} (index={}) exists", place.bus, place.unit, wanted));
  }
  return place;
}

Expected<std::string> Drives::name_for(OptionText& options, const Place& place) const {
  if (auto id = options.take("id")) return std::move(*id);
  const InterfaceFacts& facts = facts_of(place.interface);
  std::string_view media;
  if (place.interface == DriveInterface::kIde || place.interface == DriveInterface::kScsi) {
    media = place.cdrom ? "-cd" : "-hd";
  }
  return facts.units != 0 ? fmt::format("{}{}{}{}", facts.name, place.bus, media, place.unit)
                          : fmt::format("{}{}{}", facts.name, media, place.unit);
}

Task<Expected<Drive*>> Drives::add(OptionText options, DriveInterface default_interface,
                                   std::string location, std::vector<std::string>& warnings) {
  if (const std::string* id = options.find("id"); id != nullptr && has_id(*id)) {
    co_return fail(fmt::format("Duplicate ID '{}' for drive", *id));
  }
  BB_CO_TRY(rename_aliases(options));

  bool writethrough = false;
  if (const auto mode = options.take("cache")) {
    const CacheMode* found = find_cache_mode(*mode);
    if (found == nullptr) co_return fail("invalid cache option");
    // What is said in detail wins.
    const auto set = [&](std::string_view key, bool value) {
      if (!options.has(key)) options.set(std::string(key), value ? "on" : "off");
    };
    set("cache.writeback", !found->writethrough);
    set("cache.direct", found->direct);
    set("cache.no-flush", found->no_flush);
  }

  auto place = take_place(options, default_interface);
  if (!place) co_return fail(std::move(place).error());
  // What a medium that is put in later would be opened with; it does not make one.
  const auto aio = options.take("aio");
  if (aio && *aio != "threads" && *aio != "native" && *aio != "io_uring") {
    co_return fail("invalid aio option");
  }
  const auto detect_zeroes = options.take("detect-zeroes");
  if (detect_zeroes && *detect_zeroes != "off" && *detect_zeroes != "on" &&
      *detect_zeroes != "unmap") {
    co_return fail(fmt::format("invalid parameter value: {}", *detect_zeroes));
  }
  auto read_only = options.take_switch("read-only", false);
  if (!read_only) co_return fail(std::move(read_only).error());
  const bool is_read_only = *read_only || place->cdrom;
  auto copy_on_read = options.take_switch("copy-on-read", false);
  if (!copy_on_read) co_return fail(std::move(copy_on_read).error());
  if (*copy_on_read && is_read_only) {
    warnings.emplace_back("disabling copy-on-read on read-only drive");
    *copy_on_read = false;
  }
  auto name = name_for(options, *place);
  if (!name) co_return fail(std::move(name).error());
  if (has_id(*name)) co_return fail(fmt::format("Duplicate ID '{}' for drive", *name));
  auto file = options.take("file");

  Drive drive;
  drive.interface = place->interface;
  drive.bus = place->bus;
  drive.unit = place->unit;
  drive.cdrom = place->cdrom;
  drive.id = *name;
  drive.location = std::move(location);
  drive.medium.read_only = is_read_only;

  std::optional<OnError> on_write, on_read;
  for (const auto& [key, is_read, action] :
       {std::tuple{"werror", false, &on_write}, std::tuple{"rerror", true, &on_read}}) {
    const auto text = options.take(key);
    if (!text) continue;
    const bool supported =
        drive.interface == DriveInterface::kIde || drive.interface == DriveInterface::kScsi ||
        drive.interface == DriveInterface::kVirtio || drive.interface == DriveInterface::kNone;
    if (!supported) co_return fail(fmt::format("{} is not supported by this bus type", key));
    auto parsed = parse_error_action(*text, is_read);
    if (!parsed) co_return fail(std::move(parsed).error());
    *action = *parsed;
  }

  auto intervals = take_intervals(options);
  if (!intervals) co_return fail(std::move(intervals).error());
  auto limits = take_throttle(options);
  if (!limits) co_return fail(std::move(limits).error());
  const std::string group = options.take("throttling.group").value_or(*name);
  auto snapshot = options.take_switch("snapshot", false);
  if (!snapshot) co_return fail(std::move(snapshot).error());
  if (*snapshot) co_return fail("Temporary overlays (snapshot=on) are not implemented by Blockbed");
  if (const std::string* format = options.find("format")) {
    if (options.has("driver")) co_return fail("Cannot specify both 'driver' and 'format'");
    std::string driver = *format;
    (void)options.take("format");
    options.set("driver", std::move(driver));
  }
  auto writeback = options.take_switch("cache.writeback", true);
  if (!writeback) co_return fail(std::move(writeback).error());
  writethrough = !*writeback;
  auto account_invalid = options.take_switch("stats-account-invalid", true);
  if (!account_invalid) co_return fail(std::move(account_invalid).error());
  auto account_failed = options.take_switch("stats-account-failed", true);
  if (!account_failed) co_return fail(std::move(account_failed).error());

  MutexGuard guard = co_await graph_.lock();
  if (!is_well_formed_id(*name)) co_return fail(fmt::format("Invalid device ID '{}'", *name));
  if (graph_.find_node(*name) != nullptr) {
    co_return fail(fmt::format("Device name '{}' conflicts with an existing node name", *name));
  }
  drive.backend = std::make_unique<Backend>(
      graph_, *name, PermissionPair{Permissions(Permission::kConsistentRead), Permissions::all()});
  drive.backend->set_write_cache(!writethrough);
  if (on_write) drive.backend->on_write_error = *on_write;
  if (on_read) drive.backend->on_read_error = *on_read;
  drive.backend->accounting().account_invalid = *account_invalid;
  drive.backend->accounting().account_failed = *account_failed;
  for (const uint32_t seconds : *intervals) drive.backend->accounting().add_interval(seconds);

  const bool is_empty = (!file || file->empty()) && options.empty();
  if (!is_empty) {
    if (file && file->empty()) file = std::nullopt;
    if (aio) options.set("aio", *aio);
    if (detect_zeroes) options.set("detect-zeroes", *detect_zeroes);
    options.set("read-only", is_read_only ? "on" : "off");
    // Whatever a json: name says of them.
    for (const auto& [option, value] :
         {std::pair{"auto-read-only", "on"}, std::pair{"cache.direct", "off"},
          std::pair{"cache.no-flush", "off"}}) {
      if (!options.has(option)) options.set(option, value);
    }
    auto opened = co_await open_medium(drive, std::move(file), std::move(options));
    if (!opened) {
      drive.backend.reset();
      co_await graph_.close_unreferenced();
      // The node was there first: -drive names the one that came to its name.
      if (opened.error().description ==
          fmt::format("node-name={} is conflicting with a device id", *name)) {
        co_return fail(fmt::format("Device name '{}' conflicts with an existing node name", *name));
      }
      co_return fail(std::move(opened).error());
    }
    if (*copy_on_read) drive.backend->node()->keep_reads();
  }
  if (limits->enabled()) {
    const auto shared = graph_.throttle_groups().find_or_make(group);
    drive.backend->set_throttle_group(shared);
    shared->set_limits(*limits);
  }
  drives_.push_back(std::move(drive));
  co_return &drives_.back();
}

// -drive may leave out drivers that blockdev-add insists on: storage with a file name is a file,
// and the format of what lies on it is found by looking.
Task<void> Drives::complete_options(json::Object& node, bool is_storage) {
  struct Child {
    const char* name;
    bool is_storage;
  };
  for (const auto& [child, is_file] :
       {Child{"file", true}, Child{"image", true}, Child{"raw", true}, Child{"test", false},
        Child{"backing", false}}) {
    json::Value* value = node.find(child);
    if (value != nullptr && value->is_object())
      co_await complete_options(value->as_object(), is_file);
  }
  if (json::Value* copies = node.find("children"); copies != nullptr && copies->is_array()) {
    for (json::Value& copy : copies->as_array()) {
      if (copy.is_object()) co_await complete_options(copy.as_object(), false);
    }
  }
  if (node.contains("driver")) co_return;
  const json::Value* name = node.find("filename");
  if (is_storage && name != nullptr && name->is_string()) {
    node.set("driver", "file");
    co_return;
  }
  const json::Value* file = node.find("file");
  if (file == nullptr || !file->is_object()) co_return;
  if (!file->as_object().contains("driver")) co_return;
  const std::string* path = file_seen_through(graph_.drivers(), file->as_object());
  // Storage that is no file holds no header.
  node.set("driver",
           path == nullptr ? std::string(RawDriver::kName) : co_await probe_file(graph_, *path));
}

// Where a file name given beside the drivers goes: to the storage below all of them.
void Drives::place_filename(json::Object& options, std::string filename) {
  json::Object* node = &options;
  while (true) {
    const json::Value* driver = node->find("driver");
    const DriverEntry* entry =
        driver == nullptr ? nullptr : graph_.drivers().find(driver->as_string());
    if (entry != nullptr && entry->is_protocol) break;
    json::Value* file = node->find("file");
    if (file == nullptr || !file->is_object()) {
      node->set("file", json::Object());
      file = node->find("file");
    }
    node = &file->as_object();
    if (!node->contains("driver")) node->set("driver", "file");
  }
  node->set("filename", std::move(filename));
}

namespace {

// The option was the drive's, not the file's: who reopens the file need not repeat it, and it stays
// in force.
void forget_aio(Graph& graph, Node& top) {
  Node* storage = &top;
  while (const Edge* file = storage->child("file")) storage = file->node();
  json::Object given = storage->given_options();
  given.take("aio");
  GraphChange change(graph);
  change.set_given_options(*storage, std::move(given), storage->given_as_text());
  change.commit();
}

}  // namespace

Task<Expected<void>> Drives::open_medium(Drive& drive, std::optional<std::string> file,
                                         OptionText options) {
  auto tree = options.tree();
  if (!tree) co_return fail(std::move(tree).error());
  Graph::OpenRequest request;
  request.options = std::move(*tree);
  request.keyval = true;
  request.keep_text = true;
  request.inherited = inherited_by_roots(graph_);
  request.filename = std::move(file);
  // How requests reach the host is the file's affair, wherever the option was written.
  const json::Value* driver = request.options.find("driver");
  const DriverEntry* entry =
      driver == nullptr ? nullptr : graph_.drivers().find(driver->as_string());
  std::optional<std::string> aio;
  if (request.options.contains("aio") && (entry == nullptr || !entry->is_protocol)) {
    aio = request.options.take("aio").as_string();
  }
  // Names with a protocol in front, and devices, are the graph's to understand.
  const bool is_plain_path = request.filename && !protocol_of(*request.filename) &&
                             !request.filename->starts_with("/dev/");
  if (is_plain_path && (driver == nullptr || entry != nullptr)) {
    place_filename(request.options, *std::exchange(request.filename, std::nullopt));
  }
  const bool says_format = request.options.contains("driver");
  co_await complete_options(request.options, false);
  request.probed = !says_format && request.options.contains("driver");
  if (aio) {
    json::Object* storage = &request.options;
    while (json::Value* child = storage->find("file")) {
      if (!child->is_object()) break;
      storage = &child->as_object();
    }
    const json::Value* below = storage->find("driver");
    if (below != nullptr &&
        (*below == json::Value("file") || *below == json::Value("host_device")) &&
        !storage->contains("aio")) {
      storage->set("aio", *aio);
    } else {
      aio.reset();
    }
  }
  driver = request.options.find("driver");
  if (!request.filename && driver == nullptr) {
    co_return fail("Must specify either driver or file");
  }
  const json::Object given = request.options;
  auto node = co_await graph_.open(std::move(request));
  if (!node) co_return fail(in_drive_words(std::move(node).error(), given, graph_.drivers()));
  if (aio) forget_aio(graph_, **node);
  warn_of_guess(**node);
  co_return drive.backend->insert(**node);
}

void Drives::warn_of_guess(const Node& node) {
  if (node.probed() && !node.flags().read_only && node.driver().name() == RawDriver::kName) {
    warn_(RawDriver::probing_warning(node.child("file")->node()->filename()));
  }
}

Task<void> Drives::remove(Drive& drive) {
  MutexGuard guard = co_await graph_.lock();
  co_await drive.backend->release();
  co_await graph_.close_unreferenced();
  std::erase_if(drives_, [&](const Drive& other) { return &other == &drive; });
}

Task<void> Drives::remove_all() {
  while (!drives_.empty()) co_await remove(drives_.front());
}

}  // namespace blockbed
