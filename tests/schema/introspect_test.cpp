// query-qmp-schema tells what is implemented and what that needs, and nothing else.
#include "qmp/schema/introspect.h"

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "qmp/schema/commands.h"
#include "qmp/schema/json_write.h"

namespace blockbed::schema {
namespace {

std::map<std::string, json::Object> by_name(const json::Array& reply) {
  std::map<std::string, json::Object> entities;
  for (const json::Value& entity : reply) {
    const json::Object& object = entity.as_object();
    EXPECT_TRUE(entities.emplace(object.find("name")->as_string(), object).second);
  }
  return entities;
}

size_t count(const json::Array& reply, std::string_view meta_type) {
  size_t found = 0;
  for (const json::Value& entity : reply) {
    if (entity.as_object().find("meta-type")->as_string() == meta_type) ++found;
  }
  return found;
}

// Every name that an entity uses must be the name of an entity.
void expect_closed(const json::Value& value, const std::map<std::string, json::Object>& entities) {
  if (value.is_array()) {
    for (const json::Value& item : value.as_array()) expect_closed(item, entities);
  } else if (value.is_object()) {
    for (const auto& [key, item] : value.as_object()) {
      if (key == "type" || key == "arg-type" || key == "ret-type" || key == "element-type") {
        EXPECT_TRUE(entities.contains(item.as_string())) << item.as_string();
      }
      expect_closed(item, entities);
    }
  }
}

TEST(Introspect, HasOnlyWhatIsImplemented) {
  const std::string_view implemented[] = {"quit", "query-jobs", "no-such-command"};
  json::Array reply = introspect(Program::kDaemon, implemented);
  std::map<std::string, json::Object> entities = by_name(reply);
  EXPECT_EQ(count(reply, "command"), 2u);
  EXPECT_TRUE(entities.contains("quit"));
  EXPECT_TRUE(entities.contains("JOB_STATUS_CHANGE"));
  EXPECT_FALSE(entities.contains("blockdev-add"));
  EXPECT_FALSE(entities.contains("SHUTDOWN"));
  expect_closed(reply, entities);
}

TEST(Introspect, ProgramsDiffer) {
  std::vector<std::string_view> all;
  for (const CommandEntry& command : all_commands()) all.push_back(command.name);
  json::Array system = introspect(Program::kSystem, all);
  json::Array daemon = introspect(Program::kDaemon, all);
  EXPECT_EQ(count(system, "command"), all.size());
  EXPECT_EQ(count(system, "event"), all_events().size());
  EXPECT_LT(count(daemon, "command"), all.size());
  EXPECT_TRUE(by_name(system).contains("SHUTDOWN"));
  EXPECT_FALSE(by_name(daemon).contains("device_add"));
  expect_closed(system, by_name(system));
  expect_closed(daemon, by_name(daemon));
}

// What libvirt looks for to find out whether -device takes JSON.
TEST(Introspect, TellsFeatures) {
  const std::string_view implemented[] = {"device_add", "migrate-pause"};
  std::map<std::string, json::Object> entities = by_name(introspect(Program::kSystem, implemented));
  EXPECT_EQ(json::to_string(*entities.at("device_add").find("features")),
            R"(["json-cli", "json-cli-hotplug"])");
  EXPECT_EQ(entities.at("migrate-pause").find("allow-oob")->as_bool(), true);
  EXPECT_EQ(entities.at("device_add").find("allow-oob"), nullptr);
}

// Types are numbered by first use, and lists go by their element.
TEST(Introspect, NumbersTypes) {
  const std::string_view implemented[] = {"query-jobs"};
  std::map<std::string, json::Object> entities = by_name(introspect(Program::kDaemon, implemented));
  EXPECT_EQ(entities.at("BLOCK_IMAGE_CORRUPTED").find("arg-type")->as_string(), "0");
  const std::string& list = entities.at("query-jobs").find("ret-type")->as_string();
  EXPECT_EQ(entities.at(list).find("element-type")->as_string(), list.substr(1, list.size() - 2));
  EXPECT_EQ(json::to_string(entities.at("str")),
            R"({"name": "str", "json-type": "string", "meta-type": "builtin"})");
}

}  // namespace
}  // namespace blockbed::schema
