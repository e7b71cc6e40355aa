// What one operation of an image does when requests to its files fail: each of them in turn, until
// none is left to fail.
//
// An Operation says what the disk holds before and what is done then. After a fault an error was
// told where something may be missing; what was told to be done is there; the image has no fault
// but leaks; and the same operation succeeds once the fault has gone.
#pragma once

#include <gtest/gtest.h>

#include <cerrno>
#include <cstdint>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "block/sim/sim_env.h"
#include "block/sim/sim_storage.h"
#include "tests/qcow2/image_fixture.h"

namespace blockbed::qcow2::test {

using Bytes = std::vector<std::byte>;

// What the disk must read as, piece by piece; nothing where a failed request may have left
// anything.
class Model {
 public:
  static constexpr uint64_t kUnit = 256;

  explicit Model(uint64_t size) : sectors_(size / kUnit, std::byte{0}) {}

  void resize(uint64_t size) { sectors_.resize(size / kUnit, std::byte{0}); }
  uint64_t size() const { return sectors_.size() * kUnit; }
  void set(uint64_t begin, uint64_t end, std::optional<std::byte> value);
  // What is the same in both is known.
  Model only_where_equal(const Model& other) const;
  void compare(const Bytes& bytes, const std::string& where) const;

 private:
  std::vector<std::optional<std::byte>> sectors_;
};

// What backing files and sources of copies are full of.
inline constexpr int kBackingByte = 0xbb;
inline constexpr int kSourceByte = 0x77;

// An image and what it must hold.
struct Scene {
  Env& env;
  Model& model;
  // What the first snapshot shows, when there is one.
  std::optional<Model> snapshot = {};
  Image* image = nullptr;
  // Something was told to have failed.
  bool failed = false;
  // The last step put everything into the file.
  bool flushed = false;
  // The model has the length that the disk must have.
  bool length_known = true;

  uint64_t cluster() const { return image->geometry().cluster_size; }

  void account(uint64_t offset, uint64_t length, const Result<void>& done, std::byte value);
  template <typename Done>
  void account(const Done& done) {
    failed |= !done;
  }

  Task<void> write(uint64_t offset, uint64_t length, int value);
  // Where there can be no such cluster, a plain one.
  Task<void> compressed(uint64_t offset, uint64_t length, int value);
  // Inside the host, from the file "source"; who is refused that writes, as a node does.
  Task<void> copy(uint64_t offset, uint64_t length);
  Task<void> zero(uint64_t offset, uint64_t length, bool unmap);
  Task<void> discard(uint64_t offset, uint64_t length);
  Task<void> flush();
  Task<void> read_all(std::string where);
  Task<void> truncate(uint64_t length, Preallocation mode = Preallocation::kOff);
};

using Step = Task<void> (*)(Scene&);

struct Operation {
  const char* name;
  Step before;
  Step run;
  // Of the options for creation.
  uint64_t cluster = 512;
  uint32_t refcount_bits = 16;
  uint32_t version = 3;
  bool extended_l2 = false;
  bool lazy = false;
  // In clusters.
  uint64_t clusters = 160;
  // Guest data is in the file "data".
  bool data_file = false;
  bool data_file_raw = false;
  // The length of the file "base" in bytes; 0 for none.
  uint64_t backing = 0;
  // After an error the image may only be closed: the second try is one on an image opened anew.
  bool only_once = false;
  // Whether the header may say that; `done`: nothing was told to have failed.
  bool (*header)(const Header& header, bool done) = nullptr;
};

// What comes after the operation.
enum class End {
  // When a fault was hit: the same again, without one. Then the image is closed.
  kClosed,
  kTriedAgainThenKilled,
  kGivenUp,  // closed without another try
  kKilled,   // at once, which loses what was not flushed
  kPowerCut  // at once after a flush, with a subset of what was not flushed then
};

// Which requests to any of the image's files fail, and how it goes on.
struct Way {
  const char* name;
  unsigned requests;
  int error;
  End end;
  uint64_t times = 1;
};

// One that fails a flush and no later one has no power cut: what a file says then that it flushed
// is not all there (sim_disk.h), which is why none says so any more (protocols/file.h).
inline constexpr Way kWays[] = {
    {"Everything", sim::kSimEverything, EIO, End::kClosed},
    {"TwoInARow", sim::kSimEverything, EIO, End::kClosed, 2},
    {"GivenUp", sim::kSimEverything, EIO, End::kGivenUp},
    {"Killed", sim::kSimEverything, EIO, End::kKilled},
    {"NoSpace", sim::kSimChanges, ENOSPC, End::kClosed},
    {"PowerCut", sim::kSimEverything & ~sim::kSimFlush, EIO, End::kPowerCut},
    {"NoMoreFlushesThenPowerCut", sim::kSimFlush, EIO, End::kPowerCut, UINT64_MAX},
};

// How many requests were failed, each in a run of its own.
uint64_t fail_each(const Operation& operation, sim::FaultRule rule, End end, uint64_t seed = 1);
uint64_t fail_each(const Operation& operation, const Way& way);

// Of several families of operations.
namespace steps {
Task<void> nothing(Scene& s);
Task<void> some_data(Scene& s);
// All of it in a snapshot as well.
Task<void> shared_data(Scene& s);
Task<void> read_it(Scene& s);
Task<void> write_allocating(Scene& s);
Task<void> write_in_place(Scene& s);
Task<void> write_copying(Scene& s);
Task<void> copy_in(Scene& s);
Task<void> zero_keeping(Scene& s);
Task<void> zero_unmapping(Scene& s);
Task<void> zero_parts(Scene& s);
Task<void> discard(Scene& s);
Task<void> discard_and_reuse(Scene& s);
Task<void> resize_up(Scene& s);
Task<void> resize_down(Scene& s);
Task<void> empty(Scene& s);
Task<void> change_and_close(Scene& s);
template <Preallocation kMode>
Task<void> grow(Scene& s) {
  co_await s.truncate(s.image->length() + 80 * s.cluster(), kMode);
  co_await s.flush();
}
}  // namespace steps

// For the names of failed tests.
inline void PrintTo(const Operation& operation, std::ostream* out) { *out << operation.name; }
inline void PrintTo(const Way& way, std::ostream* out) { *out << way.name; }

// Every operation of a table in every way.
using OperationInWay = std::tuple<Operation, Way>;
template <std::size_t kCount>
auto in_every_way(const Operation (&operations)[kCount]) {
  return ::testing::Combine(::testing::ValuesIn(operations), ::testing::ValuesIn(kWays));
}
inline std::string name_of(const ::testing::TestParamInfo<OperationInWay>& info) {
  return std::string(std::get<0>(info.param).name) + "_" + std::get<1>(info.param).name;
}

}  // namespace blockbed::qcow2::test
