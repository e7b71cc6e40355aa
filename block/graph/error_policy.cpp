#include "block/graph/error_policy.h"

#include "schema/block_event.h"
#include "schema/block_info.h"

namespace blockbed {

schema::BlockErrorAction to_schema(ErrorAction action) {
  switch (action) {
    case ErrorAction::kIgnore:
      return schema::BlockErrorAction::kIgnore;
    case ErrorAction::kStop:
      return schema::BlockErrorAction::kStop;
    case ErrorAction::kReport:
      break;
  }
  return schema::BlockErrorAction::kReport;
}

schema::BlockDeviceIoStatus to_schema(IoStatus status) {
  switch (status) {
    case IoStatus::kFailed:
      return schema::BlockDeviceIoStatus::kFailed;
    case IoStatus::kNospace:
      return schema::BlockDeviceIoStatus::kNospace;
    case IoStatus::kOk:
      break;
  }
  return schema::BlockDeviceIoStatus::kOk;
}

}  // namespace blockbed
