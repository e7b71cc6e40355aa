// qcow2 and raw as nodes of a graph, with the real tools as judges.
#include "block/formats/qcow2/driver.h"

#include <fmt/format.h>

#include <fstream>
#include <optional>
#include <random>

#include "block/formats/image_create.h"
#include "block/formats/register.h"
#include "block/graph/backend.h"
#include "block/graph/medium.h"
#include "block/protocols/file_create.h"
#include "block/protocols/register.h"
#include "block/runtime/event_sink.h"
#include "block/runtime/production_env.h"
#include "qmp/schema/json_parse.h"
#include "schema/blockdev_create.h"
#include "tests/qcow2/tools_fixture.h"

namespace blockbed::qcow2::test {
namespace {

constexpr PermissionPair kReadWrite{
    Permission::kConsistentRead | Permission::kWrite | Permissions(Permission::kResize),
    Permissions::all()};
constexpr PermissionPair kRead{Permission::kConsistentRead, Permissions::all()};

struct Recorder final : EventSink {
  std::vector<std::pair<std::string, json::Value>> events;
  void emit(std::string_view event, json::Value data) override {
    events.emplace_back(event, std::move(data));
  }
};

class Qcow2DriverTest : public ToolTest {
 public:
  void SetUp() override {
    ToolTest::SetUp();
    register_formats(drivers);
    register_protocols(drivers);
    graph.emplace(env, events, drivers);
  }
  void TearDown() override {
    if (graph) {
      env.run_until_complete(close());
      env.run_until_complete(graph->shutdown());
      graph.reset();
    }
    ToolTest::TearDown();
  }

  // `text`: JSON with DIR for the test's directory.
  Expected<Node*> open(std::string text, PermissionPair permissions = kReadWrite) {
    for (std::size_t at; (at = text.find("DIR")) != std::string::npos;)
      text.replace(at, 3, directory_);
    auto parsed = json::parse(text);
    EXPECT_TRUE(parsed);
    return env.run_until_complete(open_node(parsed->as_object(), permissions));
  }
  Task<Expected<Node*>> open_node(json::Object options, PermissionPair permissions) {
    MutexGuard lock = co_await graph->lock();
    Graph::OpenRequest request;
    request.options = std::move(options);
    auto node = co_await graph->open(std::move(request));
    if (!node) co_return fail(node.error().description);
    backend.emplace(*graph, "", permissions);
    BB_CO_TRY(backend->insert(**node));
    co_return node->get();
  }
  Expected<Node*> open_qcow2(const std::string& extra = "") {
    return open(
        R"({"driver": "qcow2", "node-name": "disk", "discard": "unmap", "file": {"driver": "file", "filename": "DIR/t.qcow2"})" +
        extra + "}");
  }
  Task<void> close() {
    if (!backend) co_return;
    MutexGuard lock = co_await graph->lock();
    co_await backend->remove();
    backend.reset();
    co_await graph->close_unreferenced();
  }
  void close_all() { env.run_until_complete(close()); }

  int write(uint64_t offset, uint64_t length, int byte, RequestFlags flags = {}) {
    Buffer data(length);
    data.io().fill(static_cast<unsigned char>(byte));
    auto done = env.run_until_complete(backend->write(offset, data.io(), flags));
    return done ? 0 : done.error().number();
  }
  int zero(uint64_t offset, uint64_t length, bool unmap) {
    auto done =
        env.run_until_complete(backend->zero(offset, length, RequestFlags().with_may_unmap(unmap)));
    return done ? 0 : done.error().number();
  }
  // The byte that fills the range, -1 when it is not one.
  int read(uint64_t offset, uint64_t length) {
    Buffer data(length);
    auto done = env.run_until_complete(backend->read(offset, data.io()));
    if (!done) return -done.error().number() - 1000;
    for (uint64_t i = 1; i < length; ++i) {
      if (data.data()[i] != data.data()[0]) return -1;
    }
    return static_cast<int>(data.data()[0]);
  }
  int flush() {
    auto done = env.run_until_complete(backend->flush());
    return done ? 0 : done.error().number();
  }

