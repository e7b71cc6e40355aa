#include "qmp/commands/snapshot_text.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include "qmp/commands/human_block.h"

namespace blockbed {

namespace {
constexpr char kLine[] = "{:<9} {:<16} {:>8}{:>20}{:>13}{:>11}\n";
}  // namespace

std::tm local_time(int64_t seconds) {
  const std::time_t time = seconds;
  std::tm parts{};
  ::localtime_r(&time, &parts);
  return parts;
}

std::string snapshot_head() {
  return fmt::format(kLine, "ID", "TAG", "VM SIZE", "DATE", "VM CLOCK", "ICOUNT");
}

std::string snapshot_line(const schema::SnapshotInfo& s) {
  return fmt::format(
      kLine, s.id, s.name, human_size(static_cast<uint64_t>(s.vm_state_size)),
      fmt::format("{:%Y-%m-%d %H:%M:%S}", local_time(s.date_sec)),
      fmt::format("{:02}:{:02}:{:02}.{:03}", s.vm_clock_sec / 3600, s.vm_clock_sec / 60 % 60,
                  s.vm_clock_sec % 60, s.vm_clock_nsec / 1'000'000),
      s.icount ? fmt::format("{}", *s.icount) : "");
}

}  // namespace blockbed
