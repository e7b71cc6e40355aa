// Failure on the data path: an errno as a value.
//
// Contract: `Result<T>` holds a value or an Errno; an Errno is a positive errno number, never 0.
// Texts for people are made from it only at the edge (strerror_text), as QEMU does.
#pragma once

#include <cerrno>
#include <expected>
#include <string>

namespace blockbed {

class Errno {
 public:
  constexpr explicit Errno(int number) : number_(number) {}
  constexpr int number() const { return number_; }
  friend constexpr bool operator==(Errno, Errno) = default;

 private:
  int number_;
};

template <class T>
using Result = std::expected<T, Errno>;

constexpr std::unexpected<Errno> io_error(int number) { return std::unexpected(Errno(number)); }
constexpr std::unexpected<Errno> io_error(Errno error) { return std::unexpected(error); }

// The C library's text: "No such file or directory".
std::string strerror_text(Errno error);
inline std::string strerror_text(int number) { return strerror_text(Errno(number)); }

}  // namespace blockbed

// `BB_TRY(co_await f())`: leaves the coroutine with the failure of a Result or Expected whose value
// is not needed.
#define BB_CO_TRY(expression)                                           \
  do {                                                                  \
    if (auto bb_try_result = (expression); !bb_try_result) [[unlikely]] \
      co_return std::unexpected(std::move(bb_try_result).error());      \
  } while (false)

#define BB_TRY(expression)                                              \
  do {                                                                  \
    if (auto bb_try_result = (expression); !bb_try_result) [[unlikely]] \
      return std::unexpected(std::move(bb_try_result).error());         \
  } while (false)
