#include "qmp/schema/json_lexer.h"

namespace blockbed::json {
namespace {

// A buffer that one long token made large is not kept for the life of a session.
constexpr size_t kKeptCapacity = 64 << 10;

bool is_digit(unsigned char byte) { return byte >= '0' && byte <= '9'; }

// Neither ends nor breaks a string: everything but control characters and the two bytes that UTF-8
// never uses. Quotes and the backslash are looked at by the caller.
bool fits_string(unsigned char byte) { return byte >= 0x20 && byte < 0xFE; }

// The last of the bytes from `at` on that go on with a string and are no quote or backslash. The
// byte at `at` is known to be in the string.
size_t skip_plain(std::string_view input, size_t at, size_t end) {
  while (at + 1 < end) {
    const auto next = static_cast<unsigned char>(input[at + 1]);
    if (!fits_string(next) || next == '"' || next == '\'' || next == '\\') break;
    ++at;
  }
  return at;
}

}  // namespace

Lexer::Step Lexer::step_start(unsigned char byte, TokenKind& kind) {
  switch (byte) {
    case '{':
      kind = TokenKind::kLeftBrace;
      return Step::kComplete;
    case '}':
      kind = TokenKind::kRightBrace;
      return Step::kComplete;
    case '[':
      kind = TokenKind::kLeftBracket;
      return Step::kComplete;
    case ']':
      kind = TokenKind::kRightBracket;
      return Step::kComplete;
    case ':':
      kind = TokenKind::kColon;
      return Step::kComplete;
    case ',':
      kind = TokenKind::kComma;
      return Step::kComplete;
    case '\r':
    case '\n':
      state_ = State::kStart;
      return Step::kGoOn;
    default:
      break;
  }
  if (state_ == State::kRecovery) {
    return byte == '\t' || fits_string(byte) ? Step::kGoOn : Step::kError;
  }
  switch (byte) {
    case ' ':
    case '\t':
      return Step::kGoOn;
    case '"':
      state_ = State::kDoubleQuoted;
      return Step::kGoOn;
    case '\'':
      state_ = State::kSingleQuoted;
      return Step::kGoOn;
    case '-':
      state_ = State::kSign;
      return Step::kGoOn;
    case '0':
      state_ = State::kZero;
      return Step::kGoOn;
    default:
      break;
  }
  if (is_digit(byte)) {
    state_ = State::kDigits;
    return Step::kGoOn;
  }
  if (byte >= 'a' && byte <= 'z') {
    state_ = State::kKeyword;
    return Step::kGoOn;
  }
  return Step::kError;
}

Lexer::Step Lexer::step_number(unsigned char byte, TokenKind& kind) {
  const auto go = [this](State state) {
    state_ = state;
    return Step::kGoOn;
  };
  const bool digit = is_digit(byte);
  const bool exponent = byte == 'e' || byte == 'E';
  kind = TokenKind::kFloat;
  switch (state_) {
    case State::kSign:
      if (byte == '0') return go(State::kZero);
      return digit ? go(State::kDigits) : Step::kError;
    case State::kZero:
      if (digit) return Step::kError;
      if (byte == '.') return go(State::kPoint);
      kind = TokenKind::kInteger;
      return Step::kCompleteBefore;
    case State::kDigits:
      if (digit) return Step::kGoOn;
      if (byte == '.') return go(State::kPoint);
      if (exponent) return go(State::kExponent);
      kind = TokenKind::kInteger;
      return Step::kCompleteBefore;
    case State::kPoint:
      return digit ? go(State::kFraction) : Step::kError;
    case State::kFraction:
      if (digit) return Step::kGoOn;
      return exponent ? go(State::kExponent) : Step::kCompleteBefore;
    case State::kExponent:
      if (byte == '+' || byte == '-') return go(State::kExponentSign);
      return digit ? go(State::kExponentDigits) : Step::kError;
    case State::kExponentSign:
      return digit ? go(State::kExponentDigits) : Step::kError;
    default:
      return digit ? Step::kGoOn : Step::kCompleteBefore;
  }
}

Lexer::Step Lexer::step(unsigned char byte, TokenKind& kind) {
  switch (state_) {
    case State::kStart:
    case State::kRecovery:
      return step_start(byte, kind);
    case State::kDoubleQuoted:
    case State::kSingleQuoted: {
      const bool doubled = state_ == State::kDoubleQuoted;
      if (byte == (doubled ? '"' : '\'')) {
        kind = TokenKind::kString;
        return Step::kComplete;
      }
      if (byte == '\\') {
        state_ = doubled ? State::kDoubleQuotedEscape : State::kSingleQuotedEscape;
        return Step::kGoOn;
      }
      return fits_string(byte) ? Step::kGoOn : Step::kError;
    }
    case State::kDoubleQuotedEscape:
      state_ = State::kDoubleQuoted;
      return fits_string(byte) ? Step::kGoOn : Step::kError;
    case State::kSingleQuotedEscape:
      state_ = State::kSingleQuoted;
      return fits_string(byte) ? Step::kGoOn : Step::kError;
    case State::kKeyword:
      kind = TokenKind::kKeyword;
      return byte >= 'a' && byte <= 'z' ? Step::kGoOn : Step::kCompleteBefore;
    default:
      return step_number(byte, kind);
  }
}

bool Lexer::next(std::string_view& input, Token& token) {
  const auto between_tokens = [this] {
    return state_ == State::kStart || state_ == State::kRecovery;
  };
  if (between_tokens()) {
    begun_.clear();
    if (begun_.capacity() > kKeptCapacity) begun_.shrink_to_fit();
  }
  size_t begin = 0;
  for (size_t at = 0; at < input.size(); ++at) {
    const bool was_between = between_tokens();
    const Step step = this->step(static_cast<unsigned char>(input[at]), token.kind);
    if (was_between) begin = at;
    const bool too_long = at - begin >= kMaxTokenBytes - begun_.size() && !between_tokens();
    if (step == Step::kGoOn && !too_long) {
      if (state_ == State::kDoubleQuoted || state_ == State::kSingleQuoted) {
        const size_t room = kMaxTokenBytes - begun_.size();
        at = skip_plain(input, at, room > input.size() - begin ? input.size() : begin + room);
      }
      continue;
    }
    const size_t end = step == Step::kCompleteBefore ? at : at + 1;
    token.text = input.substr(begin, end - begin);
    if (!begun_.empty()) {
      begun_ += token.text;
      token.text = begun_;
    }
    state_ = State::kStart;
    if (step == Step::kError) {
      token.kind = TokenKind::kError;
      state_ = State::kRecovery;
    } else if (step == Step::kGoOn) {
      token.kind = TokenKind::kTooLong;
    }
    input.remove_prefix(end);
    return true;
  }
  if (!between_tokens()) begun_ += input.substr(begin);
  input = {};
  return false;
}

bool Lexer::finish(Token& token) {
  switch (state_) {
    case State::kStart:
    case State::kRecovery:
      state_ = State::kStart;
      return false;
    case State::kZero:
    case State::kDigits:
      token.kind = TokenKind::kInteger;
      break;
    case State::kFraction:
    case State::kExponentDigits:
      token.kind = TokenKind::kFloat;
      break;
    case State::kKeyword:
      token.kind = TokenKind::kKeyword;
      break;
    default:
      token.kind = TokenKind::kError;
      break;
  }
  token.text = begun_;
  state_ = State::kStart;
  return true;
}

}  // namespace blockbed::json
