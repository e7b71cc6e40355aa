#include "tests/jobs/reopenings_fixture.h"

#include <algorithm>

#include "block/graph/node_options.h"
#include "tests/support/graph_picture.h"

namespace blockbed::test {

namespace {

// What the files of a test's disks are called is what their nodes say.
std::string file_name(const Node& node) {
  return node.given_options().find("filename")->as_string();
}

// Of drivers that clients can name; those of jobs' filters are not among them.
bool can_be_reopened(const Node& node) { return node.is_open() && !node.driver().is_filter(); }

bool is_written(const Node& node) {
  return std::ranges::any_of(node.parents(), [](const Edge* edge) {
    const Permissions needs = edge->permissions().needs;
    return needs.has(Permission::kWrite) || needs.has(Permission::kWriteUnchanged);
  });
}

// What is said of a node that follows from another must fit to what is said of that one.
bool follows_for_access(const Node& node) {
  return node.driver().is_protocol() && node.inherits_from() != nullptr;
}

bool chain_is_held(const Node& node) {
  const Edge* backing = node.cow_edge();
  return backing != nullptr && (backing->frozen() || backing->node()->hidden());
}

// As clients name what they see: all that the node was opened with, its children by their names.
json::Object whole_options(const Node& node) {
  json::Object options = without_children(node, node.given_options());
  options.set("driver", node.driver().name());
  options.set("node-name", node.name());
  for (const auto& edge : node.children()) {
    options.set(edge->name(), edge->node()->skip_hidden()->name());
  }
  return options;
}

const char* text(DetectZeroes detect) {
  return detect == DetectZeroes::kOff ? "off" : detect == DetectZeroes::kOn ? "on" : "unmap";
}

// Of what reopening can change.
bool same_options(NodeFlags a, NodeFlags b, bool also_access) {
  if (!also_access) a.read_only = b.read_only = false;
  return a == b;
}

}  // namespace

Task<void> Reopenings::one(std::shared_ptr<Job> job) {
  MutexGuard lock = co_await world_.graph->lock();
  if (job->status() == JobStatus::kConcluded || job->status() == JobStatus::kNull) co_return;
  expect_as_told();
  const bool refuse = chance_.percent(33);
  std::vector<Part> parts = draw_parts(/*may_change_access=*/!refuse);
  if (parts.empty()) co_return;
  std::optional<Fault> fault;
  if (refuse) fault = spoil(parts);
  if (refuse && !fault) co_return;
  std::optional<sim::SimStorage::RuleId> closed_file;
  if (fault == Fault::kFile) {
    sim::FaultRule rule;
    rule.path = file_name(*parts.back().node);
    rule.requests = sim::kSimOpen;
    closed_file = world_.env.storage().add_fault(rule);
  }

  std::vector<ReopenRequest> requests = requests_of(parts);
  std::string call;
  for (const ReopenRequest& request : requests) {
    call += "\n" + json::to_string(json::Value(request.options));
  }
  const std::string before = picture_of(*world_.graph);
  const Expected<void> done = co_await reopen(*world_.graph, std::move(requests));
  if (closed_file) world_.env.storage().remove_fault(*closed_file);
  if (!done) EXPECT_EQ(picture_of(*world_.graph), before) << done.error().description << call;
  if (fault) {
    EXPECT_FALSE(done.has_value()) << "a call that is wrong was granted:" << call;
    note_refusal(*fault, parts.size());
  } else if (done) {
    expect_as_asked(parts);
  } else {
    EXPECT_TRUE(weather_.faults || !world_.env.storage().powered())
        << done.error().description << call;
  }
  co_await world_.graph->close_unreferenced();
}

// --- what is asked

std::vector<Reopenings::Part> Reopenings::draw_parts(bool may_change_access) {
  std::vector<Node*> nodes = world_.graph->nodes();
  std::erase_if(nodes, [](const Node* node) { return !can_be_reopened(*node); });
  std::vector<Part> parts;
  for (uint64_t more = 1 + chance_.below(3); more > 0 && !nodes.empty(); --more) {
    const auto drawn = nodes.begin() + static_cast<std::ptrdiff_t>(chance_.below(nodes.size()));
    parts.push_back(draw(**drawn, may_change_access));
    nodes.erase(drawn);
  }
  return parts;
}

// All options, as blockdev-reopen wants them; for one node also as qemu-io has it: the others stay.
std::vector<ReopenRequest> Reopenings::requests_of(const std::vector<Part>& parts) {
  const bool keep = parts.size() == 1 && chance_.percent(30);
  std::vector<ReopenRequest> requests;
  for (const Part& part : parts) {
    json::Object options;
    if (!keep) options = whole_options(*part.node);
    for (const auto& [name, value] : part.options) options.set(name, value);
    requests.emplace_back(NodeRef(*part.node), std::move(options), keep);
  }
  return requests;
}

Reopenings::Part Reopenings::draw(Node& node, bool may_change_access) {
  Part part;
  part.node = &node;
  part.asked = node.flags();
  part.was_read_only = part.asked.read_only;
  part.asked.cache_direct = chance_.percent(40);
  part.asked.cache_no_flush = !weather_.crash && chance_.percent(30);
  part.asked.unmap = chance_.percent(50);
  part.asked.detect_zeroes = part.asked.unmap && chance_.percent(30) ? DetectZeroes::kUnmap
                             : chance_.percent(40)                   ? DetectZeroes::kOn
                                                                     : DetectZeroes::kOff;
  json::Object& options = part.options;
  options.set("cache", json::Object{{"direct", part.asked.cache_direct},
                                    {"no-flush", part.asked.cache_no_flush}});
  options.set("discard", part.asked.unmap ? "unmap" : "ignore");
  options.set("detect-zeroes", text(part.asked.detect_zeroes));
  if (!follows_for_access(node)) {
    part.says_read_only = true;
    if (may_change_access && !is_written(node)) part.asked.read_only = chance_.percent(50);
    options.set("read-only", part.asked.read_only);
  }
  if (node.driver().name() == "qcow2") {
    draw_image_options(options, node.driver().info().cluster_size);
  }
  return part;
}

void Reopenings::draw_image_options(json::Object& options, uint64_t cluster_size) {
  if (chance_.percent(50)) options.set("lazy-refcounts", chance_.percent(50));
  if (chance_.percent(50)) options.set("discard-no-unref", chance_.percent(30));
  if (chance_.percent(30)) options.set("pass-discard-request", chance_.percent(50));
  if (chance_.percent(30)) options.set("pass-discard-other", chance_.percent(50));
  if (chance_.percent(30)) {
    constexpr std::string_view kModes[] = {"none", "constant", "cached", "all"};
    options.set("overlap-check", kModes[chance_.below(std::size(kModes))]);
  }
  if (chance_.percent(50)) {
    options.set("l2-cache-entry-size",
                std::min<uint64_t>(uint64_t{512} << chance_.below(8), cluster_size));
    options.set("l2-cache-size", uint64_t{1024} << chance_.below(10));
  }
  if (chance_.percent(30)) options.set("refcount-cache-size", uint64_t{1024} << chance_.below(10));
  if (chance_.percent(30)) options.set("cache-clean-interval", chance_.below(3));
}

// --- what must be refused

Node* Reopenings::find_victim(Fault fault) const {
  std::vector<Node*> nodes = world_.graph->nodes();
  std::erase_if(nodes, [fault](const Node* node) {
    if (!can_be_reopened(*node)) return true;
    switch (fault) {
      case Fault::kWriter:
        // It is a parent's doing that the storage of an image is written.
        return follows_for_access(*node) || !is_written(*node);
      case Fault::kFixed:
      case Fault::kContradiction:
        return false;
      case Fault::kChain:
        return !chain_is_held(*node);
      case Fault::kRange:
        return node->driver().name() != "qcow2";
      case Fault::kFile:
        return node->driver().name() != "file";
    }
    return true;
  });
  return nodes.empty() ? nullptr : nodes[chance_.below(nodes.size())];
}

std::optional<Reopenings::Fault> Reopenings::spoil(std::vector<Part>& parts) {
  constexpr Fault kFaults[] = {Fault::kWriter, Fault::kFixed, Fault::kContradiction,
                               Fault::kChain,  Fault::kRange, Fault::kFile};
  const Fault fault = kFaults[chance_.below(std::size(kFaults))];
  Node* victim = find_victim(fault);
  if (victim == nullptr) return std::nullopt;
  std::erase_if(parts, [victim](const Part& part) { return part.node == victim; });
  parts.push_back(draw(*victim, /*may_change_access=*/false));
  spoil(parts.back(), fault);
  return fault;
}

void Reopenings::spoil(Part& part, Fault fault) {
  switch (fault) {
    case Fault::kWriter:
      part.options.set("read-only", true);
      break;
    case Fault::kFixed:
      part.options.set("force-share", true);
      break;
    case Fault::kContradiction:
      part.options.set("discard", "ignore");
      part.options.set("detect-zeroes", "unmap");
      break;
    case Fault::kChain:
      part.options.set("backing", json::Value());
      break;
    case Fault::kRange:
      part.options.set("l2-cache-entry-size", 1000);
      break;
    case Fault::kFile:
      // It is opened a second time, when it can be.
      part.options.set("cache", json::Object{{"direct", !part.node->flags().cache_direct}});
      break;
  }
}

void Reopenings::note_refusal(Fault fault, std::size_t parts) {
  coverage_.hit("reopen refused");
  coverage_.hit_if(parts > 1, "reopen refused: one of several nodes");
  switch (fault) {
    case Fault::kWriter:
      return coverage_.hit("reopen refused: somebody writes");
    case Fault::kFixed:
      return coverage_.hit("reopen refused: an option that stays");
    case Fault::kContradiction:
      return coverage_.hit("reopen refused: options that contradict each other");
    case Fault::kChain:
      return coverage_.hit("reopen refused: the chain is held");
    case Fault::kRange:
      return coverage_.hit("reopen refused: an option out of range");
    case Fault::kFile:
      return coverage_.hit("reopen refused: the file cannot be opened");
  }
}

// --- what is in force

void Reopenings::expect_as_asked(const std::vector<Part>& parts) {
  for (const Part& part : parts) {
    EXPECT_TRUE(same_options(part.node->flags(), part.asked, part.says_read_only))
        << part.node->name() << " is " << picture_of(part.node->flags()) << ", not "
        << picture_of(part.asked);
    told_[part.node->name()] = part.asked;
    coverage_.hit_if(part.says_read_only && part.was_read_only != part.asked.read_only,
                     "reopened: for writing, or for reading only");
  }
  coverage_.hit("reopened");
  coverage_.hit_if(parts.size() > 1, "reopened: several nodes at once");
}

void Reopenings::expect_as_told() const {
  for (const Node* node : world_.graph->nodes()) {
    const auto told = told_.find(node->name());
    if (told == told_.end() || !node->is_open()) continue;
    // Jobs make nodes writable and leave them for reading again.
    EXPECT_TRUE(same_options(node->flags(), told->second, /*also_access=*/false))
        << node->name() << " is " << picture_of(node->flags()) << " and was told to be "
        << picture_of(told->second);
  }
}

}  // namespace blockbed::test
