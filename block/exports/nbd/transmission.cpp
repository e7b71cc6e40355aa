#include "block/exports/nbd/transmission.h"

#include <algorithm>

#include "block/exports/nbd/nbd_export.h"

namespace blockbed::nbd {

namespace {

// Payload that a request keeps in memory while in flight.
std::size_t payload_bytes(const Request& request) {
  const auto command = static_cast<Command>(request.type);
  // What is to be cached has a payload too, between the server and the disk.
  return command == Command::kRead || command == Command::kWrite || command == Command::kCache
             ? std::min(request.length, kMaxPayload)
             : 0;
}

ClientTerms terms_of(const NbdExport& target, bool structured, MetaContexts contexts) {
  ClientTerms terms;
  terms.structured = structured;
  terms.contexts = std::move(contexts);
  terms.size = target.size();
  terms.writable = target.settings().writable;
  return terms;
}

}  // namespace

Transmission::Transmission(Env& env, Stream& stream, NbdExport& target, bool structured,
                           MetaContexts contexts, ReceiveBuffer& received)
    : env_(env),
      stream_(stream),
      target_(target),
      terms_(terms_of(target, structured, std::move(contexts))),
      received_(received),
      replies_(env.executor()),
      requests_(env.executor()),
      sender_(env.executor()),
      slot_free_(env.executor()) {}

Transmission::~Transmission() {
  BB_ASSERT(free_slots_.size() == slots_.size() && bytes_in_flight_ == 0);
}

Task<void> Transmission::run() {
  sender_.spawn(send_replies());
  co_await receive_requests();
  co_await requests_.close();
  replies_.close();
  co_await sender_.close();
}

RequestSlot* Transmission::try_acquire(const Request& request) {
  const std::size_t bytes = payload_bytes(request);
  if (bytes_in_flight_ > 0 && bytes > kMaxBytes - std::min(kMaxBytes, bytes_in_flight_))
    return nullptr;
  if (free_slots_.empty()) {
    if (slots_.size() == kMaxRequests) return nullptr;
    free_slots_.reserve(kMaxRequests);
    free_slots_.push_back(slots_.emplace_back(std::make_unique<RequestSlot>()).get());
  }
  RequestSlot* slot = free_slots_.back();
  free_slots_.pop_back();
  bytes_in_flight_ += bytes;
  slot->begin(request, terms_.structured);
  return slot;
}

void Transmission::release(RequestSlot& slot) {
  bytes_in_flight_ -= payload_bytes(slot.request());
  slot.end();
  free_slots_.push_back(&slot);
  slot_free_.wake_one();
}

Task<void> Transmission::receive_requests() {
  std::size_t started_bytes = 0;
  for (;;) {
    if (started_bytes >= kBytesATurn) {
      started_bytes = 0;
      co_await env_.executor().yield();
    }
    while (received_.size() < kRequestSize) {
      if (!co_await fill(kRequestSize)) co_return;
    }
    const Request request = decode_request(received_.bytes().data());
    Verdict verdict = judge(request, terms_);
    if (verdict.kind == Verdict::Kind::kDisconnect) co_return;

    const bool carries_payload = static_cast<Command>(request.type) == Command::kWrite &&
                                 verdict.kind != Verdict::Kind::kRefuseAndClose;
    if (carries_payload && request.length <= kBufferedPayload) {
      while (received_.size() < kRequestSize + request.length) {
        if (!co_await fill(kRequestSize + request.length)) co_return;
      }
    }
    RequestSlot* slot = try_acquire(request);
    while (slot == nullptr) {
      co_await slot_free_.wait();
      slot = try_acquire(request);
    }
    received_.take(kRequestSize);

    if (verdict.kind != Verdict::Kind::kServe) {
      // What a refused write brought is read and forgotten; if the client vanishes in it, nobody
      // waits for the answer.
      const bool whole = !carries_payload || co_await skip_payload(request.length);
      slot->answer_error(EINVAL, verdict.text);
      replies_.push(*slot);
      if (!whole || verdict.kind == Verdict::Kind::kRefuseAndClose) co_return;
      continue;
    }
    if (carries_payload) {
      slot->reserve_payload();
      if (received_.size() >= request.length) {
        if (request.length > 0) received_.take_into(slot->payload().data(), request.length);
      } else if (!co_await receive_payload(slot->payload())) {
        release(*slot);
        co_return;
      }
    }
    started_bytes += payload_bytes(request);
    requests_.spawn(serve(target_, terms_, *slot, replies_));
  }
}

// One receive more; false at the end of the connection.
Task<bool> Transmission::fill(std::size_t wanted) {
  if (!replies_.empty()) co_await env_.executor().yield();
  const Result<std::size_t> count = co_await stream_.read_some(received_.free_space(wanted));
  if (!count || *count == 0) co_return false;
  received_.received(*count);
  co_return true;
}

Task<bool> Transmission::receive_payload(std::span<std::byte> into) {
  const std::size_t present = std::min(received_.size(), into.size());
  if (present > 0) received_.take_into(into.data(), present);
  into = into.subspan(present);
  while (!into.empty()) {
    const Result<std::size_t> count = co_await stream_.read_some(into);
    if (!count || *count == 0) co_return false;
    into = into.subspan(*count);
  }
  co_return true;
}

Task<bool> Transmission::skip_payload(std::size_t length) {
  for (;;) {
    const std::size_t present = std::min(received_.size(), length);
    if (present > 0) received_.take(present);
    length -= present;
    if (length == 0) co_return true;
    if (!co_await fill(1)) co_return false;
  }
}

IoVector Transmission::gather(RequestSlot* batch) {
  IoVector data;
  std::size_t used = 0;   // of short_replies_
  std::size_t given = 0;  // of these, already in `data`
  const auto give_short_ones = [&] {
    if (used > given) data.append(short_replies_.data() + given, used - given);
    given = used;
  };
  for (RequestSlot* slot = batch; slot != nullptr; slot = ReplyQueue::next_of(*slot)) {
    const IoVector& reply = slot->reply();
    if (reply.size() <= kShortReply) {
      reply.copy_to(short_replies_.data() + used);
      used += reply.size();
      continue;
    }
    give_short_ones();
    for (const iovec& range : reply.ranges()) data.append(range.iov_base, range.iov_len);
  }
  give_short_ones();
  return data;
}

Task<void> Transmission::send_replies() {
  for (;;) {
    if (replies_.empty()) {
      if (replies_.closed()) co_return;
      co_await replies_.wait();
      continue;
    }
    RequestSlot* batch = replies_.take_all();
    if (!broken_) {
      const Result<void> sent = co_await stream_.write_all(gather(batch));
      if (!sent) {
        broken_ = true;
        stream_.shutdown();
      }
    }
    while (batch != nullptr) {
      RequestSlot* next = ReplyQueue::next_of(*batch);
      release(*batch);
      batch = next;
    }
  }
}

}  // namespace blockbed::nbd
