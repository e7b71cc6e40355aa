#include <fmt/format.h>

#include <algorithm>

#include "block/graph/medium.h"
#include "block/graph/node.h"
#include "qmp/commands/block_report.h"
#include "qmp/commands/qemu_io_call.h"
#include "qmp/schema/json_write.h"
#include "schema/block_info.h"

namespace blockbed::qemu_io {

namespace {

// Text follows the order of JSON's keys (json_write.h).
std::vector<const json::Object::Member*> members_in_print_order(const json::Object& object) {
  std::vector<const json::Object::Member*> members;
  for (const json::Object::Member& member : object) members.push_back(&member);
  // Within a bucket the last one inserted comes first.
  std::ranges::sort(members, [](const auto* a, const auto* b) {
    const auto left = json::key_bucket(a->first), right = json::key_bucket(b->first);
    return left != right ? left < right : a > b;
  });
  return members;
}

Task<Result<uint64_t>> length_of(Backend& backend) {
  Node* node = backend.node();
  if (node == nullptr || !has_medium(*node)) co_return io_error(ENOMEDIUM);
  co_return co_await node->refresh_length();
}

}  // namespace

Task<void> Runner::length(Call& call) {
  auto length = co_await length_of(call.backend);
  if (!length) {
    print_(fmt::format("getlength: {}\n", strerror_text(length.error())));
    co_return;
  }
  print_(size_text(static_cast<double>(*length)) + "\n");
}

Task<void> Runner::info(Call& call) {
  Node* node = call.backend.node();
  if (node == nullptr || lost_its_medium(*node)) co_return;
  print_(fmt::format("format name: {}\n", node->driver().name()));
  if (node->driver().is_protocol()) {
    print_(fmt::format("format name: {}\n", node->driver().name()));
  }
  const auto facts = driver_facts(*node);
  if (!facts) co_return;
  print_(fmt::format("cluster size: {}\n", size_text(static_cast<double>(facts->cluster_size))));
  print_(
      fmt::format("vm state offset: {}\n", size_text(static_cast<double>(facts->vm_state_offset))));
  if (auto specific = node->driver().specific_info()) {
    print_("Format specific information:\n");
    // QEMU prints this part where the monitor is.
    call.complaints += format_specific_text(to_json(*specific), 1);
  }
}

Task<void> Runner::alloc(Call& call) {
  uint64_t offset = 0, count = kSector;
  const auto& positional = call.arguments.positional;
  if (!number(positional[0], offset)) co_return;
  if (positional.size() > 1 && !number(positional[1], count)) co_return;
  Node* node = call.backend.node();
  const uint64_t start = offset;
  uint64_t allocated = 0, remaining = count;
  while (remaining > 0) {
    const uint64_t length = node == nullptr ? 0 : node->length();
    if (offset >= length) break;
    auto status = co_await node->block_status(offset, std::min(remaining, length - offset), false);
    if (!status) {
      print_(fmt::format("is_allocated failed: {}\n", strerror_text(status.error())));
      co_return;
    }
    if (status->length == 0) break;
    const uint64_t step = std::min(status->length, remaining);
    if (status->allocated) allocated += step;
    offset += step;
    remaining -= step;
  }
  count -= remaining;
  print_(fmt::format("{}/{} bytes allocated at offset {}\n", allocated, count,
                     size_text(static_cast<double>(start))));
}

Task<void> Runner::map(Call& call) {
  auto total = co_await length_of(call.backend);
  if (!total) {
    call.complaints +=
        fmt::format("Failed to query image length: {}\n", strerror_text(total.error()));
    co_return;
  }
  Node* node = call.backend.node();
  uint64_t offset = 0;
  while (offset < *total) {
    uint64_t end = offset;
    bool allocated = false;
    while (end < *total) {
      auto status = co_await node->block_status(end, *total - end, false);
      if (!status) {
        call.complaints +=
            fmt::format("Failed to get allocation status: {}\n", strerror_text(status.error()));
        co_return;
      }
      if (status->length == 0) break;
      if (end == offset) {
        allocated = status->allocated;
      } else if (status->allocated != allocated) {
        break;
      }
      end += status->length;
    }
    if (end == offset) {
      call.complaints += "Unexpected end of image\n";
      co_return;
    }
    const uint64_t length = end - offset;
    print_(fmt::format("{} (0x{:x}) bytes {} at offset {} (0x{:x})\n",
                       size_text(static_cast<double>(length)), length,
                       allocated ? "    allocated" : "not allocated",
                       size_text(static_cast<double>(offset)), offset));
    offset = end;
  }
}
std::string format_specific_text(const json::Value& specific, int indent) {
  // Unions of the schema wrap what is printed in {"type": ..., "data": {...}}.
  const json::Value* data = specific.as_object().find("data");
  const json::Object& object =
      data != nullptr && data->is_object() ? data->as_object() : specific.as_object();
  std::string text;
  const auto print_value = [&](auto& self, const std::string& key, const json::Value& value,
                               int depth) -> void {
    const std::string pad(static_cast<std::size_t>(depth) * 4, ' ');
    std::string shown = key;
    std::ranges::replace(shown, '-', ' ');
    if (value.is_object()) {
      text += fmt::format("{}{}:\n", pad, shown);
      for (const json::Object::Member* member : members_in_print_order(value.as_object())) {
        self(self, member->first, member->second, depth + 1);
      }
    } else if (value.is_array()) {
      text += fmt::format("{}{}:\n", pad, shown);
      std::size_t index = 0;
      for (const json::Value& member : value.as_array())
        self(self, fmt::format("[{}]", index++), member, depth + 1);
    } else if (value.is_bool()) {
      text += fmt::format("{}{}: {}\n", pad, shown, value.as_bool());
    } else if (value.is_string()) {
      text += fmt::format("{}{}: {}\n", pad, shown, value.as_string());
    } else if (value.is_int64()) {
      text += fmt::format("{}{}: {}\n", pad, shown, value.as_int64());
    } else if (value.is_integer()) {
      text += fmt::format("{}{}: {}\n", pad, shown, value.as_uint64());
    } else if (value.is_number()) {
      text += fmt::format("{}{}: {}\n", pad, shown, value.as_double());
    }
  };
  for (const json::Object::Member* member : members_in_print_order(object)) {
    print_value(print_value, member->first, member->second, indent);
  }
  return text;
}
}  // namespace blockbed::qemu_io
