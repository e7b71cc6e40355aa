#include "qmp/commands/option_text.h"

#include <gtest/gtest.h>

namespace blockbed {
namespace {

TEST(OptionText, CutsAtCommasAndKeepsDoubledOnes) {
  auto options = OptionText::parse("file=a,,b.img,if=none,id=d0");
  ASSERT_TRUE(options);
  EXPECT_EQ(options->text("file"), "a,b.img");
  EXPECT_EQ(options->text("if"), "none");
  EXPECT_EQ(options->text("id"), "d0");
  EXPECT_FALSE(options->has("format"));
}

TEST(OptionText, FirstItemMayBelongToAnImpliedKey) {
  auto options = OptionText::parse("virtio-blk-pci,drive=a", "driver");
  ASSERT_TRUE(options);
  EXPECT_EQ(options->text("driver"), "virtio-blk-pci");
  EXPECT_TRUE(options->warnings().empty());
}

TEST(OptionText, LaterItemWins) {
  auto options = OptionText::parse("a=1,a=2");
  ASSERT_TRUE(options);
  EXPECT_EQ(options->text("a"), "2");
  EXPECT_EQ(options->take("a"), "2");
  EXPECT_FALSE(options->has("a"));
}

TEST(OptionText, KeyAloneIsASwitchAndDeprecated) {
  auto options = OptionText::parse("socket,server,nowait", "backend");
  ASSERT_TRUE(options);
  EXPECT_EQ(options->text("server"), "on");
  EXPECT_EQ(options->text("wait"), "off");
  ASSERT_EQ(options->warnings().size(), 2u);
  EXPECT_EQ(options->warnings()[0],
            "short-form boolean option 'server' deprecated\nPlease use server=on instead");
  EXPECT_EQ(options->warnings()[1],
            "short-form boolean option 'nowait' deprecated\nPlease use wait=off instead");
}

TEST(OptionText, IdMustBeAnIdentifier) {
  auto options = OptionText::parse("id=1a");
  ASSERT_FALSE(options);
  EXPECT_EQ(options.error().description,
            "Parameter 'id' expects an identifier\n" + std::string(kIdHint));
}

TEST(OptionText, SwitchesAndNumbersComplainInQemusWords) {
  auto options = OptionText::parse("a=maybe,n=x,on=on,seven=7");
  ASSERT_TRUE(options);
  EXPECT_EQ(options->take_switch("a", false).error().description,
            "Parameter 'a' expects 'on' or 'off'");
  EXPECT_EQ(options->take_number("n").error().description, "Parameter 'n' expects a number");
  EXPECT_TRUE(*options->take_switch("on", false));
  EXPECT_EQ(**options->take_number("seven"), 7u);
  EXPECT_FALSE(options->take_number("seven")->has_value());
}

TEST(OptionText, TreeFollowsDots) {
  auto options = OptionText::parse("driver=qcow2,file.driver=file,file.filename=a,,b");
  ASSERT_TRUE(options);
  auto tree = options->tree();
  ASSERT_TRUE(tree);
  const json::Value* file = tree->find("file");
  ASSERT_NE(file, nullptr);
  EXPECT_EQ(file->as_object().find("filename")->as_string(), "a,b");
}

TEST(OptionText, AnythingMayBeTyped) {
  for (const char* text :
       {"", ",", "=", "a=", "=b", ",,", "a,,b", "help", "no", "a=b,", ",,,,,,=,,,"}) {
    auto options = OptionText::parse(text);
    (void)options;
  }
  EXPECT_TRUE(OptionText::parse("help")->help());
}

}  // namespace
}  // namespace blockbed
