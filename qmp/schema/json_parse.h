// Reading JSON exactly as QEMU's monitor reads it.
//
// Problem: a client that sends something broken gets errors, and how many, in which order and in
// which words decides whether its next command is understood. The same dialect is behind
// `json:{...}` file names and JSON options of the command line.
// Contract
//  - Framer: values back to back in any portions. An error inside a value is told when the value
//    ends, and a value ends where its brackets are balanced (or there is one closing bracket too
//    many), whatever stands between them. A token that cannot be one is told at once, and what was
//    begun before it is forgotten.
//  - Integers are int64, else uint64, else double. A key that occurs twice is an error. `\u0000` is
//    kept as the bytes C0 80 (json_utf8.h), so no string holds a NUL.
//  - Bounds are QEMU's: depth kMaxDepth, kMaxTokens and kMaxTokenBytes a value, each with an error
//    of its own.
// Errors: GenericError in QEMU's words; tests/schema/json_oracle.py compares them with QEMU 7.2.
// Threading: one Framer belongs to one reader.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "qmp/schema/error.h"
#include "qmp/schema/json.h"
#include "qmp/schema/json_lexer.h"

namespace blockbed::json {

// QEMU's limit for one value. With kMaxTokenBytes it keeps what a single client can make the server
// hold within some hundred megabytes.
inline constexpr size_t kMaxTokens = size_t{2} << 20;

class Builder;

class Framer {
 public:
  Framer();
  ~Framer();
  Framer(const Framer&) = delete;
  Framer& operator=(const Framer&) = delete;

  // Takes bytes from the front of `input` until one value or one error is complete. Empty: all
  // bytes were taken and the next item is not complete yet. A number or keyword outside of brackets
  // is complete when the byte after it is seen.
  std::optional<Expected<Value>> next(std::string_view& input);

  // Ends the input. Gives the item that the end completes (a value that is open becomes an error),
  // if any.
  std::optional<Expected<Value>> finish();

 private:
  std::optional<Expected<Value>> take(const Token& token);
  std::unexpected<Error> drop(std::string description);
  Expected<Value> complete();

  Lexer lexer_;
  std::unique_ptr<Builder> builder_;
  int64_t open_braces_ = 0;
  int64_t open_brackets_ = 0;
  size_t tokens_ = 0;
  size_t token_bytes_ = 0;
};

// One complete value and nothing but white space around it.
Expected<Value> parse(std::string_view text);

}  // namespace blockbed::json
