#include "qmp/machine/processors.h"

#include <fmt/format.h>

#include <algorithm>

#include "qmp/machine/machine.h"
#include "qmp/schema/scalar_text.h"

namespace blockbed {

Expected<Processors> Processors::parse(const OptionText& options, const MachineType& type) {
  // 0 is "not given" until the end.
  Processors wanted{0, 0, 0, 0, 0, 0};
  uint64_t clusters = 0;
  const std::pair<std::string_view, uint64_t*> members[] = {
      {"cpus", &wanted.count},     {"maxcpus", &wanted.max}, {"sockets", &wanted.sockets},
      {"dies", &wanted.dies},      {"clusters", &clusters},  {"cores", &wanted.cores},
      {"threads", &wanted.threads}};
  for (const auto& [key, value] : options.items()) {
    const auto member = std::ranges::find(members, key, [](const auto& one) { return one.first; });
    if (member == std::end(members))
      return fail(fmt::format("Parameter 'smp.{}' is unexpected", key));
    const auto number = schema::parse_int64(value);
    if (!number) return fail(fmt::format("Parameter 'smp.{}' expects integer", key));
    // Far above any machine's limit, and small enough to be multiplied.
    constexpr int64_t kLimit = 1 << 15;
    if (*number < 0 || *number > kLimit) {
      return fail(fmt::format("Invalid SMP CPUs {}. The max CPUs supported by machine '{}' is {}",
                              *number, type.name, type.max_processors));
    }
    *member->second = static_cast<uint64_t>(*number);
  }
  if (clusters > 1) return fail("clusters not supported by this machine's CPU topology");

  wanted.dies = std::max<uint64_t>(wanted.dies, 1);
  uint64_t& total = wanted.max;
  if (wanted.count == 0 && total == 0) {
    wanted.sockets = std::max<uint64_t>(wanted.sockets, 1);
    wanted.cores = std::max<uint64_t>(wanted.cores, 1);
    wanted.threads = std::max<uint64_t>(wanted.threads, 1);
  } else {
    if (total == 0) total = wanted.count;
    if (wanted.cores == 0) {
      wanted.sockets = std::max<uint64_t>(wanted.sockets, 1);
      wanted.threads = std::max<uint64_t>(wanted.threads, 1);
      wanted.cores = total / (wanted.sockets * wanted.dies * wanted.threads);
    } else if (wanted.sockets == 0) {
      wanted.threads = std::max<uint64_t>(wanted.threads, 1);
      wanted.sockets = total / (wanted.dies * wanted.cores * wanted.threads);
    }
    if (wanted.threads == 0) wanted.threads = total / (wanted.sockets * wanted.dies * wanted.cores);
  }
  const uint64_t product = wanted.sockets * wanted.dies * wanted.cores * wanted.threads;
  if (total == 0) total = product;
  if (wanted.count == 0) wanted.count = total;
  const auto hierarchy = [&] {
    return fmt::format("sockets ({}) * dies ({}) * cores ({}) * threads ({})", wanted.sockets,
                       wanted.dies, wanted.cores, wanted.threads);
  };
  if (product != total) {
    return fail(
        fmt::format("Invalid CPU topology: product of the hierarchy must match maxcpus: {} "
                    "!= maxcpus ({})",
                    hierarchy(), total));
  }
  if (total < wanted.count) {
    return fail(
        fmt::format("Invalid CPU topology: maxcpus must be equal to or greater than smp: "
                    "{} == maxcpus ({}) < smp_cpus ({})",
                    hierarchy(), total, wanted.count));
  }
  if (total > type.max_processors) {
    return fail(fmt::format("Invalid SMP CPUs {}. The max CPUs supported by machine '{}' is {}",
                            total, type.name, type.max_processors));
  }
  return wanted;
}

}  // namespace blockbed