  ProductionEnv env;
  Recorder events;
  DriverRegistry drivers;
  std::optional<Graph> graph;
  std::optional<Backend> backend;
};

TEST_F(Qcow2DriverTest, WritesWhatTheToolsRead) {
  tool("qemu-img create -q -f qcow2 t.qcow2 16M");
  ASSERT_TRUE(open_qcow2());
  EXPECT_EQ(write(0, 1 << 20, 1), 0);
  EXPECT_EQ(write(5000000, 777, 2), 0);
  EXPECT_EQ(zero(512 << 10, 128 << 10, true), 0);
  EXPECT_EQ(write(3 << 20, 1 << 20, 7, RequestFlags().with_compressed()), 0);
  EXPECT_EQ(read(5000000, 777), 2);
  EXPECT_EQ(read(5000777, 100), 0);
  EXPECT_EQ(read(3 << 20, 1 << 20), 7);
  EXPECT_EQ(flush(), 0);
  close_all();
  tool("qemu-img check t.qcow2");
  tool(
      "qemu-io -r -c 'read -P 1 0 512k' -c 'read -P 0 512k 128k' -c 'read -P 1 640k 384k' -c 'read "
      "-P 2 5000000 777' -c 'read -P 0 4999500 500' -c 'read -P 7 3M 1M' t.qcow2");
}

TEST_F(Qcow2DriverTest, TheDiskEndsWhereTheHeaderSays) {
  tool("qemu-img create -q -f qcow2 t.qcow2 1M");
  constexpr PermissionPair kMayResize{kReadWrite.needs | Permission::kResize, Permissions::all()};
  const std::string qcow2 =
      R"({"driver": "qcow2", "node-name": "disk", "file": {"driver": "file", "filename": "DIR/t.qcow2"}})";
  for (const std::string& what :
       {qcow2, R"({"driver": "raw", "node-name": "raw", "file": )" + qcow2 + "}"}) {
    const auto top = open(what, kMayResize);
    ASSERT_TRUE(top) << top.error().description;
    backend->set_allow_write_beyond_end(true);
    EXPECT_EQ(write((1 << 20) - 4096, 4096, 1), 0);
    EXPECT_EQ(write((1 << 20) - 4096, 8192, 2), ENOSPC);
    EXPECT_EQ(write(1 << 20, 65536, 2), ENOSPC);
    EXPECT_EQ(zero(1 << 20, 65536, false), ENOSPC);
    EXPECT_EQ(write(1 << 20, 65536, 2, RequestFlags().with_compressed()),
              what == qcow2 ? ENOSPC : ENOTSUP);
    EXPECT_EQ((*top)->length(), uint64_t{1} << 20);
    EXPECT_EQ(read((1 << 20) - 4096, 4096), 1);
    EXPECT_EQ(flush(), 0);
    close_all();
    tool("qemu-img check t.qcow2");
  }
}

TEST_F(Qcow2DriverTest, ChainsByNameInTheImage) {
  tool("qemu-img create -q -f qcow2 base.qcow2 4M && qemu-io -c 'write -P 5 0 4M' base.qcow2");
  tool("qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 t.qcow2 6M");
  ASSERT_TRUE(open_qcow2());
  EXPECT_EQ(read(0, 4 << 20), 5);
  EXPECT_EQ(read(4 << 20, 2 << 20), 0);
  EXPECT_EQ(write(100000, 5000, 6), 0);
  EXPECT_EQ(write((4 << 20) - 512, 1024, 8), 0);
  auto discarded = env.run_until_complete(backend->discard(1 << 20, 1 << 20));
  EXPECT_TRUE(discarded);
  EXPECT_EQ(read(1 << 20, 1 << 20), 0);
  close_all();
  tool("qemu-img check t.qcow2");
  tool(
      "qemu-io -r -c 'read -P 5 0 100000' -c 'read -P 6 100000 5000' -c 'read -P 5 105000 100000' "
      "-c 'read -P 0 1M 1M' -c 'read -P 5 2M 2096640' -c 'read -P 8 4193792 1024' -c 'read -P 0 "
      "4194816 2096640' t.qcow2");
}

TEST_F(Qcow2DriverTest, SnapshotsStayAsTheyAre) {
  for (const char* options : {"cluster_size=4096", "cluster_size=65536,refcount_bits=64",
                              "extended_l2=on,cluster_size=16k", "compat=0.10"}) {
    SCOPED_TRACE(options);
    tool(fmt::format(
        "qemu-img create -q -f qcow2 -o {} t.qcow2 8M && qemu-io -c 'write -P 1 0 3M' -c 'write -P "
        "2 5M 1M' t.qcow2 && "
        "qemu-img convert -f raw -O raw /dev/null n.raw; qemu-img snapshot -c one t.qcow2 && "
        "qemu-io -c 'write -P 3 1M 1M' t.qcow2 && qemu-img snapshot -c two t.qcow2",
        options));
    ASSERT_TRUE(open_qcow2());
    EXPECT_EQ(read(1 << 20, 1 << 20), 3);
    EXPECT_EQ(write(10000, 300000, 9), 0);
    EXPECT_EQ(write(5 << 20, 4096, 10), 0);
    auto discarded = env.run_until_complete(backend->discard(2 << 20, 1 << 20));
    EXPECT_TRUE(discarded);
    EXPECT_EQ(write(7 << 20, 65536, 11, RequestFlags().with_compressed()), 0);
    EXPECT_EQ(read(10000, 300000), 9);
    EXPECT_EQ(read(310000, 100000), 1);
    close_all();
    tool("qemu-img check t.qcow2");
    tool(
        "qemu-img convert -l snapshot.name=one -O raw t.qcow2 one.raw && qemu-io -f raw -r -c "
        "'read -P 1 0 3M' -c 'read -P 0 3M 2M' -c 'read -P 2 5M 1M' one.raw");
    tool(
        "qemu-img convert -l snapshot.name=two -O raw t.qcow2 two.raw && qemu-io -f raw -r -c "
        "'read -P 3 1M 1M' -c 'read -P 1 2M 1M' -c 'read -P 0 7M 1M' two.raw");
    tool(
        "qemu-io -r -c 'read -P 9 10000 300000' -c 'read -P 10 5M 4096' -c 'read -P 11 7M 64k' "
        "t.qcow2");
    tool(
        "qemu-img snapshot -d one t.qcow2 && qemu-img snapshot -d two t.qcow2 && qemu-img check "
        "t.qcow2");
  }
}

TEST_F(Qcow2DriverTest, BitmapsAreInUseWhileTheImageIsOpenForWriting) {
  tool("qemu-img create -q -f qcow2 t.qcow2 8M && qemu-img bitmap --add t.qcow2 b0");
  const auto in_use = [this] {
    return run_tool("qemu-img info -U " + path("t.qcow2")).output.contains("in-use");
  };
  ASSERT_FALSE(in_use());
  ASSERT_TRUE(open_qcow2());
  EXPECT_TRUE(in_use());
  EXPECT_EQ(write(0, 4096, 1), 0);
  EXPECT_TRUE(in_use());
  close_all();
  EXPECT_FALSE(in_use());
  tool("qemu-img check t.qcow2");
}

TEST_F(Qcow2DriverTest, DirtyImageIsRepairedOnOpening) {
  tool("qemu-img create -q -f qcow2 -o lazy_refcounts=on t.qcow2 8M");
  run_tool(fmt::format("cd {} && qemu-io -c 'write -P 4 0 1M' -c 'flush' -c 'abort' t.qcow2",
                       directory_));
  ASSERT_NE(run_tool("qemu-img check " + path("t.qcow2")).status, 0) << "the image should be dirty";
  ASSERT_TRUE(open_qcow2());
  EXPECT_EQ(read(0, 1 << 20), 4);
  EXPECT_EQ(write(2 << 20, 1 << 20, 5), 0);
  close_all();
  tool("qemu-img check t.qcow2");
  tool("qemu-io -r -c 'read -P 4 0 1M' -c 'read -P 5 2M 1M' t.qcow2");
}

TEST_F(Qcow2DriverTest, CorruptionIsToldOnceAndKept) {
  tool("qemu-img create -q -f qcow2 t.qcow2 64M && qemu-io -c 'write -P 1 0 64k' t.qcow2");
  // The L2 entry of the first cluster leads to the L1 table.
  tool(
      "printf '\\200\\000\\000\\000\\000\\003\\000\\000' | dd of=t.qcow2 bs=1 seek=262144 "
      "conv=notrunc status=none");
  ASSERT_TRUE(open_qcow2());
  EXPECT_TRUE(has_medium(*backend->node()));
  EXPECT_EQ(write(0, 512, 2), EIO);
  EXPECT_EQ(write(0, 512, 2), ENOMEDIUM);
  EXPECT_FALSE(has_medium(*backend->node()));
  EXPECT_EQ(env.run_until_complete(backend->node()->refresh_length()).error(), Errno(ENOMEDIUM));
  ASSERT_EQ(events.events.size(), 1u);
  EXPECT_EQ(events.events[0].first, "BLOCK_IMAGE_CORRUPTED");
  const json::Object& data = events.events[0].second.as_object();
  EXPECT_EQ(data.find("msg")->as_string(),
            "Preventing invalid write on metadata (overlaps with active L1 table)");
  EXPECT_TRUE(data.find("fatal")->as_bool());
  EXPECT_EQ(data.find("node-name")->as_string(), "disk");
  close_all();
  auto again = open_qcow2();
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().description, "qcow2: Image is corrupt; cannot be opened read/write");
}

TEST_F(Qcow2DriverTest, OptionsAreCheckedInTheWordsOfQemu) {
  tool("qemu-img create -q -f qcow2 t.qcow2 64M");
  const std::pair<const char*, const char*> kCases[] = {
      {R"(, "cache-size": 1048576, "l2-cache-size": 65536, "refcount-cache-size": 65536)",
       "cache-size, l2-cache-size and refcount-cache-size may not be set at the same time"},
      {R"(, "cache-size": 1048576, "l2-cache-size": 2097152)",
       "l2-cache-size may not exceed cache-size"},
      {R"(, "cache-size": 1048576, "refcount-cache-size": 2097152)",
       "refcount-cache-size may not exceed cache-size"},
      {R"(, "l2-cache-entry-size": 33792)",
       "L2 cache entry size must be a power of two between 512 and the cluster size (65536)"},
      {R"(, "l2-cache-entry-size": 131072)",
       "L2 cache entry size must be a power of two between 512 and the cluster size (65536)"},
      {R"(, "refcount-cache-size": 281474976710656)", "Refcount cache size too big"},
      {R"(, "cache-clean-interval": 4294967296)", "Cache clean interval too big"},
      {R"(, "data-file": {"driver": "null-co"})",
       "'data-file' can only be set for images with an external data file"},
  };
  for (const auto& [extra, text] : kCases) {
    SCOPED_TRACE(extra);
    auto opened = open_qcow2(extra);
    ASSERT_FALSE(opened);
    EXPECT_EQ(opened.error().description, text);
    if (std::string(extra).find("null-co") != std::string::npos) continue;
    // The same words from the daemon.
    const std::string options = fmt::format(
        R"({{"driver": "qcow2", "node-name": "x", "file": {{"driver": "file", "filename": "{}"}}{}}})",
        path("t.qcow2"), extra);
    const ToolResult theirs = run_tool(fmt::format(
        "echo | qemu-storage-daemon --blockdev '{}' --chardev stdio,id=c --monitor c", options));
    EXPECT_NE(theirs.output.find(text), std::string::npos) << theirs.output;
  }
  ASSERT_TRUE(
      open_qcow2(R"(, "cache-size": 1048576, "overlap-check": "all", "lazy-refcounts": true)"));
  close_all();
  tool("qemu-img create -q -f qcow2 -o compat=0.10 t.qcow2 64M");
  auto lazy = open_qcow2(R"(, "lazy-refcounts": true)");
  ASSERT_FALSE(lazy);
  EXPECT_EQ(lazy.error().description,
            "Lazy refcounts require a qcow2 image with at least qemu 1.1 compatibility level");
}

TEST_F(Qcow2DriverTest, ExternalDataFile) {
  for (const char* raw : {"off", "on"}) {
    SCOPED_TRACE(raw);
    tool(
        fmt::format("rm -f d.raw; qemu-img create -q -f qcow2 -o "
                    "data_file={0}/d.raw,data_file_raw={1} t.qcow2 8M",
                    directory_, raw));
    ASSERT_TRUE(open_qcow2());
    EXPECT_EQ(write(0, 1 << 20, 1), 0);
    EXPECT_EQ(write(3000000, 12345, 2), 0);
    EXPECT_EQ(zero(65536, 65536, true), 0);
    EXPECT_EQ(write(7 << 20, 65536, 1, RequestFlags().with_compressed()), ENOTSUP);
    EXPECT_EQ(read(3000000, 12345), 2);
    close_all();
    tool("qemu-img check t.qcow2");
    tool(
        "qemu-io -r -c 'read -P 1 0 64k' -c 'read -P 0 64k 64k' -c 'read -P 1 128k 896k' -c 'read "
        "-P 2 3000000 12345' t.qcow2");
    if (std::string(raw) == "on") tool("qemu-img compare -f qcow2 -F raw t.qcow2 d.raw");
    // The name in the header may not lead anywhere but to a file.
    tool(
        "qemu-img create -q -f qcow2 -o data_file=nbddd t.qcow2 8M && sed -i s/nbddd/nbd:d/ "
        "t.qcow2");
    auto refused = open_qcow2();
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().description, "Could not open 'nbd:d': No such file or directory");
    tool("rm -f nbddd nbd:d");
  }
}

