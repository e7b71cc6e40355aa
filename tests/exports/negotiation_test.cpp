// The handshake as a state machine over bytes: what QEMU 7.2.22 answers to each option, well formed
// and not. The expected texts are those that the installed server sends.
#include "block/exports/nbd/negotiation.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

#include "tests/exports/nbd_client_fixture.h"

namespace blockbed::nbd {
namespace {

using namespace test;

class Catalog final : public ExportCatalog {
 public:
  std::optional<ExportFacts> find(std::string_view name) const override {
    const auto found = std::ranges::find(exports, name, &ExportFacts::name);
    if (found == exports.end()) return std::nullopt;
    return *found;
  }
  std::vector<ExportFacts> list() const override { return exports; }

  ExportFacts& add(std::string name, uint64_t size) {
    ExportFacts& facts = exports.emplace_back();
    facts.identity = exports.size();
    facts.name = std::move(name);
    facts.size = size;
    facts.flags = kHasFlags | kSendFlush;
    return facts;
  }
  std::vector<ExportFacts> exports;
};

class NegotiationTest : public testing::Test {
 public:
  NegotiationTest() {
    catalog.add("disk", 1 << 20).description = "some text";
    ExportFacts& chain = catalog.add("chain", 4096);
    chain.allocation_depth = true;
    chain.bitmaps = {"b0", "b1"};
    catalog.add("big-blocks", 8192).minimum_block = 512;
  }

  void start(uint32_t flags = kFixedNewstyle | kNoZeroes) {
    negotiation.emplace(catalog);
    feed(big_endian(flags));
  }
  void feed(const Bytes& bytes) {
    const std::size_t taken = negotiation->consume(bytes);
    if (negotiation->phase() == Negotiation::Phase::kHandshake) {
      EXPECT_EQ(taken, bytes.size());
    }
  }
  std::vector<OptionAnswer> take_answers() {
    auto answers = split_answers(negotiation->output());
    negotiation->output().clear();
    return answers;
  }
  std::vector<OptionAnswer> ask(Option option, const Bytes& data = {}) {
    feed(option_bytes(option, data));
    return take_answers();
  }
  // "ERR TEXT" of a refusal, "ACK", or the number of replies before an ACK.
  std::string verdict(Option option, const Bytes& data = {}) {
    const auto answers = ask(option, data);
    if (answers.empty()) return "nothing";
    EXPECT_EQ(answers.back().header.option, static_cast<uint32_t>(option));
    if (answers.back().type() == OptionReply::kAck) {
      return answers.size() == 1 ? "ack" : std::to_string(answers.size() - 1) + " and ack";
    }
    return names.at(answers.back().header.type & ~kOptionErrorBit) + ": " + answers.back().text();
  }
  std::vector<std::string> contexts(Option option, std::string_view name,
                                    const std::vector<std::string>& queries) {
    std::vector<std::string> out;
    for (const OptionAnswer& answer : ask(option, meta_data(name, queries))) {
      if (answer.type() == OptionReply::kMetaContext) {
        out.push_back(std::to_string(get<uint32_t>(answer.data.data())) + " " +
                      answer.text().substr(4));
      }
    }
    return out;
  }
  Negotiation::Phase phase() const { return negotiation->phase(); }

