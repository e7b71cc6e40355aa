// Failure on the control path: what a client is told.
//
// Contract: an Error is a class that programs test and a description that people read and some
// programs compare; the texts are QEMU's. `Expected<T>` is the return type of everything a command
// can make fail. The data path does not use it: there a failure is an errno
// (block/runtime/result.h).
#pragma once

#include <expected>
#include <string>
#include <string_view>
#include <utility>

namespace blockbed {

enum class ErrorClass {
  kGenericError,
  kCommandNotFound,
  kDeviceNotActive,
  kDeviceNotFound,
  kKVMMissingCap
};

// The name on the wire: "GenericError", ...
std::string_view error_class_name(ErrorClass error_class);

struct Error {
  ErrorClass error_class = ErrorClass::kGenericError;
  std::string description;
  // Advice that is printed below the description on standard error and is not sent to clients.
  std::string hint;

  Error() = default;
  explicit Error(std::string text) : description(std::move(text)) {}
  Error(ErrorClass c, std::string text) : error_class(c), description(std::move(text)) {}

  friend bool operator==(const Error&, const Error&) = default;
};

template <class T>
using Expected = std::expected<T, Error>;

// `return fail("Cannot find device='{}'...", ...)` is written as `return fail(fmt::format(...))`:
// this header stays light.
inline std::unexpected<Error> fail(std::string description) {
  return std::unexpected(Error(std::move(description)));
}
inline std::unexpected<Error> fail(ErrorClass c, std::string description) {
  return std::unexpected(Error(c, std::move(description)));
}
inline std::unexpected<Error> fail(Error error) { return std::unexpected(std::move(error)); }

}  // namespace blockbed