TEST_F(Qcow2DriverTest, BlockdevCreate) {
  ASSERT_TRUE(
      open(R"({"driver": "file", "filename": "/dev/null", "node-name": "unused"})", kRead) || true);
  close_all();
  tool("truncate -s 0 t.qcow2");
  schema::BlockdevCreateOptionsQcow2 options;
  auto parsed = json::parse(fmt::format(
      R"({{"driver": "qcow2", "file": {{"driver": "file", "filename": "{}"}}, "size": 8388608, "cluster-size": 4096, "backing-file": "b.raw", "backing-fmt": "raw"}})",
      path("t.qcow2")));
  auto typed = schema::from_json<schema::BlockdevCreateOptions>(*parsed);
  ASSERT_TRUE(typed) << typed.error().description;
  auto made = env.run_until_complete(
      create_qcow2_image(*graph, std::get<schema::BlockdevCreateOptionsQcow2>(typed->u)));
  ASSERT_TRUE(made) << made.error().description;
  tool("truncate -s 8M b.raw && qemu-img check t.qcow2");
  const std::string info = run_tool("cd " + directory_ + " && qemu-img info t.qcow2").output;
  EXPECT_NE(info.find("cluster_size: 4096"), std::string::npos) << info;
  EXPECT_NE(info.find("backing file format: raw"), std::string::npos) << info;
}

