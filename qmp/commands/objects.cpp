#include "qmp/commands/objects.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "qmp/commands/option_text.h"
#include "qmp/commands/throttle_properties.h"
#include "qmp/monitor/command_context.h"
#include "qmp/monitor/command_table.h"
#include "qmp/monitor/human_command.h"
#include "qmp/schema/json_utf8.h"
#include "qmp/schema/keyval.h"
#include "schema/misc.h"

namespace blockbed {

namespace {

namespace c = schema::commands;

// A secret is a key or a password; QEMU has no limit, ours keeps a mistaken path from filling
// memory.
constexpr uint64_t kMaxSecretBytes = uint64_t{1} << 20;

std::optional<std::string> decode_base64(std::string_view text) {
  static constexpr std::string_view kAlphabet =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  uint32_t bits = 0;
  int count = 0;
  std::size_t padding = 0;
  for (const char c : text) {
    if (c == '\n' || c == '\r' || c == ' ') continue;
    if (c == '=') {
      if (++padding > 2) return std::nullopt;
      continue;
    }
    const std::size_t value = kAlphabet.find(c);
    if (value == std::string_view::npos || padding > 0) return std::nullopt;
    bits = bits << 6 | static_cast<uint32_t>(value);
    count += 6;
    if (count >= 8) {
      count -= 8;
      out += static_cast<char>(bits >> count & 0xff);
    }
  }
  return out;
}

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const json::DecodedChar character = json::decode_utf8(text);
    if (character.codepoint < 0) return false;
    text.remove_prefix(character.length);
  }
  return true;
}

constexpr std::pair<std::string_view, int64_t> kIothreadDefaults[] = {
    {"poll-max-ns", 32768}, {"poll-grow", 0},       {"poll-shrink", 0},
    {"aio-max-batch", 0},   {"thread-pool-min", 0}, {"thread-pool-max", 64},
};

std::string iothread_range(std::string_view name) {
  return fmt::format("{} value must be in range [0, {}]", name, INT64_MAX);
}

int64_t iothread_value(const UserObject& object, std::string_view name) {
  if (const json::Value* given = object.properties().find(name)) return given->as_int64();
  return std::ranges::find(kIothreadDefaults, name, [](const auto& entry) { return entry.first; })
      ->second;
}

QomNode describe_iothread(UserObject& object) {
  QomNode node{"iothread", {}, {}};
  for (const auto& [name, otherwise] : kIothreadDefaults) {
    node.properties.push_back(
        {std::string(name), "int",
         [&object, key = name]() -> Expected<json::Value> {
           return json::Value(iothread_value(object, key));
         },
         [&object, key = name](json::Value value) -> Task<Expected<void>> {
           if (!value.is_int64()) {
             co_return fail(fmt::format("Invalid parameter type for '{}', expected: integer", key));
           }
           if (value.as_int64() < 0) {
             co_return fail(iothread_range(key));
           }
           object.properties().set(key, value.as_int64());
           co_return Expected<void>();
         }});
  }
  return node;
}

}  // namespace

UserObject* ObjectStore::find(std::string_view id) {
  const auto found = std::ranges::find(objects_, id, &UserObject::id);
  return found == objects_.end() ? nullptr : &*found;
}

std::optional<std::string> ObjectStore::type_of(std::string_view id) const {
  const auto found = std::ranges::find(objects_, id, &UserObject::id);
  if (found == objects_.end()) return std::nullopt;
  return found->type();
}

Task<Expected<void>> ObjectStore::add(schema::ObjectOptions options) {
  if (!is_well_formed_id(options.id)) {
    Error error("Parameter 'id' expects an identifier");
    error.hint = kIdHint;
    co_return fail(std::move(error));
  }
  json::Object properties = std::move(to_json(options).as_object());
  UserObject object(options.id, std::string(name(options.qom_type)), std::move(properties));
  if (const auto* secret = std::get_if<schema::SecretProperties>(&options.u)) {
    BB_CO_TRY(co_await load_secret(object, *secret));
  }
  if (options.qom_type == schema::ObjectType::kIothread) {
    for (const auto& [name, otherwise] : kIothreadDefaults) {
      const json::Value* given = object.properties().find(name);
      if (given != nullptr && given->as_int64() < 0) co_return fail(iothread_range(name));
    }
  }
  std::optional<ThrottleLimits> limits;
  if (options.qom_type == schema::ObjectType::kThrottleGroup) {
    auto checked = throttle_limits_of(object.properties());
    if (!checked) co_return fail(std::move(checked).error());
    limits = *checked;
  }
  if (find(options.id) != nullptr) {
    co_return fail(fmt::format(
        "attempt to add duplicate property '{}' to object (type 'container')", options.id));
  }
  if (limits) {
    if (groups_.find(options.id) != nullptr)
      co_return fail("A group with this name already exists");
    object.throttle_group = groups_.find_or_make(options.id);
    object.throttle_group->set_limits(*limits);
  }
  if (options.qom_type == schema::ObjectType::kIothread) {
    object.iothread = std::make_shared<Iothread>(options.id);
  }
  objects_.push_back(std::move(object));
  co_return Expected<void>();
}

