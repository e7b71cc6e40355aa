// The independent judges: qemu-img, qemu-io, in a directory of the test's own.
#pragma once

#include <gtest/gtest.h>

#include <string>

namespace blockbed::qcow2::test {

struct ToolResult {
  int status = -1;
  std::string output;
};

// By the shell; standard error is part of the output.
ToolResult run_tool(const std::string& command);
std::string slurp(const std::string& file);

// Skips the test where the tools are not installed.
class ToolTest : public ::testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;

 public:
  std::string path(const std::string& name) const { return directory_ + "/" + name; }
  // Fails the test when the tool does.
  void tool(const std::string& command) const;

 protected:
  std::string directory_;
};

}  // namespace blockbed::qcow2::test
