// Writing JSON exactly as QEMU's monitor prints it.
//
// Problem: expected outputs of clients and test suites hold replies literally: separators, escapes,
// the form of numbers and the order of keys are part of the protocol in practice.
// Contract
//  - ASCII only; \b \f \n \r \t \" \\ by letter, every other control character, DEL and all beyond
//    ASCII as \uXXXX (upper case digits, surrogate pairs); bytes that are no UTF-8 become \uFFFD.
//  - A double prints as printf's "%.17g", so 1.0 is `1` and what overflowed is `inf`, which is what
//    QEMU does.
//  - Keys appear in the order in which QEMU's hash table of 512 buckets hands them out (key_bucket
//    below): by ascending bucket, inside a bucket the member inserted last comes first.
//  - Compact: `, ` and `: `. Pretty: four spaces a level, a line per member; an empty object or
//    array is its two brackets on two lines.
// The functions append, so that a reply, its line end and further replies share one buffer.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "qmp/schema/json.h"

namespace blockbed::json {

inline constexpr uint32_t kKeyBuckets = 512;

// The place of a key in QEMU's order, 0 to kKeyBuckets - 1.
uint32_t key_bucket(std::string_view key);

// The members in the order of printing. QEMU finds the first fault of a message in this order too.
std::vector<const Object::Member*> in_print_order(const Object& object);

void write(std::string& out, const Value& value);
void write(std::string& out, const Object& object);
void write_pretty(std::string& out, const Value& value);
void write_pretty(std::string& out, const Object& object);

std::string to_string(const Value& value);
std::string to_pretty_string(const Value& value);

}  // namespace blockbed::json
