#include "qmp/schema/json_write.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "qmp/schema/json_parse.h"

namespace blockbed::json {
namespace {

// The keys in the order in which the text has them. The text has no nested objects.
std::string keys_as_printed(const std::vector<std::string>& inserted) {
  Object object;
  for (const std::string& key : inserted) object.set(key, 0);
  std::string out;
  write(out, object);
  std::string keys;
  for (size_t at = out.find('"'); at != std::string::npos; at = out.find('"', at + 1)) {
    const size_t end = out.find('"', at + 1);
    if (!keys.empty()) keys += ' ';
    keys += out.substr(at + 1, end - at - 1);
    at = end;
  }
  return keys;
}

TEST(JsonWrite, OrderOfGreetingAndReplies) {
  // "minor" and "micro" share a bucket.
  const Object numbers{{"major", 7}, {"minor", 2}, {"micro", 22}};
  const Object version{{"qemu", numbers}, {"package", "v"}};
  const Object greeting{{"version", version}, {"capabilities", Array{"oob"}}};
  EXPECT_EQ(to_string(Object{{"QMP", greeting}}),
            R"({"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, )"
            R"("package": "v"}, "capabilities": ["oob"]}})");
  EXPECT_EQ(keys_as_printed({"error", "id"}), "id error");
  EXPECT_EQ(keys_as_printed({"return", "id"}), "return id");
  EXPECT_EQ(keys_as_printed({"event", "data", "timestamp"}), "timestamp event data");
  EXPECT_EQ(keys_as_printed({"class", "desc"}), "class desc");
  EXPECT_EQ(keys_as_printed({"reason", "guest"}), "guest reason");
}

// Orders that QEMU 7.2.22 answered with, for one qcow2 drive.
TEST(JsonWrite, OrderOfQueryBlock) {
  EXPECT_EQ(keys_as_printed({"type", "removable", "locked", "inserted", "device"}),
            "device locked removable inserted type");
  EXPECT_EQ(keys_as_printed({"image", "node-name", "ro", "drv", "file", "encrypted", "bps",
                             "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr", "detect_zeroes",
                             "backing_file_depth", "write_threshold", "cache"}),
            "iops_rd detect_zeroes image iops_wr ro node-name backing_file_depth drv iops bps_wr "
            "write_threshold encrypted bps bps_rd cache file");
  EXPECT_EQ(keys_as_printed({"filename", "format", "dirty-flag", "actual-size", "virtual-size",
                             "cluster-size", "format-specific"}),
            "virtual-size filename cluster-size format actual-size format-specific dirty-flag");
  EXPECT_EQ(keys_as_printed({"compat", "lazy-refcounts", "refcount-bits", "corrupt", "extended-l2",
                             "compression-type"}),
            "compat compression-type lazy-refcounts refcount-bits corrupt extended-l2");
  EXPECT_EQ(keys_as_printed({"direct", "no-flush", "writeback"}), "no-flush direct writeback");
}

TEST(JsonWrite, OrderOfQueryBlockstats) {
  EXPECT_EQ(
      keys_as_printed({"rd_bytes",
                       "wr_bytes",
                       "unmap_bytes",
                       "rd_operations",
                       "wr_operations",
                       "unmap_operations",
                       "flush_operations",
                       "flush_total_time_ns",
                       "wr_total_time_ns",
                       "rd_total_time_ns",
                       "unmap_total_time_ns",
                       "wr_highest_offset",
                       "rd_merged",
                       "wr_merged",
                       "unmap_merged",
                       "failed_rd_operations",
                       "failed_wr_operations",
                       "failed_unmap_operations",
                       "failed_flush_operations",
                       "invalid_rd_operations",
                       "invalid_wr_operations",
                       "invalid_unmap_operations",
                       "invalid_flush_operations",
                       "account_invalid",
                       "account_failed",
                       "timed_stats"}),
      "unmap_operations unmap_merged flush_total_time_ns wr_highest_offset wr_total_time_ns "
      "failed_wr_operations failed_rd_operations wr_merged wr_bytes timed_stats "
      "failed_unmap_operations failed_flush_operations account_invalid rd_total_time_ns "
      "invalid_unmap_operations flush_operations wr_operations unmap_bytes rd_merged rd_bytes "
      "unmap_total_time_ns invalid_flush_operations account_failed rd_operations "
      "invalid_wr_operations invalid_rd_operations");
}

TEST(JsonWrite, LastInsertedComesFirstWithinABucket) {
  // Two keys of one bucket, found by trying.
  std::string first = "k0";
  std::string second;
  for (int i = 1; second.empty(); ++i) {
    const std::string key = "k" + std::to_string(i);
    if (key_bucket(key) == key_bucket(first)) second = key;
  }
  EXPECT_EQ(keys_as_printed({first, second}), second + " " + first);
  EXPECT_EQ(keys_as_printed({second, first}), first + " " + second);
}

TEST(JsonWrite, ReplacingAValueKeepsItsPlace) {
  Object object{{"rd_bytes", 1}, {"node-name", "n"}, {"rd_bytes", 2}};
  EXPECT_EQ(object.size(), 2U);
  EXPECT_EQ(object.begin()->first, "rd_bytes");
  EXPECT_EQ(object.begin()->second.as_int64(), 2);
}

TEST(JsonWrite, ManyKeysAreOrderedToo) {
  Object object;
  for (int i = 0; i < 5000; ++i) object.set("key" + std::to_string(i), i);
  std::string out;
  write(out, object);
  const auto back = parse(out);
  ASSERT_TRUE(back);
  EXPECT_EQ(*back, Value(object));
  uint32_t bucket = 0;
  for (const auto& [key, value] : back->as_object()) {
    EXPECT_LE(bucket, key_bucket(key));
    bucket = key_bucket(key);
  }
}

TEST(JsonWrite, Numbers) {
  EXPECT_EQ(to_string(std::numeric_limits<int64_t>::min()), "-9223372036854775808");
  EXPECT_EQ(to_string(std::numeric_limits<uint64_t>::max()), "18446744073709551615");
  EXPECT_EQ(to_string(uint64_t{9223372036853727232}), "9223372036853727232");
  EXPECT_EQ(to_string(1.0), "1");
  EXPECT_EQ(to_string(0.1), "0.10000000000000001");
  EXPECT_EQ(to_string(1e16), "10000000000000000");
  EXPECT_EQ(to_string(1e17), "1e+17");
  EXPECT_EQ(to_string(-0.0), "-0");
  EXPECT_EQ(to_string(5e-324), "4.9406564584124654e-324");
  EXPECT_EQ(to_string(HUGE_VAL), "inf");
}

TEST(JsonWrite, Strings) {
  EXPECT_EQ(to_string("\"\\/\b\f\n\r\t"), R"("\"\\/\b\f\n\r\t")");
  EXPECT_EQ(to_string(std::string("\x01\x1f\x7f")), R"("\u0001\u001F\u007F")");
  EXPECT_EQ(to_string("\xc0\x80"), R"("\u0000")");
  EXPECT_EQ(to_string("\xc3\xa9\xe2\x82\xac"), R"("\u00E9\u20AC")");
  EXPECT_EQ(to_string("\xf0\x9f\x98\x80"), R"("\uD83D\uDE00")");
  // Damaged UTF-8: one replacement for one damaged sequence.
  EXPECT_EQ(to_string("\xe9x\xff"), R"("\uFFFDx\uFFFD")");
  EXPECT_EQ(to_string("\xf8\x88\x80\x80\x80z"), R"("\uFFFDz")");
}

TEST(JsonWrite, Pretty) {
  EXPECT_EQ(to_pretty_string(Object{}), "{\n}");
  EXPECT_EQ(to_pretty_string(Array{}), "[\n]");
  EXPECT_EQ(to_pretty_string(Object{{"return", Array{1, Array{}, Object{}}}}),
            "{\n    \"return\": [\n        1,\n        [\n        ],\n        {\n        }\n"
            "    ]\n}");
}

}  // namespace
}  // namespace blockbed::json
