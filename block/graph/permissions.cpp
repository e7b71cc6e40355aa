#include "block/graph/permissions.h"

namespace blockbed {

std::string permission_words(Permissions permissions) {
  static constexpr struct {
    Permission permission;
    const char* words;
  } kWords[] = {
      {Permission::kConsistentRead, "consistent read"},
      {Permission::kWrite, "write"},
      {Permission::kWriteUnchanged, "write unchanged"},
      {Permission::kResize, "resize"},
  };
  std::string result;
  for (const auto& [permission, words] : kWords) {
    if (!permissions.has(permission)) continue;
    if (!result.empty()) result += ", ";
    result += words;
  }
  return result;
}

}  // namespace blockbed
