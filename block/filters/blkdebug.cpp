#include "block/filters/blkdebug.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "block/filters/blkdebug_config.h"
#include "block/graph/flat_options.h"
#include "block/graph/node.h"
#include "block/graph/option_text.h"
#include "block/runtime/env.h"
#include "schema/block_core.h"

namespace blockbed {

namespace {

constexpr std::string_view kPrefix = "blkdebug:";
constexpr uint64_t kMaxLimit = INT32_MAX;
// The options that a name must repeat to open the same node; permissions are not part of names.
constexpr std::string_view kOptionsThatMatter[] = {
    "config",      "align",       "max-transfer", "opt-write-zero", "max-write-zero",
    "opt-discard", "max-discard", "inject-error", "set-state"};

Task<Expected<DebugConfig>> read_config(Env& env, std::string path) {
  auto file = co_await env.open_file(std::move(path), FileOpenOptions());
  if (!file) {
    co_return fail(
        fmt::format("Could not read blkdebug config file: {}", strerror_text(file.error())));
  }
  auto info = co_await (*file)->info();
  Result<void> done;
  std::string text;
  if (!info) {
    done = io_error(info.error());
  } else if (info->kind == FileKind::kCharacterDevice) {
    // It has no length: its text ends where reading does (/dev/null: no rules).
    text.resize(kMaxDebugConfigBytes);
    done = co_await (*file)->read(0, IoVector(text.data(), text.size()));
    text.resize(std::min(text.find('\0'), text.size()));
  } else if (info->kind != FileKind::kRegular) {
    done = io_error(EISDIR);
  } else if (info->size > kMaxDebugConfigBytes) {
    done = io_error(EFBIG);
  } else if (info->size > 0) {
    text.resize(info->size);
    done = co_await (*file)->read(0, IoVector(text.data(), text.size()));
  }
  (void)co_await (*file)->close();
  if (!done) {
    co_return fail(fmt::format("Cannot read config file: {}", strerror_text(done.error())));
  }
  co_return parse_debug_config(text);
}

// Permissions by their numbers: the schema has them in the order of the bits.
Expected<Permissions> permissions_of(const std::vector<schema::BlockPermission>& list) {
  Permissions result;
  for (const schema::BlockPermission permission : list) {
    result |= Permissions::from_bits(1u << static_cast<uint32_t>(permission));
  }
  return result;
}

Expected<Blkdebug::Limits> limits_of(const schema::BlockdevOptionsBlkdebug& own) {
  Blkdebug::Limits limits;
  const auto take = [](const char* name, std::optional<int64_t> value,
                       uint64_t& out) -> Expected<void> {
    auto size = size_option(name, value);
    if (!size) return fail(std::move(size).error());
    out = size->value_or(0);
    return {};
  };
  BB_TRY(take("align", own.align, limits.align));
  BB_TRY(take("max-transfer", own.max_transfer, limits.max_transfer));
  BB_TRY(take("opt-write-zero", own.opt_write_zero, limits.opt_write_zero));
  BB_TRY(take("max-write-zero", own.max_write_zero, limits.max_write_zero));
  BB_TRY(take("opt-discard", own.opt_discard, limits.opt_discard));
  BB_TRY(take("max-discard", own.max_discard, limits.max_discard));
  return limits;
}

Expected<void> check_limits(const Blkdebug::Limits& limits, uint64_t child_alignment) {
  if (limits.align != 0 && (limits.align >= kMaxLimit || !std::has_single_bit(limits.align))) {
    return fail(fmt::format("Cannot meet constraints with align {}", limits.align));
  }
  const uint64_t unit = std::max(limits.align, child_alignment);
  struct Rule {
    const char* name;
    uint64_t value;
    uint64_t unit;
  };
  const Rule rules[] = {
      {"max-transfer", limits.max_transfer, unit},
      {"opt-write-zero", limits.opt_write_zero, unit},
      {"max-write-zero", limits.max_write_zero, std::max(limits.opt_write_zero, unit)},
      {"opt-discard", limits.opt_discard, unit},
      {"max-discard", limits.max_discard, std::max(limits.opt_discard, unit)}};
  for (const Rule& rule : rules) {
    if (rule.value == 0 || (rule.value < kMaxLimit && rule.value % rule.unit == 0)) continue;
    return fail(fmt::format("Cannot meet constraints with {} {}", rule.name, rule.value));
  }
  return {};
}

void add_rules(const schema::BlockdevOptionsBlkdebug& own, DebugConfig& config) {
  for (const auto& given :
       own.inject_error.value_or(std::vector<schema::BlkdebugInjectErrorOptions>())) {
    InjectErrorRule rule;
    rule.event = static_cast<DebugEvent>(given.event);
    rule.state = static_cast<int>(given.state.value_or(0));
    if (given.iotype) rule.io = debug_io_bit(static_cast<DebugIo>(*given.iotype));
    rule.error = static_cast<int>(given.errno_.value_or(EIO));
    rule.sector = given.sector.value_or(-1);
    rule.once = given.once.value_or(false);
    rule.immediately = given.immediately.value_or(false);
    config.inject.push_back(rule);
  }
  for (const auto& given : own.set_state.value_or(std::vector<schema::BlkdebugSetStateOptions>())) {
    config.set_state.push_back({static_cast<DebugEvent>(given.event),
                                static_cast<int>(given.state.value_or(0)),
                                static_cast<int>(given.new_state)});
  }
}

}  // namespace

Expected<json::Object> Blkdebug::parse_filename(std::string_view filename) {
  BB_ASSERT(filename.starts_with(kPrefix));
  const std::string_view rest = filename.substr(kPrefix.size());
  const std::size_t colon = rest.find(':');
  if (colon == std::string_view::npos) {
    return fail("blkdebug requires both config file and image path");
  }
  json::Object options;
  if (colon > 0) options.set("config", rest.substr(0, colon));
  json::Object image;
  image.set("filename", rest.substr(colon + 1));
  options.set("image", std::move(image));
  return options;
}

Task<Expected<std::unique_ptr<Driver>>> Blkdebug::open(OpenContext& context,
                                                       const schema::BlockdevOptions& options) {
  const auto& own = std::get<schema::BlockdevOptionsBlkdebug>(options.u);
  auto limits = limits_of(own);
  if (!limits) co_return fail(std::move(limits).error());
  // A list without members is no option at all once it is flat, and then unknown.
  if (own.inject_error && own.inject_error->empty()) {
    co_return fail("Block protocol 'blkdebug' doesn't support the option 'inject-error'");
  }
  if (own.set_state && own.set_state->empty()) {
    co_return fail("Block protocol 'blkdebug' doesn't support the option 'set-state'");
  }
  DebugConfig config;
  if (own.config && !own.config->empty()) {
    auto read = co_await read_config(context.env(), *own.config);
    if (!read) co_return fail(std::move(read).error());
    config = std::move(*read);
  }
  add_rules(own, config);

  auto image = co_await context.open_child("image", kFilteredRoles);
  if (!image) co_return fail(std::move(image).error());
  BB_CO_TRY(check_limits(*limits, (*image)->node()->limits().request_alignment));

  auto driver = std::make_unique<Blkdebug>(context.node(), **image, *limits);
  for (const auto& [list, into] : {std::pair(&own.take_child_perms, &driver->taken_),
                                   std::pair(&own.unshare_child_perms, &driver->unshared_)}) {
    if (!*list) continue;
    auto permissions = permissions_of(**list);
    if (!permissions) co_return fail(std::move(permissions).error());
    *into = *permissions;
  }
  for (const InjectErrorRule& rule : config.inject) driver->rules_.add(rule);
  for (const SetStateRule& rule : config.set_state) driver->rules_.add(rule);
  driver->rules_.start();
  co_return driver;
}

Blkdebug::Blkdebug(Node& node, Edge& image, Limits limits)
    : Driver(node),
      image_(image),
      limits_(limits),
      rules_(node.env().executor(), [&node] { return node.graph().waiting_drains(); }) {}

// --- requests

Task<Result<void>> Blkdebug::check(DebugIo io, uint64_t offset, uint64_t length) {
  const auto fault = rules_.check(io, offset, length);
  if (!fault) co_return Result<void>();
  if (!fault->immediately) co_await node().env().executor().yield();
  co_return io_error(fault->error);
}

Task<Result<void>> Blkdebug::read(uint64_t offset, IoVector buffers, RequestFlags flags) {
  BB_CO_TRY(co_await check(DebugIo::kRead, offset, buffers.size()));
  co_return co_await image_.read(offset, std::move(buffers), flags);
}

Task<Result<void>> Blkdebug::write(uint64_t offset, IoVector buffers, RequestFlags flags) {
  BB_CO_TRY(co_await check(DebugIo::kWrite, offset, buffers.size()));
  co_return co_await image_.write(offset, std::move(buffers), flags);
}

Task<Result<void>> Blkdebug::zero(uint64_t offset, uint64_t length, RequestFlags flags) {
  const uint64_t least =
      std::max<uint64_t>(node().limits().request_alignment, limits_.opt_write_zero);
  if (length < least) co_return io_error(ENOTSUP);
  BB_CO_TRY(co_await check(DebugIo::kZero, offset, length));
  co_return co_await image_.zero(offset, length, flags);
}

Task<Result<void>> Blkdebug::discard(uint64_t offset, uint64_t length) {
  BB_CO_TRY(co_await check(DebugIo::kDiscard, offset, length));
  const uint64_t least = std::max<uint64_t>(node().limits().request_alignment, limits_.opt_discard);
  if (length < least) co_return io_error(ENOTSUP);
  co_return co_await image_.discard(offset, length);
}

Task<Result<void>> Blkdebug::flush_to_disk() { return check(DebugIo::kFlush, 0, 0); }

Task<Result<BlockStatus>> Blkdebug::block_status(uint64_t offset, uint64_t length, bool) {
  BB_CO_TRY(co_await check(DebugIo::kStatus, offset, length));
  BlockStatus status;
  status.length = length;
  status.offset = offset;
  status.file = image_.node();
  status.passes_through = true;
  co_return status;
}

// --- size, permissions, facts

Task<Result<uint64_t>> Blkdebug::length() { return image_.node()->refresh_length(); }

Task<Expected<void>> Blkdebug::truncate(uint64_t length, TruncateOptions options) {
  return image_.truncate(length, options);
}

Task<Result<std::optional<uint64_t>>> Blkdebug::allocated_size() {
  // As with QEMU, which counts it among the protocols that cannot tell.
  co_return io_error(ENOTSUP);
}

PermissionPair Blkdebug::child_permissions(const Edge*, ChildRoles roles, PermissionPair parent,
                                           bool writable) const {
  PermissionPair result = default_child_permissions(node(), roles, parent, writable);
  result.needs |= taken_;
  result.shares = result.shares - unshared_;
  return result;
}

void Blkdebug::refresh_limits(BlockLimits& limits) const {
  if (limits_.align != 0) {
    limits.request_alignment =
        std::max(limits.request_alignment, static_cast<uint32_t>(limits_.align));
  }
  if (limits_.max_transfer != 0) limits.max_transfer = limits_.max_transfer;
  if (limits_.opt_write_zero != 0) limits.zero_alignment = limits_.opt_write_zero;
  if (limits_.max_write_zero != 0) limits.max_zero = limits_.max_write_zero;
  if (limits_.opt_discard != 0) limits.discard_alignment = limits_.opt_discard;
  if (limits_.max_discard != 0) limits.max_discard = limits_.max_discard;
}

// --- names

std::string Blkdebug::exact_filename() const {
  const json::Object& given = node().given_options();
  for (const std::string_view key : kOptionsThatMatter) {
    if (key != "config" && given.contains(key)) return {};
  }
  const std::string image = image_.node()->exact_filename();
  if (image.empty()) return {};
  const json::Value* config = given.find("config");
  return fmt::format("{}{}:{}", kPrefix, config == nullptr ? "" : config->as_string(), image);
}

void Blkdebug::gather_filename_options(json::Object& options) const {
  for (const std::string_view key : kOptionsThatMatter) {
    if (const json::Value* value = node().given_options().find(key)) {
      flatten_option(options, std::string(key), *value);
    }
  }
}

// --- life

Task<void> Blkdebug::close() { co_return; }

}  // namespace blockbed
