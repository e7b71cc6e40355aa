// Accounting: what a backend's requests amounted to, as query-blockstats reports it.
//
// Units: bytes, ns. Threading: engine thread only.
#pragma once

#include <array>
#include <cstdint>

namespace blockbed {

enum class AccountedKind { kRead, kWrite, kFlush, kUnmap };

struct Accounting {
  struct Counters {
    uint64_t bytes = 0;
    uint64_t operations = 0;
    uint64_t failed = 0;
    uint64_t invalid = 0;
    uint64_t merged = 0;
    uint64_t total_time_ns = 0;
  };
  std::array<Counters, 4> counters;
  int64_t last_access_ns = 0;
  bool account_invalid = true;
  bool account_failed = true;

  Counters& of(AccountedKind kind) { return counters[static_cast<std::size_t>(kind)]; }

  void done(AccountedKind kind, uint64_t bytes, int64_t started_ns, int64_t now_ns) {
    Counters& c = of(kind);
    c.bytes += bytes;
    c.operations += 1;
    c.total_time_ns += static_cast<uint64_t>(now_ns - started_ns);
    last_access_ns = now_ns;
  }
  void failed(AccountedKind kind, int64_t started_ns, int64_t now_ns) {
    Counters& c = of(kind);
    c.failed += 1;
    if (account_failed) {
      c.total_time_ns += static_cast<uint64_t>(now_ns - started_ns);
      last_access_ns = now_ns;
    }
  }
};

}  // namespace blockbed
