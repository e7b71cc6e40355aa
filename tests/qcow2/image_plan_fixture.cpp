#include "tests/qcow2/image_plan_fixture.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "block/graph/backend.h"
#include "block/sim/sim_storage.h"
#include "tests/jobs/golden_disk.h"
#include "tests/qcow2/image_fixture.h"

namespace blockbed::test {

ImagePlan random_image(sim::SimRandom& chance, uint64_t size) {
  ImagePlan plan;
  plan.unmap = chance.percent(50);
  plan.qcow2 = chance.percent(75);
  if (!plan.qcow2) return plan;
  qcow2::CreateOptions& create = plan.create;
  create.size = size;
  constexpr uint64_t kBits[] = {9, 9, 10, 12, 14, 14, 16, 16, 16, 17, 18};
  create.cluster_size = uint64_t{1} << kBits[chance.below(std::size(kBits))];
  plan.small_cache = chance.percent(40);
  if (chance.percent(15)) {
    create.version = 2;
    return plan;
  }
  create.refcount_bits = uint32_t{1} << chance.below(7);
  create.lazy_refcounts = chance.percent(20);
  create.extended_l2 = create.cluster_size >= (uint64_t{16} << 10) && chance.percent(30);
  if (chance.percent(30)) create.compression = qcow2::CompressionType::kZstd;
  return plan;
}

std::string describe_image(const ImagePlan& plan) {
  if (!plan.qcow2) return "raw";
  const qcow2::CreateOptions& c = plan.create;
  return fmt::format("qcow2 v{} (clusters {}, counts {}{}{}{})", c.version, c.cluster_size,
                     c.refcount_bits, c.extended_l2 ? ", extended" : "",
                     c.lazy_refcounts ? ", lazy" : "", plan.small_cache ? ", small cache" : "");
}

Task<void> make_image(sim::SimEnv& env, std::string name, ImagePlan plan, uint64_t size) {
  if (!plan.qcow2) {
    env.storage().put(name, sim::SparseBytes(size));
    co_return;
  }
  auto made = co_await qcow2::test::create_image(env, std::move(name), plan.create);
  EXPECT_TRUE(made.has_value()) << made.error().description;
}

json::Object definition_of(const std::string& name, const ImagePlan& plan,
                           const std::string& backing) {
  json::Object options{{"driver", plan.qcow2 ? "qcow2" : "raw"},
                       {"node-name", name},
                       {"file", json::Object{{"driver", "file"}, {"filename", name}}}};
  if (plan.unmap) options.set("discard", "unmap");
  if (!plan.qcow2) return options;
  if (backing.empty()) {
    options.set("backing", json::Value());
  } else {
    options.set("backing", backing);
  }
  if (plan.small_cache) {
    options.set("l2-cache-entry-size", 512);
    options.set("l2-cache-size", 1024);
  }
  return options;
}

namespace {

Task<void> fill(Backend& disk, sim::SimRandom& chance, ImagePlan plan, uint64_t size,
                const std::function<uint64_t()>& next, const Note& note) {
  for (uint64_t at = 0; at < size;) {
    uint64_t length =
        std::min(static_cast<uint64_t>(chance.between(1, 256)) * GoldenDisk::kSector, size - at);
    const uint64_t kind = chance.below(100);
    Result<void> done;
    if (kind < 12) {
      done = co_await disk.zero(at, length, RequestFlags().with_may_unmap(chance.percent(50)));
      note(at, length, 0);
    } else if (kind < 70) {
      RequestFlags flags;
      if (kind < 26 && plan.qcow2) {
        // Compressed: whole clusters.
        const uint64_t cluster = plan.create.cluster_size;
        at -= at % cluster;
        length = std::min(cluster * (1 + chance.below(2)), size - at);
        flags.compressed = true;
      }
      const uint64_t number = next();
      Buffer buffer(length);
      GoldenDisk::fill(buffer.span(), number);
      done = co_await disk.write(at, buffer.io(), flags);
      note(at, length, number);
    }
    EXPECT_TRUE(done.has_value()) << strerror_text(done.error());
    at += length;
  }
}

}  // namespace

Task<void> give_past(Graph& graph, sim::SimRandom& chance, json::Object definition, ImagePlan plan,
                     uint64_t size, std::function<uint64_t()> next, Note note) {
  Graph::OpenRequest request;
  request.options = std::move(definition);
  auto node = co_await graph.open(std::move(request));
  EXPECT_TRUE(node.has_value()) << node.error().description;
  if (!node) co_return;
  {
    Backend disk(graph, "", {Permission::kConsistentRead | Permission::kWrite, Permissions::all()});
    EXPECT_TRUE(disk.insert(**node).has_value());
    co_await fill(disk, chance, plan, size, next, note);
    EXPECT_TRUE((co_await disk.flush()).has_value());
    co_await disk.remove();
  }
  *node = NodeRef();
  co_await graph.close_unreferenced();
}

}  // namespace blockbed::test
