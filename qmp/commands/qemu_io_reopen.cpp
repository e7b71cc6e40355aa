#include "qmp/commands/qemu_io_reopen.h"

#include <fmt/format.h>

#include "block/graph/reopen.h"
#include "qmp/commands/cache_mode.h"
#include "qmp/commands/option_text.h"

namespace blockbed::qemu_io {

namespace {

struct Told {
  json::Object options;
  std::optional<bool> write_cache;
};

const char* switch_text(bool on) { return on ? "on" : "off"; }

Expected<Told> read_line(const Arguments& arguments) {
  Told told;
  if (arguments.has('r') && arguments.has('w')) {
    return fail("Only one -r/-w option may be given");
  }
  const CacheMode* mode = nullptr;
  if (arguments.has('c')) {
    mode = find_cache_mode(arguments.value('c'));
    if (mode == nullptr) {
      return fail(fmt::format("Invalid cache option: {}", arguments.value('c')));
    }
  }
  if (arguments.has('o')) {
    auto parsed = OptionText::parse(arguments.value('o'));
    if (!parsed) return fail(std::move(parsed).error());
    auto tree = parsed->tree();
    if (!tree) return fail(std::move(tree).error());
    told.options = std::move(*tree);
  }
  if (arguments.has('r') || arguments.has('w')) {
    if (told.options.contains("read-only")) {
      return fail("Cannot set both -r/-w and 'read-only'");
    }
    told.options.set("read-only", switch_text(arguments.has('r')));
  }
  if (mode != nullptr) {
    if (told.options.contains("cache")) return fail("Cannot set both -c and the cache options");
    json::Object cache;
    cache.set("direct", switch_text(mode->direct));
    cache.set("no-flush", switch_text(mode->no_flush));
    told.options.set("cache", std::move(cache));
    told.write_cache = !mode->writethrough;
  }
  return told;
}

}  // namespace

Task<Expected<void>> reopen_as_told(Graph& graph, Backend& backend, Arguments arguments) {
  auto told = read_line(arguments);
  if (!told) co_return fail(std::move(told).error());
  if (told->write_cache) backend.set_write_cache(*told->write_cache);
  if (backend.node() == nullptr) co_return Expected<void>();
  MutexGuard guard = co_await graph.lock();
  if (const json::Value* read_only = told->options.find("read-only");
      read_only != nullptr && *read_only == json::Value("on")) {
    PermissionPair wanted = backend.wanted_permissions();
    wanted.needs = wanted.needs - (Permission::kWrite | Permission::kWriteUnchanged);
    BB_CO_TRY(backend.set_permissions(wanted));
  }
  std::vector<ReopenRequest> requests;
  requests.emplace_back(NodeRef(*backend.node()), std::move(told->options), /*keep_others=*/true)
      .text = true;
  auto done = co_await reopen(graph, std::move(requests));
  co_await graph.close_unreferenced();
  if (done) co_return done;
  Error error = std::move(done).error();
  // An option that no driver knows is to qemu-io one that cannot be changed.
  static constexpr std::string_view kParameter = "Parameter '";
  static constexpr std::string_view kUnexpected = "' is unexpected";
  std::string& text = error.description;
  if (text.starts_with(kParameter) && text.ends_with(kUnexpected)) {
    const std::size_t length = text.size() - kParameter.size() - kUnexpected.size();
    text = fmt::format("Cannot change the option '{}'", text.substr(kParameter.size(), length));
  }
  co_return fail(std::move(error));
}

}  // namespace blockbed::qemu_io
