#include "qmp/schema/json_parse.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "qmp/schema/json_write.h"

namespace blockbed::json {
namespace {

std::string show(const Expected<Value>& item) {
  return item ? to_string(*item) : "! " + item.error().description;
}

// What comes of the bytes, fed in portions of `step`; without ending the input.
std::vector<std::string> frame(std::string_view bytes, size_t step = SIZE_MAX) {
  Framer framer;
  std::vector<std::string> items;
  while (!bytes.empty()) {
    std::string_view portion = bytes.substr(0, step);
    bytes.remove_prefix(portion.size());
    while (auto item = framer.next(portion)) items.push_back(show(*item));
  }
  return items;
}

using Items = std::vector<std::string>;

std::string parsed(std::string_view text) { return show(parse(text)); }

TEST(JsonFramer, ValuesBackToBackInAnyPortions) {
  const std::string bytes =
      "{\"execute\":'qmp_capabilities'}\r\n[1,2]  {\n\"a\" : [ -0.5e1, \"\\u00e9\" ] } 17 ";
  const Items expected = {R"({"execute": "qmp_capabilities"})", "[1, 2]",
                          R"({"a": [-5, "\u00E9"]})", "17"};
  for (size_t step = 1; step <= bytes.size(); ++step) EXPECT_EQ(frame(bytes, step), expected);
}

TEST(JsonFramer, NumberOutsideOfBracketsWaitsForTheByteAfterIt) {
  EXPECT_EQ(frame("12"), Items{});
  EXPECT_EQ(frame("12 "), Items{"12"});
  EXPECT_EQ(frame("[12]"), Items{"[12]"});
}

TEST(JsonFramer, AnErrorIsToldWhenTheValueEnds) {
  EXPECT_EQ(frame("{\"a\":tru,[1"), Items{});
  EXPECT_EQ(frame("{\"a\":tru,[1]}"), Items{"! JSON parse error, invalid keyword 'tru'"});
  EXPECT_EQ(frame("[}"), Items{"! JSON parse error, expecting value"});
  EXPECT_EQ(frame("}}"),
            (Items{"! JSON parse error, expecting value", "! JSON parse error, expecting value"}));
}

TEST(JsonFramer, AStrayByteForgetsWhatWasBegun) {
  EXPECT_EQ(frame("{\"a\":[1,\xff{}"), (Items{"! JSON parse error, stray '\xff'", "{}"}));
  EXPECT_EQ(frame("\"abc\xfe[]"), (Items{"! JSON parse error, stray '\"abc\xfe'", "[]"}));
  EXPECT_EQ(frame("[1,2\x01]"),
            (Items{"! JSON parse error, stray '\x01'", "! JSON parse error, expecting value"}));
}

TEST(JsonFramer, RecoversAtBracketsLineEndsAndControlCharacters) {
  EXPECT_EQ(frame("NaN 1 2 \n3 "), (Items{"! JSON parse error, stray 'N'", "3"}));
  EXPECT_EQ(frame("$ $ {}"), (Items{"! JSON parse error, stray '$'", "{}"}));
  EXPECT_EQ(frame("$\t\x02"),
            (Items{"! JSON parse error, stray '$'", "! JSON parse error, stray '\x02'"}));
}

TEST(JsonFramer, AMessageEndsAtANul) {
  EXPECT_EQ(frame(std::string_view("\"ab\0", 4)), Items{"! JSON parse error, stray '\"ab'"});
}

TEST(JsonFramer, DepthIsBounded) {
  const auto nested = [](int depth) {
    return std::string(static_cast<size_t>(depth), '[') +
           std::string(static_cast<size_t>(depth), ']');
  };
  EXPECT_EQ(frame(nested(kMaxDepth)).size(), 1U);
  EXPECT_EQ(frame(nested(kMaxDepth)).at(0)[0], '[');
  const Items deeper = frame(nested(kMaxDepth + 1));
  ASSERT_EQ(deeper.size(), 1U + kMaxDepth + 1U);
  EXPECT_EQ(deeper[0], "! JSON nesting depth limit exceeded");
  EXPECT_EQ(deeper[1], "! JSON parse error, expecting value");
}

TEST(JsonFramer, CountOfTokensIsBounded) {
  // "[" and then pairs of a number and a comma; the last pair is a number and "]".
  const auto list = [](size_t numbers) {
    std::string text = "[1";
    for (size_t i = 1; i < numbers; ++i) text += ",1";
    return text + "]";
  };
  const size_t largest = (kMaxTokens - 1) / 2;  // "[", n numbers, n - 1 commas, "]": 2n + 1
  EXPECT_EQ(frame(list(largest)).at(0)[0], '[');
  EXPECT_EQ(frame(list(largest + 1)).at(0), "! JSON token count limit exceeded");
}

TEST(JsonFramer, SizeOfATokenIsBounded) {
  for (const char begin : {'"', '1', 'a'}) {
    Framer framer;
    std::string bytes(kMaxTokenBytes, begin == '"' ? 'x' : begin);
    bytes[0] = begin;
    std::string_view rest = bytes;
    EXPECT_FALSE(framer.next(rest));
    rest = begin == '"' ? "xy []" : begin == '1' ? "1 []" : "a []";
    auto item = framer.next(rest);
    ASSERT_TRUE(item);
    EXPECT_EQ(show(*item), "! JSON token size limit exceeded");
    // The next byte begins anew.
    item = framer.next(rest);
    ASSERT_TRUE(item);
    EXPECT_EQ(show(*item), begin == '"' ? "! JSON parse error, invalid keyword 'y'" : "[]");
  }
}

TEST(JsonFramer, SizeOfAllTokensOfAValueIsBounded) {
  // "[", two strings, two commas, and one-digit numbers: the one that reaches the limit is refused.
  const std::string string = '"' + std::string(kMaxTokenBytes / 2 - 8, 'x') + "\",";
  Framer framer;
  for (std::string_view portion : {std::string_view("["), std::string_view(string),
                                   std::string_view(string), std::string_view("1,1,1,1,")}) {
    EXPECT_FALSE(framer.next(portion));
  }
  std::string_view rest = "1,1 ";
  const auto item = framer.next(rest);
  ASSERT_TRUE(item);
  EXPECT_EQ(show(*item), "! JSON token size limit exceeded");
  EXPECT_EQ(rest, ",1 ");
}

TEST(JsonFramer, ALargeObjectTakesNoQuadraticTime) {
  std::string text = "{";
  for (int i = 0; i < 400000; ++i) text += "\"k" + std::to_string(i) + "\":0,";
  EXPECT_EQ(frame(text + "\"last\":1}").at(0)[0], '{');
  EXPECT_EQ(frame(text + "\"k7\":1}").at(0), "! JSON parse error, duplicate key");
}

TEST(JsonParse, Grammar) {
  EXPECT_EQ(parsed("{a:1}"), "! JSON parse error, invalid keyword 'a'");
  EXPECT_EQ(parsed("{1:1}"), "! JSON parse error, key is not a string in object");
  EXPECT_EQ(parsed("{\"a\" 1}"), "! JSON parse error, missing : in object pair");
  EXPECT_EQ(parsed("{\"a\":1 2}"), "! JSON parse error, expected separator in dict");
  EXPECT_EQ(parsed("{\"a\":1,}"), "! JSON parse error, expecting value");
  EXPECT_EQ(parsed("[1 2]"), "! JSON parse error, expected separator in list");
  EXPECT_EQ(parsed("[1,]"), "! JSON parse error, expecting value");
  EXPECT_EQ(parsed("{\"a\":1,'a':2}"), "! JSON parse error, duplicate key");
  EXPECT_EQ(parsed("%d"), "! JSON parse error, stray '%'");
}

TEST(JsonParse, OneValueAndItsEnd) {
  EXPECT_EQ(parsed(""), "! Expecting a JSON value");
  EXPECT_EQ(parsed(" \n"), "! Expecting a JSON value");
  EXPECT_EQ(parsed("{} "), "{}");
  EXPECT_EQ(parsed("{}{}"), "! Expecting at most one JSON value");
  EXPECT_EQ(parsed("1 2"), "! Expecting at most one JSON value");
  EXPECT_EQ(parsed("{} x{"), "! Expecting at most one JSON value");
  EXPECT_EQ(parsed("}}"), "! JSON parse error, expecting value");
  EXPECT_EQ(parsed("42"), "42");
  EXPECT_EQ(parsed("tru"), "! JSON parse error, invalid keyword 'tru'");
  EXPECT_EQ(parsed("-"), "! JSON parse error, stray '-'");
  EXPECT_EQ(parsed("\"abc"), "! JSON parse error, stray '\"abc'");
  EXPECT_EQ(parsed("{"), "! JSON parse error, premature EOI");
  EXPECT_EQ(parsed("{\"a\""), "! JSON parse error, premature EOI");
  EXPECT_EQ(parsed("{\"a\":1,\"a\":2"), "! JSON parse error, duplicate key");
  EXPECT_EQ(parsed("{{}"), "! JSON parse error, key is not a string in object");
  EXPECT_EQ(parsed("[1,"), "! JSON parse error, premature EOI");
}

TEST(JsonParse, Numbers) {
  EXPECT_TRUE(parse("9223372036854775807")->is_int64());
  const auto large = parse("9223372036854775808");
  EXPECT_TRUE(large->is_integer() && !large->is_int64());
  EXPECT_EQ(large->as_uint64(), 9223372036854775808U);
  EXPECT_EQ(parsed("18446744073709551616"), "1.8446744073709552e+19");
  EXPECT_EQ(parsed("-9223372036854775809"), "-9.2233720368547758e+18");
  EXPECT_EQ(parsed("-0"), "0");
  EXPECT_EQ(parsed("-0.0"), "-0");
  EXPECT_TRUE(std::isinf(parse("1e999")->as_double()));
  EXPECT_EQ(parse("1e-400")->as_double(), 0.0);
  EXPECT_EQ(parsed("01"), "! JSON parse error, stray '01'");
  EXPECT_EQ(parsed("1."), "! JSON parse error, stray '1.'");
  EXPECT_EQ(parsed("0e1"), "! Expecting at most one JSON value");
}

TEST(JsonParse, Strings) {
  EXPECT_EQ(parse("'it\\'s \"q\"'")->as_string(), "it's \"q\"");
  EXPECT_EQ(parse("\"\\u0000\"")->as_string(), "\xc0\x80");
  EXPECT_EQ(parse("\"\\ud83d\\ude00\"")->as_string(), "\xf0\x9f\x98\x80");
  EXPECT_EQ(parsed("\"\\ud800\""), "! JSON parse error, \\ud800 is not a valid Unicode character");
  EXPECT_EQ(parsed("\"\\ud83f\\udfff\""),
            "! JSON parse error, \\ud83f\\udfff is not a valid Unicode character");
  EXPECT_EQ(parsed("\"\\u12\""), "! JSON parse error, \\u12\" is not a valid Unicode character");
  EXPECT_EQ(parsed("\"\\ufffe\""), "! JSON parse error, \\ufffe is not a valid Unicode character");
  EXPECT_EQ(parsed("\"\\x\""), "! JSON parse error, invalid escape sequence in string");
  EXPECT_EQ(parsed("\"\xc3\""), "! JSON parse error, invalid UTF-8 sequence in string");
  EXPECT_EQ(parsed("\"\xed\xa0\x80\""), "! JSON parse error, invalid UTF-8 sequence in string");
}

}  // namespace
}  // namespace blockbed::json
