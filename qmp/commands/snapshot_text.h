// Lists of internal snapshots, as HMP prints them. Each line ends with a newline. Source of the
// text: QEMU 7.2. Threading: pure functions, but for the time zone.
#pragma once

#include <cstdint>
#include <ctime>
#include <string>

#include "schema/block_base.h"

namespace blockbed {

// Snapshots are listed, and named where nobody gives a name, by the time of the host's zone.
std::tm local_time(int64_t seconds);

std::string snapshot_head();
std::string snapshot_line(const schema::SnapshotInfo& snapshot);

}  // namespace blockbed
