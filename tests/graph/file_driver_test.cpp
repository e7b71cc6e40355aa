// file and host_device on real files: errors, locks, sizes, names.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "block/graph/backend.h"
#include "block/graph/reopen.h"
#include "block/protocols/file_create.h"
#include "block/protocols/register.h"
#include "block/runtime/production_env.h"
#include "block/sim/sim_env.h"
#include "block/sim/sim_storage.h"
#include "schema/blockdev_create.h"
#include "tests/support/memory_driver.h"

namespace blockbed {
namespace {

namespace fs = std::filesystem;

struct Server {
  explicit Server(ProductionEnv& e) : env(e) { register_protocols(registry); }
  ~Server() { env.run_until_complete(graph.shutdown()); }

  Expected<NodeRef> open(const fs::path& path, json::Object options = {}) {
    if (!options.contains("driver")) options.set("driver", "file");
    options.set("filename", path.string());
    Graph::OpenRequest request;
    request.options = std::move(options);
    return env.run_until_complete(graph.open(std::move(request)));
  }

  ProductionEnv& env;
  test::RecordedEvents events;
  DriverRegistry registry;
  Graph graph{env, events, registry};
};

class FileDriverTest : public testing::Test {
 public:
  FileDriverTest() {
    char name[] = "/tmp/blockbed-file-XXXXXX";
    directory = mkdtemp(name);
  }
  ~FileDriverTest() override { fs::remove_all(directory); }

  fs::path make(std::string name, std::string content) {
    const fs::path path = directory / name;
    std::ofstream(path) << content;
    return path;
  }

  fs::path directory;
  ProductionEnv env;
};

constexpr PermissionPair kWriter{Permission::kConsistentRead | Permission::kWrite,
                                 Permission::kConsistentRead};

TEST_F(FileDriverTest, ErrorsNameTheFile) {
  Server server(env);
  const auto error = [](Expected<NodeRef> opened) {
    return opened ? "" : opened.error().description;
  };
  EXPECT_EQ(error(server.open(directory / "absent")),
            "Could not open '" + (directory / "absent").string() + "': No such file or directory");
  EXPECT_EQ(error(server.open(directory)),
            "Could not open '" + directory.string() + "': Is a directory");
  json::Object options;
  options.set("driver", "host_device");
  const fs::path file = make("f", "x");
  EXPECT_EQ(error(server.open(file, options)), "'host_device' driver requires '" + file.string() +
                                                   "' to be either a character or block device");
  json::Object native;
  native.set("aio", "native");
  EXPECT_EQ(error(server.open(file, native)),
            "aio=native was specified, but it requires cache.direct=on, which was not specified.");
}

TEST_F(FileDriverTest, TwoServersCannotBothWrite) {
  const fs::path path = make("disk", std::string(4096, 'a'));
  Server first(env), second(env);
  auto a = first.open(path);
  auto b = second.open(path);
  ASSERT_TRUE(a && b);
  Backend writer(first.graph, "", kWriter);
  ASSERT_TRUE(writer.insert(**a));
  Backend other(second.graph, "", kWriter);
  auto refused = other.insert(**b);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().description, "Failed to get \"write\" lock");
  EXPECT_EQ(refused.error().hint, "Is another process using the image [" + path.string() + "]?");
  // A failed attempt leaves no lock behind.
  env.run_until_complete(writer.remove());
  ASSERT_TRUE(other.insert(**b));
  EXPECT_FALSE(writer.insert(**a));
  env.run_until_complete(other.remove());
}

TEST_F(FileDriverTest, ForceShareLooksAtAnImageThatIsInUse) {
  const fs::path path = make("disk", std::string(4096, 'a'));
  Server first(env), second(env);
  auto a = first.open(path);
  Backend writer(first.graph, "", {Permission::kWrite, Permissions::none()});
  ASSERT_TRUE(writer.insert(**a));
  json::Object options;
  options.set("read-only", true);
  auto plain = second.open(path, options);
  ASSERT_TRUE(plain);
  Backend reader(second.graph, "", {Permission::kConsistentRead, Permission::kConsistentRead});
  EXPECT_FALSE(reader.insert(**plain));
  options.set("force-share", true);
  auto shared = second.open(path, options);
  ASSERT_TRUE(shared);
  env.run_until_complete(writer.remove());
}

TEST_F(FileDriverTest, WritesGrowTheFileAndHolesReadAsZeroes) {
  const fs::path path = make("disk", "abc");
  Server server(env);
  auto node = server.open(path);
  ASSERT_TRUE(node);
  EXPECT_EQ((*node)->length(), 3u);
  Backend writer(server.graph, "",
                 {Permission::kConsistentRead | Permission::kWrite, Permissions::all()});
  // An odd length cannot be written without the right to resize.
  writer.set_allow_write_beyond_end(true);
  ASSERT_TRUE(writer.insert(**node));
  std::string text = "tail";
  ASSERT_TRUE(env.run_until_complete(writer.write(1 << 20, IoVector(text.data(), text.size()))));
  EXPECT_EQ((*node)->length(), (1u << 20) + 4);
  auto status = env.run_until_complete((*node)->block_status(0, 1 << 20));
  ASSERT_TRUE(status);
  EXPECT_TRUE(status->data);
  EXPECT_LE(status->length, 4096u);
  auto hole = env.run_until_complete((*node)->block_status(65536, 65536));
  ASSERT_TRUE(hole);
  EXPECT_TRUE(hole->zero && !hole->data && hole->allocated);
  EXPECT_EQ(hole->length, 65536u);
  EXPECT_EQ((*node)->filename(), path.string());
  env.run_until_complete(writer.remove());
}

TEST_F(FileDriverTest, AutoReadOnlyOpensWhatCannotBeWritten) {
  const fs::path path = make("disk", "x");
  fs::permissions(path, fs::perms::owner_read | fs::perms::group_read | fs::perms::others_read);
  fs::permissions(directory, fs::perms::all);
  // Root may write everything: be somebody else meanwhile.
  constexpr uid_t kNobody = 65534;
  const uid_t self = geteuid();
  if (self == 0) ASSERT_EQ(seteuid(kNobody), 0);
  Server server(env);
  json::Object options;
  options.set("auto-read-only", true);
  auto node = server.open(path, options);
  const bool writable_refused = !server.open(path);
  if (self == 0) ASSERT_EQ(seteuid(self), 0);
  ASSERT_TRUE(node) << node.error().description;
  EXPECT_FALSE((*node)->flags().read_only);
  EXPECT_TRUE(writable_refused);
  Backend writer(server.graph, "", kWriter);
  auto inserted = writer.insert(**node);
  ASSERT_FALSE(inserted);
  EXPECT_EQ(inserted.error().description,
            "Could not open '" + path.string() + "': Permission denied");
}

TEST_F(FileDriverTest, CreateEmptiesAndSizes) {
  const fs::path path = make("disk", "old content");
  schema::BlockdevCreateOptionsFile options;
  options.filename = path.string();
  options.size = 65536;
  ASSERT_TRUE(env.run_until_complete(create_file(env, options)));
  EXPECT_EQ(fs::file_size(path), 65536u);
  std::ifstream in(path);
  EXPECT_EQ(in.get(), 0);

  Server server(env);
  auto node = server.open(path);
  Backend writer(server.graph, "", {Permission::kResize, Permissions::all() - Permission::kResize});
  ASSERT_TRUE(writer.insert(**node));
  auto refused = env.run_until_complete(create_file(env, options));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().description, "Failed to get \"resize\" lock");
  env.run_until_complete(writer.remove());

