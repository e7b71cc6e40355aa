#include "qmp/monitor/qmp_session.h"

#include <utility>
#include <vector>

#include "block/runtime/gate.h"
#include "qmp/monitor/command_context.h"
#include "qmp/monitor/linger.h"
#include "qmp/monitor/monitor.h"
#include "qmp/schema/json_write.h"

namespace blockbed {
namespace {

// Commands are small; libvirt's largest are some kilobytes.
constexpr std::size_t kReadSize = 16 << 10;

}  // namespace

QmpSession::QmpSession(Monitor& monitor, std::unique_ptr<Stream> stream, bool pretty,
                       bool outlives_input)
    : monitor_(monitor),
      stream_(std::move(stream)),
      pretty_(pretty),
      outlives_input_(outlives_input),
      output_(monitor.env().executor()),
      room_(monitor.env().executor()) {}

Task<void> QmpSession::run() {
  const std::shared_ptr<QmpSession> self = shared_from_this();
  Gate writer(monitor_.env().executor());
  writer.spawn(output_.run(*stream_));

  json::Object greeting;
  greeting.append_new("version", monitor_.version());
  greeting.append_new("capabilities", json::Array{"oob"});
  send(json::Object{{"QMP", std::move(greeting)}});

  co_await read_messages();

  ended_ = true;
  negotiated_ = false;
  queue_.clear();
  co_await send_and_shut_down(monitor_.env(), output_, *stream_, Monitor::kLingerNs);
  output_.finish();
  co_await writer.close();
}

Task<void> QmpSession::end() {
  const std::shared_ptr<QmpSession> self = shared_from_this();
  ended_ = true;
  room_.wake_all();
  co_await send_and_shut_down(monitor_.env(), output_, *stream_, Monitor::kLingerNs);
}

void QmpSession::complete_negotiation(bool oob) {
  negotiated_ = true;
  oob_ = oob;
}

Task<void> QmpSession::read_messages() {
  std::vector<std::byte> portion(kReadSize);
  std::shared_ptr<DescriptorBag> descriptors;
  while (!ended_) {
    const Result<std::size_t> got = co_await stream_->read_some(portion);
    if (got && *got == 0) {
      while (!ended_ && (unanswered_ > 0 || outlives_input_)) co_await room_.wait();
      co_return;
    }
    if (!got) co_return;
    if (const std::vector<int> received = stream_->take_descriptors(); !received.empty()) {
      descriptors = std::make_shared<DescriptorBag>(received);
    }
    std::string_view bytes(reinterpret_cast<const char*>(portion.data()), *got);
    while (!ended_) {
      auto message = framer_.next(bytes);
      if (!message) break;
      co_await output_.wait_below_high_water();
      if (ended_) co_return;
      co_await take(*std::move(message), descriptors);
    }
  }
}

bool QmpSession::must_wait() const {
  if (ended_) return false;
  return oob_ ? queue_.size() >= kQueueLength : unanswered_ > 0;
}

Task<void> QmpSession::take(Expected<json::Value> message,
                            std::shared_ptr<DescriptorBag> descriptors) {
  Queued queued{parse_request(std::move(message), oob_), std::move(descriptors)};
  if (queued.request.out_of_band) {
    co_await execute(std::move(queued));
    co_return;
  }
  queue_.push_back(std::move(queued));
  ++unanswered_;
  monitor_.dispatcher().submit([self = shared_from_this()] { return self->execute_next(); });
  // A command that can run at once does so before the next message is looked at: out-of-band ones
  // overtake what waits, not what merely arrived in the same portion.
  if (oob_) co_await monitor_.env().executor().yield();
  while (must_wait()) co_await room_.wait();
}

Task<void> QmpSession::execute_next() {
  if (ended_ || queue_.empty()) co_return;
  Queued queued = std::move(queue_.front());
  queue_.pop_front();
  room_.wake_all();
  co_await execute(std::move(queued));
  --unanswered_;
  room_.wake_all();
}

Task<void> QmpSession::execute(Queued queued) {
  Request& request = queued.request;
  CommandResult result;
  if (request.error) {
    result = fail(*std::move(request.error));
  } else if (!negotiated_ && request.command != "qmp_capabilities") {
    result = fail(ErrorClass::kCommandNotFound,
                  "Expecting capabilities negotiation with 'qmp_capabilities'");
  } else {
    CommandContext context(monitor_, shared_from_this(), std::move(queued.descriptors));
    result = co_await monitor_.execute(context, std::move(request.command),
                                       std::move(request.arguments), request.out_of_band);
  }
  send(make_reply(std::move(result), std::move(request.id)));
}

void QmpSession::send(const json::Object& message) {
  if (!pretty_) {
    json::write(output_.buffer(), message);
    output_.buffer() += "\r\n";
    output_.appended();
    close_if_overflowed();
    return;
  }
  std::string text;
  json::write_pretty(text, message);
  send(text);
}

void QmpSession::send(std::string_view text) {
  std::string& out = output_.buffer();
  // Only the pretty form has line ends inside.
  for (size_t at = 0; at < text.size();) {
    const size_t line_end = text.find('\n', at);
    out += text.substr(at, line_end - at);
    if (line_end == std::string_view::npos) break;
    out += "\r\n";
    at = line_end + 1;
  }
  out += "\r\n";
  output_.appended();
  close_if_overflowed();
}

void QmpSession::close_if_overflowed() {
  if (output_.overflowed()) stream_->shutdown();
}

}  // namespace blockbed
