// From JSON to the generated types and back: what is taken, what is refused in which words, and
// what comes out again.
#include "qmp/schema/codec.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

#include "qmp/schema/arguments.h"
#include "qmp/schema/commands.h"
#include "qmp/schema/json_parse.h"
#include "qmp/schema/json_write.h"
#include "schema/block_core.h"
#include "schema/block_export.h"
#include "schema/char.h"
#include "schema/device.h"
#include "schema/introspect.h"
#include "schema/migration.h"
#include "schema/qom.h"
#include "schema/run_state.h"
#include "schema/transaction.h"

namespace blockbed::schema {
namespace {

json::Value parsed(std::string_view text) {
  Expected<json::Value> value = json::parse(text);
  EXPECT_TRUE(value.has_value()) << text;
  return value ? *value : json::Value();
}

template <class T>
std::string error_of(std::string_view text) {
  Expected<T> value = from_json<T>(parsed(text));
  return value ? "no error" : value.error().description;
}

TEST(Codec, ReadsAUnionWithItsBranch) {
  Expected<BlockdevOptions> options = from_json<BlockdevOptions>(parsed(
      R"({"driver": "qcow2", "node-name": "top", "read-only": true, "cache": {"direct": true},
                 "file": {"driver": "file", "filename": "a.qcow2"}, "backing": null})"));
  ASSERT_TRUE(options.has_value()) << options.error().description;
  EXPECT_EQ(options->driver, BlockdevDriver::kQcow2);
  EXPECT_EQ(options->node_name, "top");
  EXPECT_EQ(options->read_only, true);
  EXPECT_EQ(options->cache->direct, true);
  EXPECT_FALSE(options->discard.has_value());
  const auto& qcow2 = std::get<BlockdevOptionsQcow2>(options->u);
  const auto& file = *std::get<Box<BlockdevOptions>>(qcow2.file.u);
  EXPECT_EQ(std::get<BlockdevOptionsFile>(file.u).filename, "a.qcow2");
  ASSERT_TRUE(qcow2.backing.has_value());
  EXPECT_TRUE(std::holds_alternative<json::Null>(qcow2.backing->u));
}

TEST(Codec, AlternatesAreToldApartByTheirJson) {
  Expected<BlockdevOptions> by_name =
      from_json<BlockdevOptions>(parsed(R"({"driver": "raw", "file": "node0"})"));
  ASSERT_TRUE(by_name.has_value());
  EXPECT_EQ(std::get<std::string>(std::get<BlockdevOptionsRaw>(by_name->u).file.u), "node0");

  Expected<MigrateSetParameters> none =
      from_json<MigrateSetParameters>(parsed(R"({"tls-creds": null})"));
  ASSERT_TRUE(none.has_value());
  EXPECT_TRUE(std::holds_alternative<json::Null>(none->tls_creds->u));
}

TEST(Codec, DriversMayShareABranch) {
  for (const char* driver : {"file", "host_device", "host_cdrom"}) {
    json::Object object{{"driver", driver}, {"filename", "/dev/x"}};
    Expected<BlockdevOptions> options = from_json<BlockdevOptions>(object);
    ASSERT_TRUE(options.has_value()) << driver;
    EXPECT_EQ(std::get<BlockdevOptionsFile>(options->u).filename, "/dev/x");
    EXPECT_EQ(name(options->driver), driver);
    EXPECT_EQ(to_json(*options), json::Value(object));
  }
}

// A type that contains itself must not make itself without end when it is made empty.
TEST(Codec, EmptyValuesOfRecursiveTypesEnd) {
  EXPECT_TRUE(std::holds_alternative<std::string>(BlockdevRef().u));
  EXPECT_EQ(BlockdevOptions(), BlockdevOptions());
  EXPECT_EQ(BlockdevCreateOptions(), BlockdevCreateOptions());
  EXPECT_FALSE(ImageInfo().backing_image.has_value());
  EXPECT_FALSE(BlockStats().parent.has_value());
}

TEST(Codec, CopiesAreDeep) {
  BlockdevOptions inner;
  inner.driver = BlockdevDriver::kNullCo;
  inner.u.emplace<BlockdevOptionsNull>().size = 512;
  BlockdevRef original{.u = Box<BlockdevOptions>(inner)};
  BlockdevRef copy = original;
  std::get<BlockdevOptionsNull>(std::get<Box<BlockdevOptions>>(copy.u)->u).size = 1024;
  EXPECT_NE(copy, original);
  EXPECT_EQ(std::get<BlockdevOptionsNull>(std::get<Box<BlockdevOptions>>(original.u)->u).size, 512);
  original = std::move(copy);
  EXPECT_EQ(std::get<BlockdevOptionsNull>(std::get<Box<BlockdevOptions>>(original.u)->u).size,
            1024);
}

// As deep as a monitor can send, and no stack is lost.
TEST(Codec, TakesNestingUpToTheLimitOfJson) {
  std::string text;
  for (int i = 0; i < json::kMaxDepth - 1; ++i) text += R"({"driver": "raw", "file": )";
  text += R"({"driver": "null-co"})" + std::string(json::kMaxDepth - 1, '}');
  json::Value value = parsed(text);
  Expected<BlockdevOptions> options = from_json<BlockdevOptions>(value);
  ASSERT_TRUE(options.has_value()) << options.error().description;
  BlockdevOptions copy = *options;
  EXPECT_EQ(copy, *options);
  EXPECT_EQ(to_json(copy), value);
}

TEST(Codec, RefusesInQemusWords) {
  EXPECT_EQ(error_of<BlockdevOptions>("{}"), "Parameter 'driver' is missing");
  EXPECT_EQ(error_of<BlockdevOptions>(R"({"driver": "zz"})"),
            "Parameter 'driver' does not accept value 'zz'");
  EXPECT_EQ(error_of<BlockdevOptions>(R"({"driver": "raw", "file": 5})"),
            "Invalid parameter type for 'file', expected: BlockdevRef");
  EXPECT_EQ(error_of<BlockdevOptions>(
                R"({"driver": "raw", "file": {"driver": "raw", "file": "x", "zz": 1}})"),
            "Parameter 'file.zz' is unexpected");
  EXPECT_EQ(
      error_of<commands::Transaction::Args>(
          R"({"actions": [{"type": "abort", "data": {}}, {"type": "blockdev-snapshot", "data": {"node": 4}}]})"),
      "Invalid parameter type for 'actions[1].data.node', expected: string");
  EXPECT_EQ(error_of<commands::NbdServerStart::Args>(
                R"({"addr": {"type": "unix", "data": {"path": "p"}}, "max-connections": -1})"),
            "Parameter 'max-connections' expects uint32_t");
  EXPECT_EQ(error_of<commands::QueryStatus::Args>(R"({"a": 1})"), "Parameter 'a' is unexpected");
}

TEST(Codec, IntegersKeepAll64Bits) {
  Expected<MigrateSetParameters> huge = from_json<MigrateSetParameters>(
      parsed(R"({"max-bandwidth": 18446744073709551615, "downtime-limit": -1})"));
  ASSERT_TRUE(huge.has_value());
  EXPECT_EQ(huge->max_bandwidth, UINT64_MAX);
  EXPECT_EQ(huge->downtime_limit, UINT64_MAX);
  EXPECT_EQ(json::to_string(to_json(*huge)),
            R"({"downtime-limit": 18446744073709551615, "max-bandwidth": 18446744073709551615})");
  EXPECT_EQ(
      error_of<BlockdevOptions>(R"({"driver": "raw", "file": "x", "size": 9223372036854775808})"),
      "Invalid parameter type for 'size', expected: integer");
}

TEST(Codec, OpenArgumentsKeepWhatTheSchemaDoesNotName) {
  Expected<commands::DeviceAdd::Args> args = from_json<commands::DeviceAdd::Args>(
      parsed(R"({"driver": "scsi-hd", "id": "d", "scsi-id": 3, "share-rw": true})"));
  ASSERT_TRUE(args.has_value());
  EXPECT_EQ(args->driver, "scsi-hd");
  EXPECT_EQ(args->rest.size(), 2u);
  EXPECT_EQ(args->rest.find("scsi-id")->as_int64(), 3);
}

// More members than the reader has marks in a word.
TEST(Codec, ObjectsWithManyMembersAreCheckedToo) {
  json::Object many;
  for (int i = 0; i < 100; ++i) many.set("m" + std::to_string(i), i);
  many.set("driver", "d");
  Expected<commands::DeviceAdd::Args> args = from_json<commands::DeviceAdd::Args>(many);
  ASSERT_TRUE(args.has_value());
  EXPECT_EQ(args->rest.size(), 100u);
  EXPECT_FALSE(args->rest.contains("driver"));

  json::Object unexpected = many;
  unexpected.set("driver", "null-co");
  EXPECT_FALSE(from_json<BlockdevOptions>(unexpected).has_value());
}

TEST(Codec, EventsAndRepliesLeaveOutWhatIsAbsent) {
  events::BlockJobCompleted event{
      .type = JobType::kBackup, .device = "j", .len = 5, .offset = 5, .speed = 0, .error = {}};
  EXPECT_EQ(json::to_string(to_json(event)),
            R"({"device": "j", "len": 5, "offset": 5, "speed": 0, "type": "backup"})");
  event.error = "No space left on device";
  EXPECT_EQ(to_json(event).as_object().find("error")->as_string(), "No space left on device");
  EXPECT_EQ(json::to_string(to_json(events::Stop())), "{}");
  EXPECT_EQ(events::BlockJobCompleted::kName, "BLOCK_JOB_COMPLETED");
}

TEST(Codec, EnumsKnowTheirNames) {
  EXPECT_EQ(name(JobStatus::kNull), "null");
  EXPECT_EQ(parse_job_status("standby"), JobStatus::kStandby);
  EXPECT_EQ(parse_job_status("Standby"), std::nullopt);
  for (std::string_view text : names(BlockdevDriver{}))
    EXPECT_EQ(name(*parse_blockdev_driver(text)), text);
}

TEST(Commands, AreFoundByName) {
  std::set<std::string_view> seen;
  for (const CommandEntry& command : all_commands()) {
    EXPECT_EQ(find_command(command.name), &command);
    EXPECT_TRUE(seen.insert(command.name).second) << command.name;
  }
  EXPECT_EQ(find_command(""), nullptr);
  EXPECT_EQ(find_command("blockdev-ad"), nullptr);
  EXPECT_EQ(find_command("zzz"), nullptr);
  EXPECT_TRUE(find_command("migrate-pause")->flags.oob);
  EXPECT_TRUE(find_command("device_add")->flags.open);
  EXPECT_FALSE(find_command("device_add")->flags.in_daemon);
  EXPECT_TRUE(find_command("blockdev-add")->flags.in_daemon);
  static_assert(commands::BlockdevAdd::kName == "blockdev-add");
  static_assert(std::is_same_v<commands::BlockdevAdd::Args, BlockdevOptions>);
  static_assert(std::is_same_v<commands::QueryJobs::Result, std::vector<JobInfo>>);
  static_assert(std::is_same_v<commands::BlockdevAdd::Result, void>);
}

TEST(Arguments, ComeBackAsTheyWereGiven) {
  for (
      const char* line : {
          R"({"execute": "blockdev-add", "arguments": {"driver": "quorum", "vote-threshold": 1, "children":
              ["a", {"driver": "null-co", "latency-ns": 18446744073709551615}]}})",
          R"({"execute": "object-add", "arguments": {"qom-type": "throttle-group", "id": "t", "limits": {"bps-total": 5}}})",
          R"({"execute": "block-export-add", "arguments": {"type": "nbd", "id": "e", "node-name": "n", "bitmaps":
              ["b", {"node": "m", "name": "c"}]}})",
          R"({"execute": "chardev-add", "arguments": {"id": "c", "backend": {"type": "socket", "data":
              {"addr": {"type": "unix", "data": {"path": "p"}}, "server": true}}}})",
          R"({"execute": "blockdev-create", "arguments": {"job-id": "j", "options": {"driver": "qcow2", "file": "f",
              "size": 1073741824, "version": "v3", "compression-type": "zstd"}}})",
          R"({"execute": "qom-set", "arguments": {"path": "/", "property": "p", "value": [1, {"a": null}]}})",
      }) {
    json::Value request = parsed(line);
    const json::Value& arguments = *request.as_object().find("arguments");
    Expected<json::Value> read =
        read_arguments(request.as_object().find("execute")->as_string(), arguments);
    ASSERT_TRUE(read.has_value()) << line << read.error().description;
    EXPECT_EQ(*read, arguments) << line;
  }
}

TEST(Arguments, OfAnUnknownCommandAreAnError) {
  Expected<json::Value> read = read_arguments("no-such", json::Object());
  ASSERT_FALSE(read.has_value());
  EXPECT_EQ(read.error(),
            Error(ErrorClass::kCommandNotFound, "The command no-such has not been found"));
}

// No command may fall over anything in the place of its arguments.
TEST(Arguments, OfEveryCommandStandAnything) {
  const json::Value values[] = {json::Null(),
                                true,
                                5,
                                -1,
                                UINT64_MAX,
                                0.5,
                                "x",
                                json::Array(),
                                json::Object(),
                                json::Array{json::Value(json::Object())}};
  for (const CommandEntry& command : all_commands()) {
    for (const json::Value& value : values) {
      for (Mode mode : {Mode::kStrict, Mode::kKeyval}) {
        Expected<json::Value> read = read_arguments(command.name, value, mode);
        if (!value.is_object()) {
          ASSERT_FALSE(read.has_value()) << command.name;
          EXPECT_EQ(read.error().description,
                    "Invalid parameter type for '<anonymous>', expected: object");
        }
      }
    }
  }
}

}  // namespace
}  // namespace blockbed::schema
