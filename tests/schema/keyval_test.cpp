// Options of the form a.b=c. What QEMU says to hundreds of them is compared in
// compare_arguments.py.
#include "qmp/schema/keyval.h"

#include <gtest/gtest.h>

#include <string>

#include "qmp/schema/codec.h"
#include "qmp/schema/json_parse.h"
#include "qmp/schema/json_write.h"
#include "qmp/schema/scalar_text.h"
#include "schema/blockdev_options.h"
#include "schema/qom.h"

namespace blockbed::schema {
namespace {

std::string tree_of(std::string_view text, std::string_view implied = {}) {
  Expected<Keyval> keyval = parse_keyval(text, implied);
  return keyval ? json::to_string(keyval->tree) : keyval.error().description;
}

TEST(Keyval, MakesATree) {
  EXPECT_EQ(tree_of(""), "{}");
  EXPECT_EQ(tree_of("a=1"), R"({"a": "1"})");
  EXPECT_EQ(tree_of("a.b.c=1,a.b.d=2"), R"({"a": {"b": {"d": "2", "c": "1"}}})");
  EXPECT_EQ(tree_of("l.1=b,l.0=a"), R"({"l": ["a", "b"]})");
  EXPECT_EQ(tree_of("l.1.x=b,l.0.x=a"), R"({"l": [{"x": "a"}, {"x": "b"}]})");
  EXPECT_EQ(tree_of("l.0.0=a,l.0.1=b"), R"({"l": [["a", "b"]]})");
  EXPECT_EQ(tree_of("a=1,a=2"), R"({"a": "2"})");
}

TEST(Keyval, ADoubledCommaIsAComma) {
  EXPECT_EQ(tree_of("a=x,,y,b=z"), R"({"a": "x,y", "b": "z"})");
  EXPECT_EQ(tree_of("a=,,,b=,,"), R"({"a": ",", "b": ","})");
  EXPECT_EQ(tree_of("a=1,"), R"({"a": "1"})");
}

TEST(Keyval, TheFirstItemMayBeAValueAlone) {
  EXPECT_EQ(tree_of("qcow2,file=x", "driver"), R"({"driver": "qcow2", "file": "x"})");
  EXPECT_EQ(tree_of("a.b", "driver"), R"({"driver": "a.b"})");
  EXPECT_EQ(tree_of("qcow2"), "Expected '=' after parameter 'qcow2'");
  EXPECT_EQ(tree_of("a=1,qcow2", "driver"), "Expected '=' after parameter 'qcow2'");
}

TEST(Keyval, HelpIsAskedForAnywhere) {
  for (const char* text : {"help", "?", "a=1,help", "help,a=1", "a=1,?,b=2"}) {
    Expected<Keyval> keyval = parse_keyval(text, "driver");
    ASSERT_TRUE(keyval.has_value()) << text;
    EXPECT_TRUE(keyval->help) << text;
  }
  EXPECT_FALSE(parse_keyval("help=1")->help);
  EXPECT_EQ(tree_of("help,x"), "Expected '=' after parameter 'x'");
}

TEST(Keyval, FragmentsAreBounded) {
  std::string longest(kMaxKeyFragment, 'x');
  EXPECT_EQ(tree_of(longest + "=1"), "{\"" + longest + "\": \"1\"}");
  EXPECT_EQ(tree_of(longest + "x=1"), "Parameter '" + longest + "x' is too long");
  EXPECT_EQ(tree_of("a." + longest + "x=1"), "Parameter fragment '" + longest + "x' is too long");
}

TEST(Keyval, DepthIsBounded) {
  std::string deepest = "a";
  for (size_t i = 1; i < kMaxKeyFragments; ++i) deepest += ".a";
  EXPECT_TRUE(parse_keyval(deepest + "=1").has_value());
  EXPECT_EQ(tree_of(deepest + ".a=1"), "Parameter 'a' is nested too deeply");
}

TEST(Keyval, AListTakesNoMoreThanItsElements) {
  EXPECT_EQ(tree_of("l.0=a,l.99999999999999999999999=b"), "Parameter 'l.1' missing");
  EXPECT_EQ(tree_of("l.0=a,l.00=b,l.1=c").substr(0, 6), "{\"l\": ");
}

TEST(Keyval, GivesTypesToOptions) {
  Expected<Keyval> keyval = parse_keyval(
      "driver=qcow2,node-name=n,read-only=yes,cache.direct=on,cache-size=0x10,file.driver=file,"
      "file.filename=a,,b,"
      "backing=");
  ASSERT_TRUE(keyval.has_value());
  Expected<BlockdevOptions> options = from_keyval<BlockdevOptions>(keyval->tree);
  ASSERT_TRUE(options.has_value()) << options.error().description;
  EXPECT_EQ(options->read_only, true);
  EXPECT_EQ(options->cache->direct, true);
  const auto& qcow2 = std::get<BlockdevOptionsQcow2>(options->u);
  EXPECT_EQ(qcow2.cache_size, 16);
  EXPECT_EQ(std::get<BlockdevOptionsFile>(std::get<Box<BlockdevOptions>>(qcow2.file.u)->u).filename,
            "a,b");
  // As in QEMU the empty string arrives as a reference; who opens the node takes it for null.
  EXPECT_EQ(std::get<std::string>(qcow2.backing->u), "");
}

TEST(Keyval, SizesHaveUnits) {
  Expected<Keyval> keyval = parse_keyval("memory-backend-ram,id=m,size=1.5G", "qom-type");
  Expected<ObjectOptions> options = from_keyval<ObjectOptions>(keyval->tree);
  ASSERT_TRUE(options.has_value());
  EXPECT_EQ(std::get<MemoryBackendProperties>(options->u).size, uint64_t{3} << 29);

  EXPECT_EQ(parse_size("64k"), 65536u);
  EXPECT_EQ(parse_size("0x10"), 16u);
  EXPECT_EQ(parse_size("15.5E"), (uint64_t{31} << 59));
  EXPECT_EQ(parse_size("18446744073709551615"), UINT64_MAX);
  for (const char* text : {"", "k", "1kk", "-1", "16E", "1.5", "1e3", "0x1.8k", "1 ", ".5k"}) {
    EXPECT_EQ(parse_size(text), std::nullopt) << text;
  }
}

TEST(Scalars, FollowC) {
  EXPECT_EQ(parse_int64(" -0x10"), -16);
  EXPECT_EQ(parse_int64("010"), 8);
  EXPECT_EQ(parse_int64("9223372036854775808"), std::nullopt);
  EXPECT_EQ(parse_int64(std::string("1\0", 2)), std::nullopt);
  EXPECT_EQ(parse_uint64("-1"), UINT64_MAX);
  EXPECT_EQ(parse_uint64("18446744073709551616"), std::nullopt);
  EXPECT_EQ(parse_switch("y"), true);
  EXPECT_EQ(parse_switch("On"), std::nullopt);
  EXPECT_EQ(parse_finite("inf"), std::nullopt);
}

}  // namespace
}  // namespace blockbed::schema
