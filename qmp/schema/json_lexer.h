// Cutting a stream of bytes into the tokens of QEMU's JSON dialect.
//
// Problem: a monitor reads bytes as they come, in any portions, and must answer damaged input with
// as many errors, worded as QEMU words them, and find its feet again at the same byte; so where a
// damaged token ends is part of the protocol.
// Contract
//  - The dialect: strings in double or single quotes; keywords are runs of lower case letters;
//    numbers as in RFC 8259, save that `0` alone takes no exponent (`0e1` is two tokens to QEMU,
//    and so it is here; `0.0e1` is one).
//  - A byte that cannot go on with the token makes an error token that includes the byte. After it
//    everything is skipped up to a structural character (which is a token again), a line end, or a
//    byte that is an error by itself: a control character other than tab, 0xFE, 0xFF. Those two are
//    never part of a token, so a client can send one to get to a known state.
//  - The text of a token is valid until the next call.
// Memory: a token that lies inside one portion is not copied; of one that does not, at most
// kMaxTokenBytes are held.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace blockbed::json {

// QEMU's limit for one token, and for the tokens of one value together. It bounds what one client
// can make the server hold.
inline constexpr size_t kMaxTokenBytes = size_t{64} << 20;

enum class TokenKind : uint8_t {
  kLeftBrace,
  kRightBrace,
  kLeftBracket,
  kRightBracket,
  kColon,
  kComma,
  kInteger,
  kFloat,
  kKeyword,
  // With its quotes and escapes; the bytes are not yet known to be UTF-8.
  kString,
  kError,
  // Grew beyond kMaxTokenBytes; the next byte begins a new token.
  kTooLong,
};

struct Token {
  TokenKind kind;
  std::string_view text;
};

class Lexer {
 public:
  // Takes bytes from the front of `input`. True: `token` is the next one, and the bytes behind it
  // are still in `input`. False: all bytes were taken and no token is complete.
  bool next(std::string_view& input, Token& token);

  // Ends the input: a number or keyword at its very end is complete, anything else that was begun
  // is an error token.
  bool finish(Token& token);

 private:
  enum class State : uint8_t {
    kStart,
    kRecovery,
    kDoubleQuoted,
    kDoubleQuotedEscape,
    kSingleQuoted,
    kSingleQuotedEscape,
    kSign,
    kZero,
    kDigits,
    kPoint,
    kFraction,
    kExponent,
    kExponentSign,
    kExponentDigits,
    kKeyword,
  };
  enum class Step : uint8_t { kGoOn, kComplete, kCompleteBefore, kError };

  Step step(unsigned char byte, TokenKind& kind);
  Step step_start(unsigned char byte, TokenKind& kind);
  Step step_number(unsigned char byte, TokenKind& kind);

  State state_ = State::kStart;
  // The part of the current token that earlier portions held.
  std::string begun_;
};

}  // namespace blockbed::json