TEST_F(Qcow2DriverTest, ImagesByFileName) {
  std::string announced;
  ImageFileRequest request;
  request.filename = path("n.qcow2");
  request.format = "qcow2";
  request.size = 1 << 20;
  request.backing_file = path("t.qcow2");
  request.backing_format = "qcow2";
  tool("qemu-img create -q -f qcow2 t.qcow2 1M");
  auto made = env.run_until_complete(create_image_file(
      *graph, &create_file, request, [&](std::string_view line) { announced = line; }));
  ASSERT_TRUE(made) << made.error().description;
  const std::string theirs = run_tool(fmt::format("qemu-img create -f qcow2 -b {} -F qcow2 {} 1M",
                                                  path("t.qcow2"), path("q.qcow2")))
                                 .output;
  std::string expected = announced + "\n";
  expected.replace(expected.find("n.qcow2"), 7, "q.qcow2");
  EXPECT_EQ(theirs, expected);
  tool("qemu-img check n.qcow2 && cmp n.qcow2 q.qcow2");
  request.format = "vmdk";
  made = env.run_until_complete(
      create_image_file(*graph, &create_file, request, [](std::string_view) {}));
  ASSERT_FALSE(made);
}

TEST_F(Qcow2DriverTest, RawWindow) {
  tool(
      "truncate -s 1M r.raw && qemu-io -f raw -c 'write -P 1 0 512k' -c 'write -P 2 512k 512k' "
      "r.raw");
  auto raw = [&](const std::string& extra) {
    return open(
        R"({"driver": "raw", "node-name": "raw", "file": {"driver": "file", "filename": "DIR/r.raw"})" +
        extra + "}");
  };
  auto node = raw(R"(, "offset": 524288, "size": 262144)");
  ASSERT_TRUE(node) << node.error().description;
  EXPECT_EQ((*node)->length(), 262144u);
  EXPECT_EQ(read(0, 262144), 2);
  EXPECT_EQ(write(0, 65536, 3), 0);
  close_all();
  tool(
      "qemu-io -f raw -r -c 'read -P 1 0 512k' -c 'read -P 3 512k 64k' -c 'read -P 2 576k 448k' "
      "r.raw");
  const std::pair<const char*, const char*> kCases[] = {
      {R"(, "offset": 1048577)",
       "Offset (1048577) cannot be greater than size of the containing file (1048576)"},
      {R"(, "offset": 524288, "size": 524800)",
       "The sum of offset (524288) and size (524800) has to be smaller or equal to the  actual "
       "size of the containing file (1048576)"},
      {R"(, "size": 1000)", "Specified size is not multiple of 512"},
  };
  for (const auto& [extra, text] : kCases) {
    auto opened = raw(extra);
    ASSERT_FALSE(opened) << extra;
    EXPECT_EQ(opened.error().description, text);
  }
}

}  // namespace
}  // namespace blockbed::qcow2::test
