// Puts the header and tables of an image into the bytes of a file, wherever a test wants them.
//
// Contract: nothing is checked, and nothing but what is said is written. Units: bytes; places are
// offsets in the file.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "block/formats/qcow2/endian.h"
#include "block/formats/qcow2/header.h"
#include "block/sim/sparse_bytes.h"

namespace blockbed::qcow2::test {

// Sets header_length to what is written.
inline void put_header(sim::SparseBytes& bytes, Header& header) {
  auto raw = serialise_header(header);
  ASSERT_TRUE(raw);
  bytes.write(0, *raw);
}

// Of any table whose entries have 8 bytes.
inline void put_entries(sim::SparseBytes& bytes, uint64_t at,
                        const std::vector<uint64_t>& entries) {
  std::vector<std::byte> raw(entries.size() * 8);
  for (std::size_t i = 0; i < entries.size(); ++i) store_be64(raw.data() + i * 8, entries[i]);
  bytes.write(at, raw);
}

struct SnapshotL1 {
  uint64_t offset = 0;
  uint32_t entries = 0;
};

// Snapshots without ids and names, that have these L1 tables.
inline void put_snapshots(sim::SparseBytes& bytes, uint64_t at,
                          const std::vector<SnapshotL1>& tables) {
  std::vector<std::byte> raw;
  for (const SnapshotL1& table : tables) {
    const std::size_t entry = raw.size();
    raw.resize(entry + 64);
    store_be64(raw.data() + entry, table.offset);
    store_be<uint32_t>(raw.data() + entry + 8, table.entries);
    store_be<uint32_t>(raw.data() + entry + 36, 24u);
  }
  bytes.write(at, raw);
}

}  // namespace blockbed::qcow2::test