Task<Expected<void>> ObjectStore::load_secret(UserObject& object,
                                              const schema::SecretProperties& properties) {
  std::string bytes;
  if (properties.file) {
    if (properties.data) co_return fail("'file' and 'data' are mutually exclusive");
    const std::string& path = *properties.file;
    auto file = co_await env_.open_file(path, FileOpenOptions());
    if (!file) {
      co_return fail(fmt::format("Unable to read {}: Failed to open file \u201c{}\u201d: {}", path,
                                 path, strerror_text(file.error())));
    }
    auto info = co_await (*file)->info();
    Result<void> got;
    if (!info) {
      got = io_error(info.error());
    } else if (info->size > kMaxSecretBytes) {
      got = io_error(EFBIG);
    } else if (info->size > 0) {
      bytes.resize(info->size);
      got = co_await (*file)->read(0, IoVector(bytes.data(), bytes.size()));
    }
    (void)co_await (*file)->close();
    if (!got)
      co_return fail(fmt::format("Unable to read {}: {}", path, strerror_text(got.error())));
  } else if (properties.data) {
    bytes = *properties.data;
  } else {
    co_return fail("Either 'file' or 'data' must be provided");
  }

  const bool base64 = properties.format == schema::QCryptoSecretFormat::kBase64;
  if (properties.keyid) {
    // Encrypted with another secret: it must be there; the bytes stay as they are until a cipher
    // asks for them.
    if (find(*properties.keyid) == nullptr)
      co_return fail(fmt::format("No secret with id '{}'", *properties.keyid));
    if (!properties.iv) co_return fail(fmt::format("IV is required to decrypt secret"));
  }
  if (base64) {
    auto decoded = decode_base64(bytes);
    if (!decoded) co_return fail(fmt::format("Base64 data '{}' is not valid", bytes));
    bytes = std::move(*decoded);
  } else if (!properties.keyid && !is_utf8(bytes) && properties.data) {
    co_return fail("Data from secret is not valid UTF-8");
  }
  object.set_secret(std::move(bytes));
  co_return Expected<void>();
}

Expected<void> ObjectStore::remove(std::string_view id) {
  const auto found = std::ranges::find(objects_, id, &UserObject::id);
  if (found == objects_.end()) return fail(fmt::format("object '{}' not found", id));
  if (found->held()) return fail(fmt::format("object '{}' is in use, can not be deleted", id));
  objects_.erase(found);
  return {};
}

IoContext ObjectStore::iothread(std::string_view id) const {
  const auto found = std::ranges::find(objects_, id, &UserObject::id);
  return found == objects_.end() ? nullptr : found->iothread;
}

void ObjectStore::describe(QomNode& root) {
  QomNode& objects = root.child("objects");
  for (UserObject& object : objects_) {
    QomNode node;
    if (object.type() == "iothread") {
      node = describe_iothread(object);
    } else if (object.type() == "throttle-group") {
      node = describe_throttle_group(object.throttle_group);
    } else {
      node.type = object.type();
    }
    objects.children.push_back(QomChild{object.id(), std::move(node)});
  }
}

void register_object_commands(CommandTable& commands, HumanTable& human, ObjectStore& objects) {
  commands.implement<c::ObjectAdd>([&objects](CommandContext&, c::ObjectAdd::Args arguments) {
    return objects.add(std::move(arguments));
  });
  commands.implement<c::ObjectDel>([&objects](CommandContext&, c::ObjectDel::Args arguments) {
    return objects.remove(arguments.id);
  });
  const auto iothreads = [&objects]() {
    std::vector<schema::IOThreadInfo> infos;
    for (const UserObject& object : objects.all()) {
      if (object.type() != "iothread") continue;
      schema::IOThreadInfo info;
      info.id = object.id();
      // One engine thread does the work of all of them.
      info.thread_id = ::gettid();
      info.poll_max_ns = iothread_value(object, "poll-max-ns");
      info.poll_grow = iothread_value(object, "poll-grow");
      info.poll_shrink = iothread_value(object, "poll-shrink");
      info.aio_max_batch = iothread_value(object, "aio-max-batch");
      infos.push_back(std::move(info));
    }
    return infos;
  };
  commands.implement<c::QueryIothreads>(
      [iothreads](CommandContext&,
                  c::QueryIothreads::Args) -> Expected<std::vector<schema::IOThreadInfo>> {
        return iothreads();
      });

  using Human = Task<Expected<void>>;
  human.add({.name = "object_add",
             .arguments = {{"object", HumanKind::kString}},
             .parameters = "[qom-type=]type,id=str[,prop=value][,...]",
             .help = "make an object",
             .run = [&objects](HumanContext&, HumanArguments arguments) -> Human {
               auto parsed = schema::parse_keyval(arguments.text("object"), "qom-type");
               if (!parsed) co_return fail(std::move(parsed).error());
               auto options = schema::from_keyval<schema::ObjectOptions>(parsed->tree);
               if (!options) co_return fail(std::move(options).error());
               co_return co_await objects.add(*std::move(options));
             }});
  human.add({.name = "object_del",
             .arguments = {{"id", HumanKind::kString}},
             .parameters = "id",
             .help = "delete an object",
             .run = [&objects](HumanContext&, HumanArguments arguments) -> Human {
               co_return objects.remove(arguments.text("id"));
             }});
  human.add_info({.name = "iothreads",
                  .arguments = {},
                  .parameters = "",
                  .help = "the iothread objects",
                  .run = [iothreads](HumanContext& context, HumanArguments) -> Human {
                    for (const schema::IOThreadInfo& info : iothreads()) {
                      context.print(
                          fmt::format("{}:\n  thread_id={}\n  poll-max-ns={}\n  poll-grow={}\n  "
                                      "poll-shrink={}\n  aio-max-batch={}\n",
                                      info.id, info.thread_id, info.poll_max_ns, info.poll_grow,
                                      info.poll_shrink, info.aio_max_batch));
                    }
                    co_return Expected<void>();
                  }});
}

}  // namespace blockbed
