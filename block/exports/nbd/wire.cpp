#include "block/exports/nbd/wire.h"

#include <cerrno>

namespace blockbed::nbd {

std::array<std::byte, kGreetingSize> encode_greeting() {
  std::array<std::byte, kGreetingSize> greeting;
  put(greeting.data(), kGreetingMagic);
  put(greeting.data() + 8, kOptionMagic);
  put(greeting.data() + 16, static_cast<uint16_t>(kFixedNewstyle | kNoZeroes));
  return greeting;
}

uint32_t wire_error(int errno_value) {
  // The protocol gives these the numbers that Linux has; spelt out because they are a wire format,
  // not the host's.
  switch (errno_value) {
    case 0:
      return 0;
    case EPERM:
    case EROFS:
      return 1;
    case EIO:
      return 5;
    case ENOMEM:
      return 12;
    case ENOSPC:
    case EFBIG:
    case EDQUOT:
      return 28;
    case EOVERFLOW:
      return 75;
    case ENOTSUP:
      return 95;
    case ESHUTDOWN:
      return 108;
    default:
      return 22;
  }
}

std::string_view option_name(uint32_t option) {
  switch (static_cast<Option>(option)) {
    case Option::kExportName:
      return "export name";
    case Option::kAbort:
      return "abort";
    case Option::kList:
      return "list";
    case Option::kStartTls:
      return "starttls";
    case Option::kInfo:
      return "info";
    case Option::kGo:
      return "go";
    case Option::kStructuredReply:
      return "structured reply";
    case Option::kListMetaContext:
      return "list meta context";
    case Option::kSetMetaContext:
      return "set meta context";
  }
  return "<unknown>";
}

std::string_view command_name(uint16_t command) {
  switch (static_cast<Command>(command)) {
    case Command::kRead:
      return "read";
    case Command::kWrite:
      return "write";
    case Command::kDisconnect:
      return "disconnect";
    case Command::kFlush:
      return "flush";
    case Command::kTrim:
      return "trim";
    case Command::kCache:
      return "cache";
    case Command::kWriteZeroes:
      return "write zeroes";
    case Command::kBlockStatus:
      return "block status";
  }
  return "<unknown>";
}

}  // namespace blockbed::nbd
