#include "qmp/commands/throttle_properties.h"

#include <fmt/format.h>

#include "schema/block_job.h"

namespace blockbed {

namespace {

struct LimitField {
  std::string_view name;
  ThrottleLimits::Bucket bucket;
};
constexpr LimitField kLimitFields[] = {
    {"bps-total", ThrottleLimits::kBpsTotal}, {"bps-read", ThrottleLimits::kBpsRead},
    {"bps-write", ThrottleLimits::kBpsWrite}, {"iops-total", ThrottleLimits::kIopsTotal},
    {"iops-read", ThrottleLimits::kIopsRead}, {"iops-write", ThrottleLimits::kIopsWrite},
};

std::optional<int64_t> number(const json::Object& object, const std::string& name) {
  const json::Value* value = object.find(name);
  if (value == nullptr || !value->is_int64()) return std::nullopt;
  return value->as_int64();
}

// Members of `limits` replace those in force; the rest stays.
Expected<void> apply_limits(ThrottleLimits& limits, const json::Object& given) {
  for (const LimitField& field : kLimitFields) {
    ThrottleBucket& bucket = limits.buckets[field.bucket];
    if (auto value = number(given, std::string(field.name))) bucket.average = *value;
    if (auto value = number(given, fmt::format("{}-max", field.name))) bucket.maximum = *value;
    if (auto value = number(given, fmt::format("{}-max-length", field.name))) {
      if (*value > int64_t{UINT32_MAX}) {
        return fail(fmt::format("{}-max-length value must be in the range [0, {}]", field.name,
                                UINT32_MAX));
      }
      bucket.burst_length = static_cast<uint64_t>(*value);
    }
  }
  if (auto value = number(given, "iops-size")) limits.iops_size = static_cast<uint64_t>(*value);
  return check_throttle_limits(limits);
}

// The same as properties of their own; they are judged together, later.
Expected<void> apply_single_limits(ThrottleLimits& limits, const json::Object& properties) {
  const auto take = [&](const std::string& name) -> Expected<std::optional<int64_t>> {
    const auto value = number(properties, "x-" + name);
    if (value.value_or(0) < 0) return fail("Property values cannot be negative");
    return value;
  };
  for (const LimitField& field : kLimitFields) {
    ThrottleBucket& bucket = limits.buckets[field.bucket];
    auto average = take(std::string(field.name));
    if (!average) return fail(std::move(average).error());
    auto maximum = take(fmt::format("{}-max", field.name));
    if (!maximum) return fail(std::move(maximum).error());
    auto length = take(fmt::format("{}-max-length", field.name));
    if (!length) return fail(std::move(length).error());
    if (length->value_or(0) > int64_t{UINT32_MAX}) {
      // Without the space, as QEMU says it.
      return fail(
          fmt::format("x-{}-max-length value must be in therange [0, {}]", field.name, UINT32_MAX));
    }
    bucket.average = average->value_or(bucket.average);
    bucket.maximum = maximum->value_or(bucket.maximum);
    if (*length) bucket.burst_length = static_cast<uint64_t>(**length);
  }
  auto size = take("iops-size");
  if (!size) return fail(std::move(size).error());
  if (*size) limits.iops_size = static_cast<uint64_t>(**size);
  return {};
}

json::Object as_object(const ThrottleLimits& limits) {
  json::Object object;
  for (const LimitField& field : kLimitFields) {
    const ThrottleBucket& bucket = limits.buckets[field.bucket];
    object.set(field.name, bucket.average);
    object.set(fmt::format("{}-max", field.name), bucket.maximum);
    object.set(fmt::format("{}-max-length", field.name), static_cast<int64_t>(bucket.burst_length));
  }
  object.set("iops-size", static_cast<int64_t>(limits.iops_size));
  return object;
}

Expected<void> set_limits(ThrottleGroup& group, const json::Value& value) {
  auto checked = schema::from_json<schema::ThrottleGroupProperties>(
      json::Value(json::Object{{"limits", value}}));
  if (!checked) return fail(std::move(checked).error());
  ThrottleLimits changed = group.limits();
  BB_TRY(apply_limits(changed, value.as_object()));
  group.set_limits(changed);
  return {};
}

}  // namespace

Expected<ThrottleLimits> throttle_limits_of(const json::Object& properties) {
  ThrottleLimits limits;
  BB_TRY(apply_single_limits(limits, properties));
  if (const json::Value* whole = properties.find("limits")) {
    BB_TRY(apply_limits(limits, whole->as_object()));
  }
  BB_TRY(check_throttle_limits(limits));
  return limits;
}

QomNode describe_throttle_group(const std::shared_ptr<ThrottleGroup>& group) {
  QomNode node{"throttle-group", {}, {}};
  node.properties.push_back(
      {"limits", "ThrottleLimits",
       [group]() -> Expected<json::Value> { return json::Value(as_object(group->limits())); },
       [group](json::Value value) -> Task<Expected<void>> {
         co_return set_limits(*group, value);
       }});
  for (const auto& [name, value] : as_object(group->limits())) {
    node.properties.push_back({"x-" + name, "int",
                               [current = value]() -> Expected<json::Value> { return current; },
                               [](json::Value) -> Task<Expected<void>> {
                                 co_return fail("Property cannot be set after initialization");
                               }});
  }
  return node;
}

}  // namespace blockbed
