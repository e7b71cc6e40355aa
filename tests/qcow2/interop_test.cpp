// Images of ours judged by qemu-img and qemu-io, and images of theirs read by us. Skipped where the
// tools are not installed.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <random>

#include "block/runtime/production_env.h"
#include "tests/qcow2/image_fixture.h"
#include "tests/qcow2/tools_fixture.h"

namespace blockbed::qcow2::test {
namespace {

class Interop : public ToolTest {
 public:
  std::vector<std::byte> read_all(const std::string& file, uint64_t size, uint64_t step,
                                  std::vector<std::byte> backing = {}) {
    return env_.run_until_complete([](Interop& t, std::string f, uint64_t n, uint64_t s,
                                      std::vector<std::byte> b) -> Task<std::vector<std::byte>> {
      auto opened = co_await open_image(t.env_, f, MetadataOptions(), std::move(b));
      if (!opened) {
        ADD_FAILURE() << opened.error().description;
        co_return std::vector<std::byte>();
      }
      std::vector<std::byte> bytes(n);
      for (uint64_t at = 0; at < n; at += s) {
        const uint64_t part = std::min(s, n - at);
        auto read = co_await (*opened)->image->read(at, IoVector(bytes.data() + at, part));
        EXPECT_TRUE(read) << strerror_text(read.error()) << " at " << at;
      }
      (void)co_await (*opened)->close();
      co_return bytes;
    }(*this, file, size, step, std::move(backing)));
  }

