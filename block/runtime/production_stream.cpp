#include "block/runtime/production_stream.h"

#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "block/runtime/assert.h"
#include "block/runtime/socket_address.h"

namespace blockbed {

void close_descriptor(int descriptor) { ::close(descriptor); }

namespace {

constexpr int kLastStandardDescriptor = 2;

void give_back(int descriptor, int flags) {
  if (flags >= 0) ::fcntl(descriptor, F_SETFL, flags);
  if (descriptor > kLastStandardDescriptor) ::close(descriptor);
}

// Waking a peer that sleeps takes as long as copying some tens of KiB. What stands before that much
// goes ahead of it, and the peer wakes up while the rest is copied.
constexpr std::size_t kLongRange = 32 * 1024;

bool leads_alone(std::span<const iovec> ranges) {
  return ranges.size() > 1 && ranges[0].iov_len < kLongRange && ranges[1].iov_len >= kLongRange;
}

}  // namespace

Result<std::unique_ptr<Stream>> ProductionStream::adopt(EventLoop& loop, int read_descriptor,
                                                        int write_descriptor, Origin origin) {
  End ends[2] = {{read_descriptor}, {write_descriptor}};
  const bool one = read_descriptor == write_descriptor;
  if (origin == Origin::kForeign) {
    for (End& end : ends) {
      const int flags = ::fcntl(end.descriptor, F_GETFL);
      if (flags < 0) return io_error(errno);
      if ((flags & O_NONBLOCK) != 0) continue;
      end.flags = flags;
    }
    for (const End& end : ends) {
      if (end.flags >= 0) ::fcntl(end.descriptor, F_SETFL, end.flags | O_NONBLOCK);
    }
  }
  sockaddr_storage name;
  socklen_t length = sizeof name;
  Kind kind = Kind::kOther;
  if (one && ::getsockname(read_descriptor, reinterpret_cast<sockaddr*>(&name), &length) == 0) {
    kind = name.ss_family == AF_UNIX ? Kind::kUnixSocket : Kind::kSocket;
    if (kind == Kind::kSocket) {
      const int on = 1;
      ::setsockopt(read_descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    }
  }
  return std::unique_ptr<Stream>(new ProductionStream(loop, ends[0], ends[1], kind));
}

ProductionStream::ProductionStream(EventLoop& loop, End reader, End writer, Kind kind)
    : reader_(reader), writer_(writer), kind_(kind), watch_(loop, reader.descriptor) {
  if (reader.descriptor != writer.descriptor) {
    other_watch_ = std::make_unique<DescriptorWatch>(loop, writer.descriptor);
  }
}

ProductionStream::~ProductionStream() {
  for (const int descriptor : descriptors_) ::close(descriptor);
  other_watch_.reset();
  watch_.forget();
  give_back(reader_.descriptor, reader_.flags);
  if (writer_.descriptor != reader_.descriptor) give_back(writer_.descriptor, writer_.flags);
}

ssize_t ProductionStream::receive(std::span<std::byte> into) {
  for (;;) {
    ssize_t count;
    switch (kind_) {
      case Kind::kSocket:
        count = ::recv(reader_.descriptor, into.data(), into.size(), MSG_DONTWAIT);
        break;
      case Kind::kUnixSocket: {
        alignas(cmsghdr) std::array<char, CMSG_SPACE(kMaxDescriptors * sizeof(int))> control;
        iovec range = {into.data(), into.size()};
        msghdr message = {};
        message.msg_iov = &range;
        message.msg_iovlen = 1;
        message.msg_control = control.data();
        message.msg_controllen = control.size();
        count = ::recvmsg(reader_.descriptor, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (count >= 0 && message.msg_controllen > 0) keep_descriptors(message);
        break;
      }
      case Kind::kOther:
        count = ::read(reader_.descriptor, into.data(), into.size());
        break;
    }
    if (count >= 0) return count;
    if (errno != EINTR) return errno == EWOULDBLOCK ? -EAGAIN : -errno;
  }
}

void ProductionStream::keep_descriptors(const msghdr& message) {
  auto& mutable_message = const_cast<msghdr&>(message);
  for (cmsghdr* part = CMSG_FIRSTHDR(&mutable_message); part != nullptr;
       part = CMSG_NXTHDR(&mutable_message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int descriptor;
      std::memcpy(&descriptor, CMSG_DATA(part) + i * sizeof descriptor, sizeof descriptor);
      if (descriptors_.size() < kMaxDescriptors) {
        descriptors_.push_back(descriptor);
      } else {
        ::close(descriptor);
      }
    }
  }
}

Task<Result<std::size_t>> ProductionStream::read_some(std::span<std::byte> into) {
  BB_ASSERT(!into.empty());
  for (;;) {
    if (shut_) co_return io_error(ECANCELED);
    const ssize_t count = receive(into);
    if (count >= 0) co_return static_cast<std::size_t>(count);
    if (count != -EAGAIN) co_return io_error(static_cast<int>(-count));
    co_await watch_.readable();
  }
}

Result<std::size_t> ProductionStream::try_read(std::span<std::byte> into) {
  BB_ASSERT(!into.empty());
  if (shut_) return io_error(ECANCELED);
  const ssize_t count = receive(into);
  if (count < 0) return io_error(static_cast<int>(-count));
  return static_cast<std::size_t>(count);
}

ssize_t ProductionStream::send(const iovec* ranges, std::size_t count) const {
  for (;;) {
    ssize_t sent;
    if (kind_ == Kind::kOther) {
      sent = ::writev(writer_.descriptor, ranges, static_cast<int>(count));
    } else if (count == 1) {
      sent = ::send(writer_.descriptor, ranges->iov_base, ranges->iov_len,
                    MSG_DONTWAIT | MSG_NOSIGNAL);
    } else {
      msghdr message = {};
      message.msg_iov = const_cast<iovec*>(ranges);
      message.msg_iovlen = count;
      sent = ::sendmsg(writer_.descriptor, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    }
    if (sent >= 0) return sent;
    if (errno != EINTR) return errno == EWOULDBLOCK ? -EAGAIN : -errno;
  }
}

Task<Result<void>> ProductionStream::write_all(IoVector data) {
  const std::span<const iovec> ranges = data.ranges();
  std::size_t done = 0;    // whole ranges sent
  std::size_t inside = 0;  // bytes sent of the next one
  while (done < ranges.size()) {
    if (shut_) co_return io_error(ECANCELED);
    ssize_t sent;
    if (inside == 0) {
      const std::size_t count = leads_alone(ranges.subspan(done)) ? 1 : ranges.size() - done;
      sent = send(&ranges[done], std::min<std::size_t>(count, IOV_MAX));
    } else {
      // The kernel stopped inside a range: that one is finished alone.
      const iovec rest = {static_cast<std::byte*>(ranges[done].iov_base) + inside,
                          ranges[done].iov_len - inside};
      sent = send(&rest, 1);
    }
    if (sent == -EAGAIN) {
      co_await write_watch().writable();
      continue;
    }
    if (sent < 0) co_return io_error(static_cast<int>(-sent));
    auto left = static_cast<std::size_t>(sent);
    while (left > 0) {
      const std::size_t part = std::min(left, ranges[done].iov_len - inside);
      left -= part;
      inside += part;
      if (inside == ranges[done].iov_len) {
        ++done;
        inside = 0;
      }
    }
  }
  co_return {};
}

void ProductionStream::shutdown() {
  if (shut_) return;
  shut_ = true;
  if (kind_ != Kind::kOther) ::shutdown(reader_.descriptor, SHUT_RDWR);
  watch_.cancel();
  if (other_watch_) other_watch_->cancel();
}

std::vector<int> ProductionStream::take_descriptors() { return std::exchange(descriptors_, {}); }

SocketAddress ProductionStream::peer() const {
  KernelAddress name;
  name.length = sizeof name.storage;
  if (kind_ == Kind::kOther || ::getpeername(reader_.descriptor, name.get(), &name.length) != 0) {
    return DescriptorAddress{reader_.descriptor};
  }
  return socket_address(name);
}

}  // namespace blockbed
