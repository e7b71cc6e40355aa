#include "qmp/commands/qemu_io_text.h"

#include <gtest/gtest.h>

namespace blockbed::qemu_io {
namespace {

TEST(QemuIoText, SizesLoseTheirZeroes) {
  EXPECT_EQ(size_text(0), "0 bytes");
  EXPECT_EQ(size_text(512), "512 bytes");
  EXPECT_EQ(size_text(65536), "64 KiB");
  EXPECT_EQ(size_text(1.5 * 1024 * 1024), "1.500 MiB");
  EXPECT_EQ(size_text(static_cast<double>(uint64_t{1} << 40)), "1 TiB");
  EXPECT_EQ(size_text(0.0004), "0 bytes");
  EXPECT_EQ(size_text(2.711153), "2.711153 bytes");
}

TEST(QemuIoText, ReportHasTwoLines) {
  Report report{"wrote", 65536, 65536, 65536, 1, 1'000'000'000, false};
  EXPECT_EQ(report_text(report),
            "wrote 65536/65536 bytes at offset 65536\n64 KiB, 1 ops; 01.00 sec (64 KiB/sec and "
            "1.0000 ops/sec)\n");
  report.elapsed_ns = 90'250'000'000;
  EXPECT_NE(report_text(report).find("; 0:01:30.25 ("), std::string::npos);
  report.machine_readable = true;
  EXPECT_EQ(report_text(report), "65536,1,0:01:30.25,726.161,0.011\n");
}

TEST(QemuIoText, DumpShowsSixteenBytesALine) {
  std::string text = "Hello, world 0123";
  EXPECT_EQ(dump_text(reinterpret_cast<const std::byte*>(text.data()), 16, text.size()),
            "00000010:  48 65 6c 6c 6f 2c 20 77 6f 72 6c 64 20 30 31 32  Hello..world.012\n"
            "00000020:  33  3\n");
}

TEST(QemuIoText, OptionsStandAnywhere) {
  std::string complaint;
  auto arguments = parse_arguments(words("read  0 -vP 0x11 512 -q"), "CP:qv", complaint);
  ASSERT_TRUE(arguments);
  EXPECT_EQ(arguments->positional, (std::vector<std::string>{"0", "512"}));
  EXPECT_TRUE(arguments->has('v') && arguments->has('q'));
  EXPECT_EQ(arguments->value('P'), "0x11");
}

TEST(QemuIoText, WithoutLettersNoWordIsAnOption) {
  std::string complaint;
  auto arguments = parse_arguments(words("alloc 0 -x --"), "", complaint);
  ASSERT_TRUE(arguments);
  EXPECT_EQ(arguments->positional, (std::vector<std::string>{"0", "-x", "--"}));
}

TEST(QemuIoText, UnknownOptionsAreNamed) {
  std::string complaint;
  EXPECT_FALSE(parse_arguments(words("read -Z 0 1"), "CP:qv", complaint));
  EXPECT_EQ(complaint, "read: invalid option -- 'Z'\n");
  EXPECT_FALSE(parse_arguments(words("read 0 1 -P"), "CP:qv", complaint));
  EXPECT_EQ(complaint, "read: option requires an argument -- 'P'\n");
}

TEST(QemuIoText, NumbersAndPatterns) {
  EXPECT_EQ(parse_number("64k").value, 65536u);
  EXPECT_EQ(parse_number("0x10").value, 16u);
  EXPECT_EQ(parse_number("b").complaint,
            "Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- b\n");
  EXPECT_FALSE(parse_number("-5").value);
  EXPECT_EQ(parse_pattern("0xff").value, 255u);
  EXPECT_EQ(parse_pattern("256").complaint, "256 is not a valid pattern byte\n");
}

}  // namespace
}  // namespace blockbed::qemu_io
