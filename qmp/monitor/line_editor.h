// Editing a line that is typed at the human monitor, and its echo.
//
// Problem: QEMU's monitor echoes with terminal sequences even when its input is a pipe, and
// upstream's expected outputs are made by taking exactly those sequences away again. Contract
//  - feed() takes one byte and appends to `echo` what the terminal must show. After each change the
//    line is drawn anew: the cursor goes back to its begin (ESC [ D for each column), the whole
//    line, ESC [ K, and back to the cursor's place.
//  - CR and LF both end a line; the echo of it is LF (the session makes CR LF of it).
//  - Keys: backspace, ^D or Delete, ^A ^E Home End, ^W, left, right, up and down for the history,
//    Tab.
//  - Bounds: kMaxLine bytes a line, more are not taken (QEMU's 4095); kHistory lines are
//    remembered.
// Threading: plain data.
#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace blockbed {

class LineEditor {
 public:
  static constexpr std::size_t kMaxLine = 4095;
  static constexpr std::size_t kHistory = 64;

  // What the text before the cursor can be continued to; for Tab.
  using Completer = std::function<std::vector<std::string>(std::string_view begun)>;

  LineEditor(std::string prompt, Completer completer)
      : prompt_(std::move(prompt)), completer_(std::move(completer)) {}

  void show_prompt(std::string& echo);
  // The line, when this byte ended it.
  std::optional<std::string> feed(unsigned char byte, std::string& echo);

 private:
  enum class State { kPlain, kEscape, kSequence, kShortSequence };

  void key(unsigned char byte, std::string& echo);
  void sequence(unsigned char byte);
  void erase_before_cursor(std::size_t count);
  void recall(bool older);
  void complete(std::string& echo);
  void draw(std::string& echo);
  void remember();

  const std::string prompt_;
  const Completer completer_;
  State state_ = State::kPlain;
  int parameter_ = 0;
  std::string line_;
  std::size_t cursor_ = 0;
  // What the terminal shows.
  std::string shown_;
  std::size_t shown_cursor_ = 0;
  std::vector<std::string> history_;
  std::size_t recalled_ = 0;
};

}  // namespace blockbed
