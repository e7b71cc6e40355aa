#include "block/sim/coroutine_names.h"

#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstring>

namespace blockbed::sim {

namespace {

std::string first_line(FILE* from) {
  char line[1024] = "";
  if (std::fgets(line, sizeof line, from) == nullptr) return {};
  line[std::strcspn(line, "\n")] = '\0';
  return line;
}

}  // namespace

std::string coroutine_name(void* frame) {
  // Every compiler's frames begin with the function that resumes them.
  void* resume;
  std::memcpy(&resume, frame, sizeof resume);
  Dl_info info;
  if (::dladdr(resume, &info) == 0) return "a coroutine";
  const auto offset =
      reinterpret_cast<uintptr_t>(resume) - reinterpret_cast<uintptr_t>(info.dli_fbase);
  char command[4096];
  std::snprintf(command, sizeof command, "addr2line -Cfspe '%s' %#lx 2>/dev/null", info.dli_fname,
                static_cast<unsigned long>(offset));
  if (FILE* tool = ::popen(command, "r"); tool != nullptr) {
    const std::string name = first_line(tool);
    ::pclose(tool);
    if (!name.empty()) return name;
  }
  char text[64];
  std::snprintf(text, sizeof text, "a coroutine at offset %#lx",
                static_cast<unsigned long>(offset));
  return text;
}

}  // namespace blockbed::sim
