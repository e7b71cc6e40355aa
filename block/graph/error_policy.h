// What is done about a request that failed, as `rerror` and `werror` of devices and the policies of
// jobs say.
//
// Source of the rules: QEMU 7.2's BlockdevOnError, BlockErrorAction and BlockDeviceIoStatus, and
// what follows from each. Threading: plain values.
#pragma once

#include <cerrno>
#include <cstdint>

#include "block/runtime/result.h"

namespace blockbed {

namespace schema {
enum class BlockDeviceIoStatus : uint8_t;
enum class BlockErrorAction : uint8_t;
}  // namespace schema

enum class OnError { kAuto, kReport, kIgnore, kEnospc, kStop };

// Who made the request is told; is not told; stands still until somebody lets it go on.
enum class ErrorAction { kReport, kIgnore, kStop };

// kAuto is kEnospc, for those who have no other default.
inline ErrorAction action_of(OnError policy, Errno error) {
  switch (policy) {
    case OnError::kAuto:
    case OnError::kEnospc:
      return error.number() == ENOSPC ? ErrorAction::kStop : ErrorAction::kReport;
    case OnError::kStop:
      return ErrorAction::kStop;
    case OnError::kIgnore:
      return ErrorAction::kIgnore;
    case OnError::kReport:
      break;
  }
  return ErrorAction::kReport;
}

// What stopped a device or a job, until somebody lets it go on.
enum class IoStatus { kOk, kFailed, kNospace };

// The first error is the one that is shown.
inline void note_error(IoStatus& status, Errno error) {
  if (status != IoStatus::kOk) return;
  status = error.number() == ENOSPC ? IoStatus::kNospace : IoStatus::kFailed;
}

// As clients are told.
schema::BlockErrorAction to_schema(ErrorAction action);
schema::BlockDeviceIoStatus to_schema(IoStatus status);

}  // namespace blockbed