  options.filename = (directory / "no" / "such").string();
  EXPECT_EQ(env.run_until_complete(create_file(env, options)).error().description,
            "Could not create '" + options.filename + "': No such file or directory");
}

class FileDriverFlushTest : public testing::Test {
 protected:
  FileDriverFlushTest() {
    env.storage().put("disk", sim::SparseBytes(4096));
    register_protocols(registry);
    graph.emplace(env, events, registry);
  }
  ~FileDriverFlushTest() override {
    env.run(graph->shutdown());
    graph.reset();
  }

  NodeRef open(json::Object options = {}) {
    Graph::OpenRequest request;
    request.options = std::move(options);
    request.options.set("driver", "file");
    request.options.set("filename", "disk");
    auto opened = env.run(graph->open(std::move(request)));
    EXPECT_TRUE(opened.has_value()) << opened.error().description;
    return std::move(*opened);
  }
  static Task<void> write(Node& node) {
    Buffer buffer(512);
    buffer.io().fill(1);
    EXPECT_TRUE((co_await node.write(0, buffer.io())).has_value());
  }
  static Task<Result<void>> write_and_flush(Node& node) {
    co_await write(node);
    co_return co_await node.flush();
  }

  sim::SimEnv env{1};
  test::RecordedEvents events;
  DriverRegistry registry;
  std::optional<Graph> graph;
};

// As Linux has it, the flush after a failed one succeeds without having written what that one lost.
TEST_F(FileDriverFlushTest, NoFlushSucceedsAfterOneFailed) {
  NodeRef node = open();
  sim::FaultRule rule;
  rule.requests = sim::kSimFlush;
  rule.error = ENOSPC;
  env.storage().add_fault(rule);
  Backend writer(*graph, "", {Permission::kWrite, Permissions::all()});
  EXPECT_TRUE(writer.insert(*node).has_value());
  EXPECT_EQ(env.run(write_and_flush(*node)).error(), Errno(ENOSPC));
  EXPECT_EQ(env.run(write_and_flush(*node)).error(), Errno(ENOSPC));
  env.run(writer.remove());
}

// Found by ChainJobsSimulation: a commit wrote into a base that ignored flushes through the image
// above it, which then went. The base was left for reading, and its data in no flush.
TEST_F(FileDriverFlushTest, WhatWasWrittenWhileFlushesWereIgnoredIsFlushedByAReaderToo) {
  NodeRef node = open({{"cache", json::Object{{"no-flush", true}}}});
  {
    Backend writer(*graph, "", {Permission::kWrite, Permissions::all()});
    EXPECT_TRUE(writer.insert(*node).has_value());
    EXPECT_TRUE(env.run(write_and_flush(*node)).has_value());
    env.run(writer.remove());
  }
  const auto reopen_with = [&](json::Object options) {
    std::vector<ReopenRequest> requests;
    requests.emplace_back(node, std::move(options), /*keep_others=*/true);
    auto done = env.run(reopen(*graph, std::move(requests)));
    EXPECT_TRUE(done.has_value()) << done.error().description;
  };
  reopen_with({{"read-only", true}});
  reopen_with({{"cache", json::Object{{"no-flush", false}}}});
  EXPECT_FALSE(node->writable());
  env.run([](Graph& graph, NodeRef closed) -> Task<void> {
    closed = NodeRef();
    co_await graph.close_unreferenced();
  }(*graph, std::move(node)));
  env.storage().power_off();
  std::byte left{};
  env.storage().crash_image(sim::CrashSubset::none()).at("disk").read(0, std::span(&left, 1));
  EXPECT_EQ(left, std::byte{1});
}

}  // namespace
}  // namespace blockbed
