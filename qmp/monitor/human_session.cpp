#include "qmp/monitor/human_session.h"

#include <fmt/format.h>

#include <utility>
#include <vector>

#include "block/runtime/gate.h"
#include "qmp/monitor/human_command.h"
#include "qmp/monitor/linger.h"
#include "qmp/monitor/monitor.h"

namespace blockbed {
namespace {

constexpr std::size_t kReadSize = 4096;

}  // namespace

HumanSession::HumanSession(Monitor& monitor, std::unique_ptr<Stream> stream)
    : monitor_(monitor),
      stream_(std::move(stream)),
      editor_("(qemu) ",
              [&monitor](std::string_view begun) { return monitor.human().complete(begun); }),
      output_(monitor.env().executor()),
      done_(monitor.env().executor()) {}

Task<void> HumanSession::run() {
  const std::shared_ptr<HumanSession> self = shared_from_this();
  Gate writer(monitor_.env().executor());
  writer.spawn(output_.run(*stream_));

  const MonitorOptions& options = monitor_.options();
  std::string banner = fmt::format("QEMU {}.{}.{} monitor - type 'help' for more information\n",
                                   options.major, options.minor, options.micro);
  editor_.show_prompt(banner);
  print(banner);

  co_await read_lines();

  ended_ = true;
  co_await send_and_shut_down(monitor_.env(), output_, *stream_, Monitor::kLingerNs);
  output_.finish();
  co_await writer.close();
}

Task<void> HumanSession::end() {
  const std::shared_ptr<HumanSession> self = shared_from_this();
  ended_ = true;
  done_.wake_all();
  co_await send_and_shut_down(monitor_.env(), output_, *stream_, Monitor::kLingerNs);
}

Task<void> HumanSession::read_lines() {
  std::vector<std::byte> portion(kReadSize);
  while (!ended_) {
    co_await output_.wait_below_high_water();
    const Result<std::size_t> got = co_await stream_->read_some(portion);
    if (!got || *got == 0) co_return;
    for (std::size_t i = 0; i < *got && !ended_ && !silent_; ++i) {
      std::string echo;
      auto line = editor_.feed(static_cast<unsigned char>(portion[i]), echo);
      print(echo);
      if (!line) continue;
      running_ = true;
      auto job = [self = shared_from_this(), text = *std::move(line)] {
        return self->execute(text);
      };
      monitor_.dispatcher().submit(std::move(job));
      while (running_ && !ended_) co_await done_.wait();
    }
  }
}

Task<void> HumanSession::execute(std::string line) {
  if (ended_) co_return;
  std::string answer;
  HumanContext context(monitor_, answer);
  co_await monitor_.human().execute(context, std::move(line));
  silent_ = context.ends_session();
  if (!silent_) editor_.show_prompt(answer);
  print(answer);
  running_ = false;
  done_.wake_all();
}

void HumanSession::print(std::string_view text) {
  output_.append(to_crlf(text));
  if (output_.overflowed()) stream_->shutdown();
}

}  // namespace blockbed