  ProductionEnv env_;
};

TEST_F(Interop, CreatesTheSameBytes) {
  struct Case {
    const char* options;
    CreateOptions ours;
  };
  std::vector<Case> cases;
  auto add = [&](const char* text, auto change) {
    CreateOptions o;
    o.size = 64 << 20;
    change(o);
    cases.push_back({text, o});
  };
  add("", [](CreateOptions&) {});
  add("compat=0.10", [](CreateOptions& o) { o.version = 2; });
  for (uint32_t bits = 9; bits <= 21; ++bits) {
    static std::vector<std::string> texts;
    texts.reserve(16);
    texts.push_back(fmt::format("cluster_size={}", 1u << bits));
    add(texts.back().c_str(), [bits](CreateOptions& o) { o.cluster_size = uint64_t{1} << bits; });
  }
  for (uint32_t width = 1; width <= 64; width *= 2) {
    static std::vector<std::string> texts;
    texts.reserve(16);
    texts.push_back(fmt::format("refcount_bits={}", width));
    add(texts.back().c_str(), [width](CreateOptions& o) { o.refcount_bits = width; });
  }
  add("lazy_refcounts=on", [](CreateOptions& o) { o.lazy_refcounts = true; });
  add("extended_l2=on", [](CreateOptions& o) { o.extended_l2 = true; });
  add("compression_type=zstd", [](CreateOptions& o) { o.compression = CompressionType::kZstd; });
  add("backing_file=base,backing_fmt=raw", [](CreateOptions& o) {
    o.backing_file = "base";
    o.backing_format = "raw";
  });
  add("preallocation=metadata",
      [](CreateOptions& o) { o.preallocation = Preallocation::kMetadata; });
  add("preallocation=metadata,compat=0.10,cluster_size=4096", [](CreateOptions& o) {
    o.preallocation = Preallocation::kMetadata;
    o.version = 2;
    o.cluster_size = 4096;
  });
  add("preallocation=falloc", [](CreateOptions& o) { o.preallocation = Preallocation::kFalloc; });
  add("preallocation=full", [](CreateOptions& o) { o.preallocation = Preallocation::kFull; });
  for (const Case& c : cases) {
    SCOPED_TRACE(c.options);
    const std::string theirs = path("theirs.qcow2");
    const std::string ours = path("ours.qcow2");
    const std::string o = *c.options == '\0' ? "" : fmt::format("-o {}", c.options);
    tool(fmt::format("cd {} && qemu-img create -u -q -f qcow2 {} {} 64M", directory_, o, theirs));
    auto made = env_.run_until_complete(create_image(env_, ours, c.ours));
    ASSERT_TRUE(made) << made.error().description;
    tool(fmt::format("cd {} && truncate -s 1M base && qemu-img check -f qcow2 -q {}", directory_,
                     ours));
    tool(fmt::format("qemu-img compare -s -f qcow2 -F qcow2 {} {}", theirs, ours));
    // Where theirs moved the refcount table before it was full, the layout is another.
    if (c.options == std::string_view("preallocation=falloc") ||
        c.options == std::string_view("preallocation=full") || c.ours.version == 2) {
      continue;
    }
    const std::string a = slurp(theirs);
    const std::string b = slurp(ours);
    std::size_t at = 0;
    while (at < std::min(a.size(), b.size()) && a[at] == b[at]) ++at;
    EXPECT_EQ(a.size(), b.size());
    EXPECT_EQ(at, std::min(a.size(), b.size())) << "first difference";
  }
}

// Reads what qemu-io wrote.
TEST_F(Interop, ReadsTheirImages) {
  for (const char* options : {"cluster_size=65536", "cluster_size=512", "cluster_size=2M",
                              "compat=0.10", "extended_l2=on,cluster_size=16384", "extended_l2=on",
                              "preallocation=metadata", "refcount_bits=1", "refcount_bits=64"}) {
    SCOPED_TRACE(options);
    const std::string file = path("t.qcow2");
    tool(fmt::format("qemu-img create -q -f qcow2 -o {} {} 8M", options, file));
    tool(
        fmt::format("qemu-io -f qcow2 -c 'write -P 1 0 1M' -c 'write -P 2 1536k 3k' -c 'write -P 3 "
                    "3333333 777' -c 'write -z 512k 100k' -c 'discard 64k 128k' -c 'write -P 4 7M "
                    "1M' -c 'write -z -u 7200k 256k' {}",
                    file));
    tool(fmt::format("qemu-img convert -f qcow2 -O raw {} {}", file, path("t.raw")));
    const std::string expected = slurp(path("t.raw"));
    for (uint64_t step : {uint64_t{8} << 20, uint64_t{1} << 20, uint64_t{4096}, uint64_t{12345}}) {
      const auto got = read_all(file, expected.size(), step);
      ASSERT_EQ(got.size(), expected.size());
      EXPECT_EQ(std::memcmp(got.data(), expected.data(), got.size()), 0) << "step " << step;
    }
  }
}

TEST_F(Interop, ReadsTheirCompressedImages) {
  // Text compresses, random bytes do not.
  std::string raw;
  std::mt19937_64 random(1);
  while (raw.size() < (6u << 20)) {
    if ((raw.size() >> 18) % 3 == 0) {
      for (int i = 0; i < 8192; ++i) raw.push_back(static_cast<char>(random()));
    } else {
      raw += fmt::format("line {} of {}\n", raw.size(), random() % 1000);
    }
  }
  raw.resize(6 << 20);
  std::ofstream(path("t.raw"), std::ios::binary) << raw;
  for (const char* options :
       {"compression_type=zlib", "compression_type=zstd", "compression_type=zstd,cluster_size=512",
        "cluster_size=4096", "cluster_size=2M", "compat=0.10", "extended_l2=on"}) {
    SCOPED_TRACE(options);
    tool(fmt::format("qemu-img convert -c -f raw -O qcow2 -o {} {} {}", options, path("t.raw"),
                     path("c.qcow2")));
    for (uint64_t step : {uint64_t{6} << 20, uint64_t{65536}, uint64_t{10000}}) {
      const auto got = read_all(path("c.qcow2"), raw.size(), step);
      ASSERT_EQ(got.size(), raw.size());
      EXPECT_EQ(std::memcmp(got.data(), raw.data(), raw.size()), 0) << step;
    }
  }
}

TEST_F(Interop, TheyAcceptWhatWeWrite) {
  std::mt19937_64 random(7);
  struct Case {
    const char* name;
    CreateOptions o;
    bool backing = false;
  };
  std::vector<Case> cases;
  auto add = [&](const char* name, auto change) {
    Case c{name, {}, false};
    c.o.size = 3 << 20;
    change(c);
    cases.push_back(c);
  };
  add("default", [](Case&) {});
  add("512", [](Case& c) { c.o.cluster_size = 512; });
  add("512/64", [](Case& c) {
    c.o.cluster_size = 512;
    c.o.refcount_bits = 64;
  });
  add("4k/1", [](Case& c) {
    c.o.cluster_size = 4096;
    c.o.refcount_bits = 1;
  });
  add("2M", [](Case& c) { c.o.cluster_size = 2 << 20; });
  add("v2", [](Case& c) {
    c.o.version = 2;
    c.o.cluster_size = 8192;
  });
  add("ext", [](Case& c) {
    c.o.extended_l2 = true;
    c.o.cluster_size = 32768;
  });
  add("lazy", [](Case& c) {
    c.o.lazy_refcounts = true;
    c.o.cluster_size = 4096;
  });
  add("backing", [](Case& c) { c.backing = true; });
  add("backing/512", [](Case& c) {
    c.backing = true;
    c.o.cluster_size = 512;
  });
  add("backing/ext", [](Case& c) {
    c.backing = true;
    c.o.extended_l2 = true;
    c.o.cluster_size = 16384;
  });
  add("zstd", [](Case& c) {
    c.o.compression = CompressionType::kZstd;
    c.o.cluster_size = 16384;
  });
  for (Case& c : cases) {
    SCOPED_TRACE(c.name);
    const uint64_t size = c.o.size;
    std::vector<std::byte> base;
    if (c.backing) {
      base.resize(size - 300000);
      for (auto& b : base) b = static_cast<std::byte>(random() | 1);
      std::ofstream(path("base"), std::ios::binary)
          .write(reinterpret_cast<const char*>(base.data()),
                 static_cast<std::streamsize>(base.size()));
      c.o.backing_file = "base";
      c.o.backing_format = "raw";
    }
    ASSERT_TRUE(env_.run_until_complete(create_image(env_, path("w.qcow2"), c.o)));
    std::vector<std::byte> model = base;
    model.resize(size);
    env_.run_until_complete([](Interop& t, std::string file, std::vector<std::byte>& m,
                               std::vector<std::byte> b, std::mt19937_64& r, bool lazy,
                               bool v2) -> Task<void> {
      const bool backed = !b.empty();
      MetadataOptions options = writable_options();
      options.lazy_refcounts = lazy;
      options.l2_pieces = 4;
      options.refcount_pieces = 4;
      auto opened = co_await open_image(t.env_, file, options, std::move(b));
      EXPECT_TRUE(opened);
      if (!opened) co_return;
      Image& image = *(*opened)->image;
      const uint64_t cs = image.geometry().cluster_size;
      std::vector<std::byte> data(m.size());
      for (int i = 0; i < 300; ++i) {
        uint64_t offset = (r() % (m.size() / 512)) * 512;
        uint64_t length =
            std::min<uint64_t>(m.size() - offset, (r() % (i % 10 == 0 ? 800 : 20) + 1) * 512);
        switch (r() % 8) {
          case 0: {
            RequestFlags flags;
            flags.may_unmap = r() % 2 == 0;
            auto done = co_await image.zero(offset, length, flags);
            if (v2 && backed) {
              EXPECT_EQ(done.error().number(), ENOTSUP);
            } else {
              EXPECT_TRUE(done);
              std::fill_n(m.begin() + offset, length, std::byte{0});
            }
            break;
          }
          case 1: {
            auto done = co_await image.discard(offset, length);
            const uint64_t from = align_up(offset, cs);
            uint64_t to = offset + length == m.size() ? m.size() : align_down(offset + length, cs);
            if (done && from < to) std::fill(m.begin() + from, m.begin() + to, std::byte{0});
            break;
          }
          case 2: {
            offset = align_down(offset, cs);
            length = std::min<uint64_t>(m.size() - offset, cs * (1 + r() % 3));
            for (uint64_t k = 0; k < length; ++k) {
              data[k] = static_cast<std::byte>(k / 64 + static_cast<uint64_t>(i));
            }
            EXPECT_TRUE(co_await image.write_compressed(offset, IoVector(data.data(), length)));
            std::copy_n(data.begin(), length, m.begin() + offset);
            break;
          }
          case 3:
            if (i % 5 == 0) EXPECT_TRUE(co_await image.flush());
            break;
          default:
            for (uint64_t k = 0; k < length; ++k) data[k] = static_cast<std::byte>(r());
            EXPECT_TRUE(co_await image.write(offset, IoVector(data.data(), length)));
            std::copy_n(data.begin(), length, m.begin() + offset);
        }
      }
      std::vector<std::byte> got(m.size());
      EXPECT_TRUE(co_await image.read(0, IoVector(got.data(), got.size())));
      EXPECT_TRUE(got == m);
      EXPECT_TRUE(co_await (*opened)->close());
    }(*this, path("w.qcow2"), model, base, random, c.o.lazy_refcounts, c.o.version == 2));
    tool("cd " + directory_ + " && qemu-img check -f qcow2 w.qcow2");
    tool("cd " + directory_ + " && qemu-img convert -f qcow2 -O raw w.qcow2 w.raw");
    const std::string got = slurp(path("w.raw"));
    ASSERT_EQ(got.size(), model.size());
    EXPECT_EQ(std::memcmp(got.data(), model.data(), got.size()), 0);
  }
}

}  // namespace
}  // namespace blockbed::qcow2::test
