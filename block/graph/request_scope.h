// RequestScope: a request on its way through a node.
//
// Contract
//  - From construction to destruction the request is counted as in flight, which is what a drain
//    waits for, and stands in the node's list.
//  - wait_for_overlapping() returns when nothing that must not overlap with the request is under
//    way. serialise() comes before it.
// Threading: engine thread only.
#pragma once

#include <algorithm>

#include "block/graph/graph.h"
#include "block/graph/node.h"

namespace blockbed {

class RequestScope {
 public:
  RequestScope(Node& node, TrackedRequest::Kind kind, uint64_t offset, uint64_t length)
      : node_(node) {
    request_.kind = kind;
    request_.offset = offset;
    request_.length = length;
    request_.overlap_offset = offset;
    request_.overlap_length = length;
    request_.next = node.requests_;
    if (request_.next != nullptr) request_.next->previous = &request_;
    node.requests_ = &request_;
    ++node.in_flight_;
  }
  RequestScope(const RequestScope&) = delete;
  RequestScope& operator=(const RequestScope&) = delete;
  ~RequestScope() {
    if (request_.serialising) --node_.serialising_in_flight_;
    if (request_.previous != nullptr) {
      request_.previous->next = request_.next;
    } else {
      node_.requests_ = request_.next;
    }
    if (request_.next != nullptr) request_.next->previous = request_.previous;
    if (!node_.request_ended_.empty()) node_.request_ended_.wake_all();
    if (--node_.in_flight_ == 0) node_.graph_.drain_progress();
  }

  // From now on nothing may overlap with the request, widened to `unit`.
  void serialise(uint64_t unit) {
    const uint64_t begin = request_.offset - request_.offset % unit;
    const uint64_t last = request_.offset + request_.length + unit - 1;
    const uint64_t end = last - last % unit;
    request_.overlap_offset = std::min(request_.overlap_offset, begin);
    request_.overlap_length =
        std::max(request_.overlap_offset + request_.overlap_length, end) - request_.overlap_offset;
    if (!request_.serialising) {
      request_.serialising = true;
      ++node_.serialising_in_flight_;
    }
  }

  bool must_wait() const {
    return node_.serialising_in_flight_ > (request_.serialising ? 1 : 0) || request_.serialising;
  }

  Task<void> wait_for_overlapping() {
    while (TrackedRequest* other = find_overlapping()) {
      request_.waits_for = other;
      co_await node_.request_ended_.wait();
      request_.waits_for = nullptr;
    }
  }

 private:
  TrackedRequest* find_overlapping() const {
    for (TrackedRequest* other = node_.requests_; other != nullptr; other = other->next) {
      if (other == &request_ || (!other->serialising && !request_.serialising)) continue;
      if (other->overlap_offset >= request_.overlap_offset + request_.overlap_length ||
          request_.overlap_offset >= other->overlap_offset + other->overlap_length) {
        continue;
      }
      // One that waits already began later or waits for us: going on is what ends its wait.
      if (other->waits_for == nullptr) return other;
    }
    return nullptr;
  }

  Node& node_;
  TrackedRequest request_{};
};

}  // namespace blockbed