  const std::map<uint32_t, std::string> names = {
      {1, "unsupported"},         {2, "policy"}, {3, "invalid"}, {6, "unknown"},
      {8, "block size required"}, {9, "too big"}};
  Catalog catalog;
  std::optional<Negotiation> negotiation;
};

constexpr auto kHandshake = Negotiation::Phase::kHandshake;
constexpr auto kTransmission = Negotiation::Phase::kTransmission;
constexpr auto kClose = Negotiation::Phase::kClose;

TEST_F(NegotiationTest, UnknownClientFlagsEndTheConnection) {
  for (const uint32_t flags : {4u, 7u, 0xffffffffu}) {
    start(flags);
    EXPECT_EQ(phase(), kClose);
    EXPECT_TRUE(negotiation->output().empty());
  }
  EXPECT_EQ(negotiation->reason(), "Unknown client flags 0xfffffffc received");
}

TEST_F(NegotiationTest, AClientThatIsNotFixedNewstyleMayOnlyNameAnExport) {
  for (const Option option :
       {Option::kList, Option::kAbort, Option::kGo, Option::kStructuredReply}) {
    start(kNoZeroes);
    EXPECT_TRUE(ask(option).empty());
    EXPECT_EQ(phase(), kClose);
  }
  start(0);
  feed(option_bytes(Option::kExportName, bytes_of("disk")));
  EXPECT_EQ(phase(), kTransmission);
  EXPECT_EQ(negotiation->output().size(), 10 + kExportNameZeroes);
}

TEST_F(NegotiationTest, ExportName) {
  start();
  feed(option_bytes(Option::kExportName, bytes_of("disk")));
  EXPECT_EQ(phase(), kTransmission);
  EXPECT_EQ(negotiation->output(),
            big_endian(uint64_t{1 << 20}) + big_endian(uint16_t{kHasFlags | kSendFlush}));
  EXPECT_EQ(negotiation->selected().identity, 1u);
  for (const std::string& name :
       {std::string(), std::string("nosuch"), std::string(kMaxString, 'a'),
        std::string(kMaxString + 1, 'a'), std::string("disk\0", 5)}) {
    start();
    feed(option_bytes(Option::kExportName, bytes_of(name)));
    EXPECT_EQ(phase(), kClose) << name;
    EXPECT_TRUE(negotiation->output().empty());
  }
}

TEST_F(NegotiationTest, WhatFollowsTheChoiceIsLeftForTransmission) {
  start();
  const Bytes option = option_bytes(Option::kGo, info_data("disk"));
  EXPECT_EQ(negotiation->consume(option + bytes_of("first request")), option.size());
  EXPECT_EQ(phase(), kTransmission);
}

TEST_F(NegotiationTest, BadMagicEndsTheConnection) {
  start();
  Bytes option = option_bytes(Option::kList);
  option[0] = std::byte{0};
  feed(option);
  EXPECT_EQ(phase(), kClose);
  EXPECT_EQ(negotiation->reason(), "Bad magic received");
}

TEST_F(NegotiationTest, AbortIsAcknowledged) {
  start();
  EXPECT_EQ(verdict(Option::kAbort), "ack");
  EXPECT_EQ(phase(), kClose);
  EXPECT_EQ(negotiation->reason(), "");
}

TEST_F(NegotiationTest, List) {
  start();
  const auto answers = ask(Option::kList);
  ASSERT_EQ(answers.size(), 4u);
  EXPECT_EQ(answers[0].data, big_endian(uint32_t{4}) + bytes_of("disksome text"));
  EXPECT_EQ(answers[1].data, big_endian(uint32_t{5}) + bytes_of("chain"));
  EXPECT_EQ(answers[3].type(), OptionReply::kAck);
  EXPECT_EQ(verdict(Option::kList, bytes_of("a")), "invalid: option 'list' has unexpected length");
  EXPECT_EQ(verdict(Option::kList), "3 and ack");
}

TEST_F(NegotiationTest, UnknownOptions) {
  start();
  for (const uint32_t number : {0u, 4u, 11u, 255u, 0xffffffffu}) {
    for (const std::size_t length : {0, 1, 300, 20000}) {
      EXPECT_EQ(verdict(static_cast<Option>(number), Bytes(length)),
                "unsupported: Unsupported option " + std::to_string(number) + " (<unknown>)");
    }
  }
  EXPECT_EQ(verdict(Option::kList), "3 and ack");
}

TEST_F(NegotiationTest, OptionsOfMoreThan32MiBEndTheConnection) {
  for (const Option option : {Option::kList, Option::kGo, Option::kSetMetaContext, Option(99)}) {
    start();
    Bytes header(kOptionHeaderSize);
    encode(header.data(),
           OptionHeader{kOptionMagic, static_cast<uint32_t>(option), kMaxPayload + 1});
    feed(header);
    EXPECT_EQ(phase(), kClose);
    EXPECT_TRUE(negotiation->output().empty());
  }
  // The longest that is taken is skipped, not held.
  start();
  Bytes header(kOptionHeaderSize);
  encode(header.data(), OptionHeader{kOptionMagic, 99, kMaxPayload});
  feed(header);
  const Bytes part(1 << 20);
  for (int i = 0; i < 32; ++i) feed(part);
  EXPECT_EQ(take_answers().size(), 1u);
  EXPECT_EQ(verdict(Option::kList), "3 and ack");
}

TEST_F(NegotiationTest, OptionsTooLongToBeHeldAreSkipped) {
  for (const Option option : {Option::kInfo, Option::kGo, Option::kListMetaContext}) {
    start();
    EXPECT_EQ(verdict(option, Bytes(Negotiation::kMaxOptionData + 1)),
              "too big: option '" + std::string(option_name(static_cast<uint32_t>(option))) +
                  "' is too long");
    EXPECT_EQ(verdict(Option::kList), "3 and ack");
  }
}

TEST_F(NegotiationTest, TlsIsRefused) {
  start();
  EXPECT_EQ(verdict(Option::kStartTls), "policy: TLS not configured");
  EXPECT_EQ(verdict(Option::kStartTls, bytes_of("a")),
            "invalid: option 'starttls' has unexpected length");
}

TEST_F(NegotiationTest, StructuredReplies) {
  start();
  EXPECT_EQ(verdict(Option::kStructuredReply, bytes_of("a")),
            "invalid: option 'structured reply' has unexpected length");
  EXPECT_FALSE(negotiation->structured_replies());
  EXPECT_EQ(verdict(Option::kStructuredReply), "ack");
  EXPECT_EQ(verdict(Option::kStructuredReply), "invalid: structured reply already negotiated");
  EXPECT_TRUE(negotiation->structured_replies());
}

TEST_F(NegotiationTest, InfoAndGoTellWhatWasAskedFor) {
  start();
  ask(Option::kStructuredReply);
  const auto kinds = [](const std::vector<OptionAnswer>& answers) {
    std::vector<uint16_t> out;
    for (const OptionAnswer& answer : answers) {
      if (answer.type() == OptionReply::kInfo) out.push_back(get<uint16_t>(answer.data.data()));
    }
    return out;
  };
  EXPECT_EQ(kinds(ask(Option::kInfo, info_data("disk"))), (std::vector<uint16_t>{2, 3, 0}));
  EXPECT_EQ(kinds(ask(Option::kInfo, info_data("disk", {Info::kName, Info(99)}))),
            (std::vector<uint16_t>{1, 2, 3, 0}));
  EXPECT_EQ(kinds(ask(Option::kInfo, info_data("chain"))), (std::vector<uint16_t>{3, 0}));
  EXPECT_EQ(phase(), kHandshake);
  const auto answers = ask(Option::kGo, info_data("disk"));
  EXPECT_EQ(phase(), kTransmission);
  ASSERT_EQ(answers.size(), 4u);
  EXPECT_EQ(answers[2].data, big_endian(uint16_t{0}) + big_endian(uint64_t{1 << 20}) +
                                 big_endian(uint16_t{kHasFlags | kSendFlush | kSendDf}));
}

TEST_F(NegotiationTest, TheSmallestBlockIsToldToThoseWhoObey) {
  const auto minimum = [&](Option option, std::vector<Info> infos) {
    start();
    const auto answers = ask(option, info_data("big-blocks", std::move(infos)));
    return std::pair(get<uint32_t>(answers.at(0).data.data() + 2), answers.back().text());
  };
  EXPECT_EQ(minimum(Option::kGo, {}), std::pair(1u, std::string()));
  EXPECT_EQ(minimum(Option::kGo, {Info::kBlockSize}), std::pair(512u, std::string()));
  EXPECT_EQ(minimum(Option::kInfo, {Info::kBlockSize}), std::pair(512u, std::string()));
  EXPECT_EQ(minimum(Option::kInfo, {}),
            std::pair(512u, std::string("request NBD_INFO_BLOCK_SIZE to use this export")));
}

TEST_F(NegotiationTest, MalformedInfoAndGo) {
  for (const auto& [option, word] :
       {std::pair(Option::kInfo, std::string("info")), {Option::kGo, "go"}}) {
    start();
    const std::string inconsistent = "invalid: Inconsistent lengths in option " + word;
    const std::string unexpected = "invalid: option '" + word + "' has unexpected length";
    const Bytes good = info_data("disk", {Info::kName});
    for (std::size_t length = 0; length < good.size(); ++length) {
      EXPECT_EQ(
          verdict(option, Bytes(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(length))),
          inconsistent)
          << length;
    }
    EXPECT_EQ(verdict(option, good + bytes_of("z")), unexpected);
    EXPECT_EQ(verdict(option, big_endian(uint32_t{100}) + bytes_of("abc")), inconsistent);
    EXPECT_EQ(verdict(option, big_endian(uint32_t{0xffffffff}) + bytes_of("abc")),
              "invalid: Invalid name length: 4294967295");
    EXPECT_EQ(verdict(option, info_data(std::string(kMaxString + 1, 'a'))),
              "invalid: Invalid name length: 4097");
    EXPECT_EQ(verdict(option, info_data(std::string("a\0b", 3))),
              "invalid: Unexpected embedded NUL in option " + word);
    EXPECT_EQ(verdict(option, info_data("nosuch")), "unknown: export 'nosuch' not present");
    EXPECT_EQ(verdict(option, info_data(std::string(79, 'a'))),
              "unknown: export '" + std::string(79, 'a') + "' not present");
    EXPECT_EQ(verdict(option, info_data(std::string(80, 'a'))),
              "unknown: export '" + std::string(80, 'a') + "...' not present");
    EXPECT_EQ(verdict(option, info_data(std::string(kMaxString, 'a'))),
              "unknown: export '" + std::string(80, 'a') + "...' not present");
    EXPECT_EQ(phase(), kHandshake);
  }
}

TEST_F(NegotiationTest, ListingContexts) {
  start();
  const auto list = [&](std::string_view name, std::vector<std::string> queries) {
    return contexts(Option::kListMetaContext, name, queries);
  };
  using Names = std::vector<std::string>;
  const Names all = {"0 base:allocation", "0 qemu:allocation-depth", "0 qemu:dirty-bitmap:b0",
                     "0 qemu:dirty-bitmap:b1"};
  EXPECT_EQ(list("disk", {}), Names{"0 base:allocation"});
  EXPECT_EQ(list("chain", {}), all);
  EXPECT_EQ(list("chain", {"qemu:", "base:"}), all);
  EXPECT_EQ(list("chain", {"base:"}), Names{"0 base:allocation"});
  EXPECT_EQ(list("chain", {"qemu:dirty-bitmap:"}),
            (Names{"0 qemu:dirty-bitmap:b0", "0 qemu:dirty-bitmap:b1"}));
  EXPECT_EQ(list("chain", {"qemu:dirty-bitmap:b1"}), Names{"0 qemu:dirty-bitmap:b1"});
  EXPECT_EQ(list("disk", {"qemu:allocation-depth"}), Names{});
  for (const char* query :
       {"", ":", "x:", "base", "base:allocatio", "base:allocationx", "BASE:ALLOCATION", "qemu:a",
        "qemu:allocation-", "qemu:allocation-depthx", "qemu:dirty-bitmap:b"}) {
    EXPECT_EQ(list("chain", {query}), Names{}) << query;
  }
  EXPECT_EQ(list("chain", {std::string(kMaxString + 1, 'a')}), Names{});
}

TEST_F(NegotiationTest, SettingContexts) {
  start();
  EXPECT_EQ(verdict(Option::kSetMetaContext, meta_data("chain", {"base:allocation"})),
            "invalid: request option 'set meta context' when structured reply is not negotiated");
  ask(Option::kStructuredReply);
  using Names = std::vector<std::string>;
  const auto set = [&](std::string_view name, std::vector<std::string> queries) {
    return contexts(Option::kSetMetaContext, name, queries);
  };
  EXPECT_EQ(set("chain", {}), Names{});
  EXPECT_EQ(set("chain", {"base:", "qemu:", "qemu:dirty-bitmap:"}), Names{});
  EXPECT_EQ(
      set("chain", {"base:allocation", "qemu:allocation-depth", "foo:bar", "qemu:dirty-bitmap:b1"}),
      (Names{"0 base:allocation", "1 qemu:allocation-depth", "3 qemu:dirty-bitmap:b1"}));
  EXPECT_EQ(negotiation->contexts().count(), 3u);
}

TEST_F(NegotiationTest, ContextsHoldForTheExportTheyWereChosenFor) {
  const auto after = [&](const std::function<void()>& between, const char* name) {
    start();
    ask(Option::kStructuredReply);
    contexts(Option::kSetMetaContext, "chain", {"base:allocation"});
    between();
    feed(option_bytes(Option::kGo, info_data(name)));
    return negotiation->contexts().count();
  };
  EXPECT_EQ(after([] {}, "chain"), 1u);
  EXPECT_EQ(after([] {}, "disk"), 0u);
  EXPECT_EQ(after([&] { ask(Option::kInfo, info_data("disk")); }, "chain"), 1u);
  EXPECT_EQ(
      after([&] { contexts(Option::kSetMetaContext, "nosuch", {"base:allocation"}); }, "chain"),
      0u);
  EXPECT_EQ(after([&] { ask(Option::kSetMetaContext, Bytes()); }, "chain"), 0u);
  // Another export took the name meanwhile.
  EXPECT_EQ(after([&] { catalog.exports[1].identity = 77; }, "chain"), 0u);
}

TEST_F(NegotiationTest, MalformedContextOptions) {
  for (const auto& [option, word] :
       {std::pair(Option::kListMetaContext, std::string("list meta context")),
        {Option::kSetMetaContext, "set meta context"}}) {
    start();
    ask(Option::kStructuredReply);
    const std::string inconsistent = "invalid: Inconsistent lengths in option " + word;
    const std::string unexpected = "invalid: option '" + word + "' has unexpected length";
    const Bytes good = meta_data("chain", {"base:allocation"});
    for (std::size_t length = 0; length < good.size(); ++length) {
      EXPECT_EQ(
          verdict(option, Bytes(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(length))),
          inconsistent)
          << length;
    }
    EXPECT_EQ(verdict(option, good + bytes_of("z")), unexpected);
    const Bytes name = big_endian(uint32_t{5}) + bytes_of("chain");
    EXPECT_EQ(verdict(option, name + big_endian(uint32_t{0xffffffff})), inconsistent);
    EXPECT_EQ(verdict(option, name + big_endian(uint32_t{1}) + big_endian(uint32_t{0xffffffff}) +
                                  bytes_of("base")),
              inconsistent);
    EXPECT_EQ(verdict(option, meta_data("nosuch", {})), "unknown: export 'nosuch' not present");
    EXPECT_EQ(verdict(option, meta_data(std::string(kMaxString + 1, 'a'), {})),
              "invalid: Invalid name length: 4097");
    EXPECT_EQ(phase(), kHandshake);
  }
}

TEST_F(NegotiationTest, ConsumePausesWhileNobodyTakesTheAnswers) {
  for (int i = 0; i < 200; ++i)
    catalog.add("e" + std::to_string(i), 1).description = std::string(kMaxString, 'd');
  start();
  Bytes many;
  for (int i = 0; i < 100; ++i) many = many + option_bytes(Option::kList);
  const std::size_t taken = negotiation->consume(many);
  EXPECT_EQ(taken, kOptionHeaderSize);
  const std::size_t one_answer = negotiation->output().size();
  EXPECT_EQ(negotiation->consume(std::span(many).subspan(taken)), 0u);
  EXPECT_EQ(negotiation->output().size(), one_answer);
  negotiation->output().clear();
  EXPECT_EQ(negotiation->consume(std::span(many).subspan(taken)), kOptionHeaderSize);
}

TEST_F(NegotiationTest, FragmentsMakeNoDifference) {
  Bytes script =
      big_endian(uint32_t{kFixedNewstyle | kNoZeroes}) + option_bytes(Option::kStructuredReply) +
      option_bytes(Option::kList) + option_bytes(Option(42), Bytes(333)) +
      option_bytes(Option::kInfo, info_data("nosuch")) + option_bytes(Option::kInfo, Bytes()) +
      option_bytes(Option::kSetMetaContext,
                   meta_data("chain", {"base:allocation", "qemu:allocation-depth"})) +
      option_bytes(Option::kGo, info_data("chain", {Info::kName}));
  Negotiation whole(catalog);
  EXPECT_EQ(whole.consume(script), script.size());
  ASSERT_EQ(whole.phase(), kTransmission);
  std::mt19937 random(7);
  for (int round = 0; round < 200; ++round) {
    Negotiation cut(catalog);
    std::size_t at = 0;
    while (at < script.size()) {
      const std::size_t part = std::min<std::size_t>(random() % 40, script.size() - at);
      ASSERT_EQ(cut.consume(std::span(script).subspan(at, part)), part);
      at += part;
    }
    ASSERT_EQ(cut.phase(), kTransmission);
    ASSERT_EQ(cut.output(), whole.output());
    ASSERT_EQ(cut.contexts().count(), 2u);
  }
}

TEST_F(NegotiationTest, RandomBytesEndInOneOfThreeWays) {
  std::mt19937_64 random(11);
  for (int round = 0; round < 3000; ++round) {
    start();
    for (int i = 0; i < 8 && phase() == kHandshake; ++i) {
      Bytes data(random() % 64);
      for (std::byte& byte : data) byte = static_cast<std::byte>(random() % 4 == 0 ? random() : 0);
      feed(option_bytes(static_cast<Option>(random() % 14), data));
      // Whatever it said is a run of whole replies, or the short answer that ends the handshake.
      std::size_t length = 0;
      for (const OptionAnswer& answer : split_answers(negotiation->output())) {
        length += kOptionReplyHeaderSize + answer.data.size();
      }
      if (phase() != kTransmission) ASSERT_EQ(length, negotiation->output().size());
      negotiation->output().clear();
    }
  }
}

}  // namespace
}  // namespace blockbed::nbd
