// The versions that the program states: its own, and QEMU's that it speaks.
#pragma once

#include <string_view>

namespace blockbed::server {

inline constexpr std::string_view kVersion = "0.1";
// Stands in `package` of query-version and behind the number of QEMU in `-version`.
inline constexpr std::string_view kPackage = "Blockbed 0.1";
inline constexpr std::string_view kQemuVersion = "7.2.22";

}  // namespace blockbed::server
