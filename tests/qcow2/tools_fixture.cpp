#include "tests/qcow2/tools_fixture.h"

#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>

namespace blockbed::qcow2::test {

ToolResult run_tool(const std::string& command) {
  ToolResult result;
  FILE* pipe = ::popen(("{ " + command + "; } 2>&1").c_str(), "r");
  if (pipe == nullptr) return result;
  char chunk[4096];
  while (const std::size_t got = std::fread(chunk, 1, sizeof(chunk), pipe)) {
    result.output.append(chunk, got);
  }
  const int status = ::pclose(pipe);
  result.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return result;
}

std::string slurp(const std::string& file) {
  std::ifstream in(file, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(in), {});
}

void ToolTest::SetUp() {
  if (run_tool("qemu-img --version").status != 0) GTEST_SKIP() << "qemu-img is not installed";
  const char* base = std::getenv("TMPDIR");
  std::string pattern = std::string(base != nullptr ? base : "/tmp") + "/blockbed-qcow2-XXXXXX";
  ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
  directory_ = pattern;
}

void ToolTest::TearDown() {
  if (!directory_.empty()) run_tool("rm -rf " + directory_);
}

void ToolTest::tool(const std::string& command) const {
  const ToolResult result = run_tool("cd " + directory_ + " && " + command);
  ASSERT_EQ(result.status, 0) << command << "\n" << result.output;
}

}  // namespace blockbed::qcow2::test
