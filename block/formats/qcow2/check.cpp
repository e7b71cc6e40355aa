#include "block/formats/qcow2/check.h"

#include <fmt/format.h>

#include "block/formats/qcow2/check_walk.h"

namespace blockbed::qcow2 {

std::string_view fault_class_name(FaultClass fault) {
  switch (fault) {
    case FaultClass::kLeak:
      return "leak";
    case FaultClass::kUncounted:
      return "uncounted";
    case FaultClass::kCountTooLow:
      return "count-too-low";
    case FaultClass::kCountOverflow:
      return "count-overflow";
    case FaultClass::kCopiedFlag:
      return "copied-flag";
    case FaultClass::kCopiedCompressed:
      return "copied-compressed";
    case FaultClass::kReservedBits:
      return "reserved-bits";
    case FaultClass::kUnaligned:
      return "unaligned";
    case FaultClass::kOutsideFile:
      return "outside-file";
    case FaultClass::kRefcountBlock:
      return "refcount-block";
    case FaultClass::kSubclusters:
      return "subclusters";
    case FaultClass::kExternalData:
      return "external-data";
    case FaultClass::kSnapshotTable:
      return "snapshot-table";
    case FaultClass::kUnreadableCount:
      return "unreadable-count";
    case FaultClass::kNote:
      return "note";
  }
  return "note";
}

std::string CheckReport::describe() const {
  std::string text =
      fmt::format("{} leaks, {} corruptions, {} check errors", leaks, corruptions, check_errors);
  if (!table_error.empty()) text += "; " + table_error;
  for (const CheckFinding& f : findings) {
    text += fmt::format("; {}: {}", fault_class_name(f.fault), f.text);
  }
  return text;
}

Task<Result<void>> check_image(Storage& file, const Header& header, CheckReport& report,
                               FindingSink sink) {
  Header unchanged = header;
  Checker checker(file, unchanged, RepairOptions(Repair::kNone), report, std::move(sink));
  co_return co_await checker.run();
}

Task<Result<CheckReport>> check_image(Storage& file, const Header& header) {
  CheckReport report;
  BB_CO_TRY(co_await check_image(file, header, report, nullptr));
  co_return report;
}

Task<Result<std::vector<Reference>>> find_references(Storage& file, const Header& header,
                                                     const std::vector<uint64_t>& cluster_offsets) {
  Header unchanged = header;
  CheckReport report;
  Checker checker(file, unchanged, RepairOptions(Repair::kNone), report, nullptr);
  co_return co_await checker.find(cluster_offsets);
}

}  // namespace blockbed::qcow2
