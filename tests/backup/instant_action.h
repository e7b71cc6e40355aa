// InstantAction: the last action of a transaction, told when all that the others need stands still.
#pragma once

#include <functional>
#include <utility>

#include "qmp/commands/transaction.h"

namespace blockbed::test {

class InstantAction final : public Action {
 public:
  // The transaction fails when it says no.
  explicit InstantAction(std::function<bool()> instant) : instant_(std::move(instant)) {}
  Task<Expected<void>> prepare(TransactionContext&) override {
    if (!instant_()) co_return fail("not now");
    co_return Expected<void>();
  }

 private:
  std::function<bool()> instant_;
};

}  // namespace blockbed::test
