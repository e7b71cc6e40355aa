#include "qmp/schema/error.h"

namespace blockbed {

std::string_view error_class_name(ErrorClass error_class) {
  switch (error_class) {
    case ErrorClass::kGenericError:
      return "GenericError";
    case ErrorClass::kCommandNotFound:
      return "CommandNotFound";
    case ErrorClass::kDeviceNotActive:
      return "DeviceNotActive";
    case ErrorClass::kDeviceNotFound:
      return "DeviceNotFound";
    case ErrorClass::kKVMMissingCap:
      return "KVMMissingCap";
  }
  __builtin_unreachable();
}

}  // namespace blockbed
