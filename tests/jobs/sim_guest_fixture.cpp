#include "tests/jobs/sim_guest_fixture.h"

#include <algorithm>

namespace blockbed::test {

namespace {

constexpr uint64_t kSector = GoldenDisk::kSector;
// A job that cannot go on at all must not keep the guest busy for ever.
constexpr int kMostRequests = 400;

}  // namespace

Task<void> SimGuest::run() {
  while (!stop_ && ++requests_ <= kMostRequests) {
    if (holds_ == 0) co_await one_request();
    co_await world_.env.delay(chance_.between(0, 100'000));
  }
}

Task<void> SimGuest::hold() {
  ++holds_;
  while (under_way_ > 0) co_await world_.env.delay(10'000);
}

Task<void> SimGuest::one_request() {
  const uint64_t sectors = golden_.size() / kSector;
  const uint64_t first = chance_.below(sectors);
  const uint64_t most = chance_.percent(80) ? 24 : 600;
  const uint64_t count = 1 + chance_.below(std::min(most, sectors - first));
  const uint64_t what = chance_.below(10);
  if (what == 0) {
    co_await flush();
  } else if (!golden_.busy(first * kSector, count * kSector)) {
    if (what < 3) {
      co_await read(first * kSector, count * kSector);
    } else {
      co_await change(first * kSector, count * kSector);
    }
  }
}

Task<void> SimGuest::flush() {
  const uint64_t since = golden_.flush_begins();
  const Result<void> done = co_await device_->flush();
  EXPECT_TRUE(done || may_fail_) << strerror_text(done.error());
  if (done) golden_.flushed(since);
}

Task<void> SimGuest::read(uint64_t offset, uint64_t length) {
  golden_.reading(offset, length, true);
  Buffer buffer(length);
  const Result<void> done = co_await device_->read(offset, buffer.io());
  golden_.reading(offset, length, false);
  EXPECT_TRUE(done || may_fail_) << strerror_text(done.error());
  if (!done || !powered() || node() == strange_) co_return;
  for (uint64_t at = 0; at < length; at += kSector) {
    if (golden_.may_show((offset + at) / kSector, buffer.data() + at)) continue;
    ADD_FAILURE() << "the guest reads what it did not write at " << offset + at << ": "
                  << GoldenDisk::shown(buffer.data() + at).value_or(~0ull);
    co_return;
  }
}

Task<void> SimGuest::change(uint64_t offset, uint64_t length) {
  ++under_way_;
  const uint64_t what = chance_.below(10);
  const bool discard = what == 9;
  const uint64_t number = what < 7 ? golden_.next_number() : 0;
  golden_.begin(offset, length, number);
  Result<void> done;
  if (what < 7) {
    Buffer buffer(length);
    GoldenDisk::fill(buffer.span(), number);
    done = co_await device_->write(offset, buffer.io());
  } else if (!discard) {
    done =
        co_await device_->zero(offset, length, RequestFlags().with_may_unmap(chance_.percent(50)));
  } else {
    done = co_await device_->discard(offset, length);
  }
  EXPECT_TRUE(done || may_fail_) << strerror_text(done.error());
  golden_.end(offset, length, number, done.has_value(), /*optional=*/discard);
  if (listener_) listener_({offset, length, done.has_value(), discard});
  --under_way_;
}

void SimGuest::expect_its_disk() {
  if (node() == strange_) return;
  std::vector<std::byte> now(golden_.size());
  const Result<void> read = world_.run(device_->read(0, IoVector(now.data(), now.size())));
  ASSERT_TRUE(read.has_value()) << strerror_text(read.error());
  const auto wrong = golden_.first_wrong(now);
  EXPECT_FALSE(wrong.has_value())
      << "sector " << *wrong << " of the guest's disk shows "
      << GoldenDisk::shown(now.data() + *wrong * kSector).value_or(~0ull);
}

void SimGuest::remove() {
  world_.run(device_->remove());
  device_.reset();
}

}  // namespace blockbed::test
