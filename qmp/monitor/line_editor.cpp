#include "qmp/monitor/line_editor.h"

#include <algorithm>
#include <utility>

namespace blockbed {
namespace {

constexpr unsigned char control(char letter) { return static_cast<unsigned char>(letter - '@'); }

constexpr unsigned char kEscape = 27;
constexpr unsigned char kDelete = 127;
constexpr std::size_t kScreenWidth = 80;
constexpr std::size_t kNarrowestColumn = 10;

void repeat(std::string& out, std::string_view what, std::size_t times) {
  for (std::size_t i = 0; i < times; ++i) out += what;
}

}  // namespace

void LineEditor::show_prompt(std::string& echo) {
  line_.clear();
  shown_.clear();
  cursor_ = shown_cursor_ = 0;
  state_ = State::kPlain;
  recalled_ = history_.size();
  echo += prompt_;
}

std::optional<std::string> LineEditor::feed(unsigned char byte, std::string& echo) {
  switch (state_) {
    case State::kPlain:
      if (byte == '\n' || byte == '\r') {
        remember();
        echo += '\n';
        return std::exchange(line_, {});
      }
      key(byte, echo);
      break;
    case State::kEscape:
      state_ = byte == '[' ? State::kSequence : byte == 'O' ? State::kShortSequence : State::kPlain;
      parameter_ = 0;
      break;
    case State::kShortSequence:
      state_ = State::kPlain;
      if (byte == 'H') cursor_ = 0;
      if (byte == 'F') cursor_ = line_.size();
      break;
    case State::kSequence:
      sequence(byte);
      break;
  }
  draw(echo);
  return std::nullopt;
}

void LineEditor::key(unsigned char byte, std::string& echo) {
  switch (byte) {
    case control('A'):
      cursor_ = 0;
      return;
    case control('E'):
      cursor_ = line_.size();
      return;
    case control('D'):
      line_.erase(cursor_, 1);
      return;
    case control('H'):
    case kDelete:
      erase_before_cursor(1);
      return;
    case control('W'): {
      std::size_t begin = cursor_;
      while (begin > 0 && line_[begin - 1] == ' ') --begin;
      while (begin > 0 && line_[begin - 1] != ' ') --begin;
      erase_before_cursor(cursor_ - begin);
      return;
    }
    case control('L'):
      echo += "\x1b[2J\x1b[1;1H" + prompt_;
      shown_.clear();
      shown_cursor_ = 0;
      return;
    case '\t':
      complete(echo);
      return;
    case kEscape:
      state_ = State::kEscape;
      return;
    default:
      break;
  }
  if (byte < ' ' || line_.size() >= kMaxLine) return;
  line_.insert(cursor_, 1, static_cast<char>(byte));
  ++cursor_;
}

void LineEditor::sequence(unsigned char byte) {
  if (byte >= '0' && byte <= '9') {
    parameter_ = std::min(parameter_ * 10 + (byte - '0'), 1000);
    return;
  }
  state_ = State::kPlain;
  switch (byte) {
    case 'A':
      recall(true);
      return;
    case 'B':
      recall(false);
      return;
    case 'C':
      cursor_ = std::min(cursor_ + 1, line_.size());
      return;
    case 'D':
      cursor_ -= cursor_ > 0 ? 1 : 0;
      return;
    case '~':
      if (parameter_ == 1) cursor_ = 0;
      if (parameter_ == 3) line_.erase(cursor_, 1);
      if (parameter_ == 4) cursor_ = line_.size();
      return;
    default:
      return;
  }
}

void LineEditor::erase_before_cursor(std::size_t count) {
  count = std::min(count, cursor_);
  cursor_ -= count;
  line_.erase(cursor_, count);
}

void LineEditor::recall(bool older) {
  if (older ? recalled_ == 0 : recalled_ >= history_.size()) return;
  recalled_ = older ? recalled_ - 1 : recalled_ + 1;
  line_ = recalled_ < history_.size() ? history_[recalled_] : std::string();
  cursor_ = line_.size();
}

void LineEditor::complete(std::string& echo) {
  const std::vector<std::string> names =
      completer_ ? completer_(std::string_view(line_).substr(0, cursor_))
                 : std::vector<std::string>();
  if (names.empty()) return;
  if (names.size() == 1) {
    const std::size_t space = std::string_view(line_).substr(0, cursor_).rfind(' ');
    const std::size_t begin = space == std::string::npos ? 0 : space + 1;
    const std::string rest = names[0].substr(cursor_ - begin) + ' ';
    if (line_.size() + rest.size() > kMaxLine) return;
    line_.insert(cursor_, rest);
    cursor_ += rest.size();
    return;
  }
  std::size_t column = kNarrowestColumn;
  for (const std::string& name : names) column = std::max(column, name.size() + 2);
  const std::size_t columns = std::max<std::size_t>(1, kScreenWidth / column);
  echo += '\n';
  for (std::size_t i = 0; i < names.size(); ++i) {
    echo += names[i];
    echo.append(column - names[i].size(), ' ');
    if (i % columns == columns - 1 || i + 1 == names.size()) echo += '\n';
  }
  echo += prompt_;
  shown_.clear();
  shown_cursor_ = 0;
}

void LineEditor::draw(std::string& echo) {
  if (line_ != shown_) {
    repeat(echo, "\x1b[D", shown_cursor_);
    echo += line_;
    echo += "\x1b[K";
    repeat(echo, "\x1b[D", line_.size() - cursor_);
  } else if (cursor_ < shown_cursor_) {
    repeat(echo, "\x1b[D", shown_cursor_ - cursor_);
  } else {
    repeat(echo, "\x1b[C", cursor_ - shown_cursor_);
  }
  shown_ = line_;
  shown_cursor_ = cursor_;
}

void LineEditor::remember() {
  if (line_.empty()) return;
  std::erase(history_, line_);
  if (history_.size() == kHistory) history_.erase(history_.begin());
  history_.push_back(line_);
}

}  // namespace blockbed
