// Reopenings: what clients do with blockdev-reopen to the nodes of a job while it runs, and the
// judge of each call.
//
// Problem: other caches, other ways to discard, tables of another size, an image that becomes
// writable: none of it may be noticed by who uses the nodes, and a call that is refused in the
// middle must have done nothing.
//
// Contract
//  - one() takes the graph lock, draws one to three nodes, whichever there are then, and new
//    options for all of them in one call. Every third call holds something that must be refused.
//  - A call that must be granted is granted, unless the storage fails; then exactly what was asked
//    is in force, of these nodes and of those that follow from them. A call that fails leaves the
//    graph as it was. What a node was told holds until it is told otherwise.
//  - Flushes are switched off only when the power stays on.
// Threading: one thread.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "block/graph/reopen.h"
#include "tests/jobs/jobs_fixture.h"
#include "tests/support/coverage.h"

namespace blockbed::test {

class Reopenings {
 public:
  // What the seeds of every simulation must meet.
  static constexpr std::string_view kMarks[] = {
      "reopened",
      "reopened: several nodes at once",
      "reopened: for writing, or for reading only",
      "reopen refused",
      "reopen refused: one of several nodes",
      "reopen refused: somebody writes",
      "reopen refused: an option that stays",
      "reopen refused: options that contradict each other",
      "reopen refused: the file cannot be opened",
  };
  // Of those whose jobs hold a chain together.
  static constexpr std::string_view kChainMarks[] = {"reopen refused: the chain is held"};
  // Of those with images that have options.
  static constexpr std::string_view kImageMarks[] = {"reopen refused: an option out of range"};

  struct Weather {
    // Requests may fail; the power may go off.
    bool faults = false;
    bool crash = false;
  };
  Reopenings(World& world, Coverage& coverage, Weather weather)
      : world_(world), chance_(world.env.chance()), coverage_(coverage), weather_(weather) {}

  // Nothing when the job is over by then.
  Task<void> one(std::shared_ptr<Job> job);

 private:
  // One node of a call.
  struct Part {
    Node* node = nullptr;
    // What is to be different.
    json::Object options;
    NodeFlags asked;
    // Whether it is for reading only, is said; otherwise that follows from the parent.
    bool says_read_only = false;
    bool was_read_only = false;
  };
  enum class Fault { kWriter, kFixed, kContradiction, kChain, kRange, kFile };

  std::vector<Part> draw_parts(bool may_change_access);
  std::vector<ReopenRequest> requests_of(const std::vector<Part>& parts);
  Part draw(Node& node, bool may_change_access);
  void draw_image_options(json::Object& options, uint64_t cluster_size);
  // Puts something into the call that must be refused; nothing when no node is good for that.
  std::optional<Fault> spoil(std::vector<Part>& parts);
  Node* find_victim(Fault fault) const;
  void spoil(Part& part, Fault fault);
  void note_refusal(Fault fault, std::size_t parts);
  void expect_as_asked(const std::vector<Part>& parts);
  void expect_as_told() const;

  World& world_;
  sim::SimRandom& chance_;
  Coverage& coverage_;
  Weather weather_;
  std::map<std::string, NodeFlags, std::less<>> told_;
};

}  // namespace blockbed::test
