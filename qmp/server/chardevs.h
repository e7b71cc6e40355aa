// Character devices of the command line: sockets, standard input and output, files, and sinks.
//
// Problem: -chardev (options) and -qmp, -monitor, -qtest (an older short form) name the same
// things; monitors and the test socket take them over by name.
//
// Contract
//  - add() binds, connects, opens or adopts at once, so that a wrong address is an error at
//    start-up and a listening socket is there for whoever starts the program; a server with `wait`
//    says so on standard error and waits for its first client.
//  - claim() gives a device to one user; take() hands the endpoint over, once; what nobody takes is
//    held until the end (a guest agent's channel). A multiplexed device may have several users: the
//    first is served.
//  - Sinks are the backends that lead nowhere here (a screen, a sound card's plug); a user of one
//    is never spoken to.
// Errors: texts of QEMU 7.2. Threading: engine thread.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "block/runtime/env.h"
#include "qmp/commands/option_text.h"
#include "qmp/monitor/endpoint.h"
#include "qmp/schema/error.h"
#include "qmp/server/character_files.h"

namespace blockbed::server {

enum class ChardevKind { kSocket, kStdio, kFile, kPipe, kDevice, kPty, kSink };

struct ChardevSpec {
  std::string id;
  ChardevKind kind = ChardevKind::kSink;
  EndpointOptions endpoint;
  // Files, pipes and devices.
  std::string path;
  bool append = false;
  bool multiplexed = false;
  // The backend's name for query-chardev: "null".
  std::string backend;
};

// "socket,id=mon,path=/p,server=on,wait=off".
Expected<ChardevSpec> parse_chardev(OptionText options);
// "unix:/p,server=on", "tcp:host:1234,server,nowait", "stdio", "null", ... Text that cannot be
// understood is the outer failure, which says why; what it means may be wrong all the same.
std::expected<Expected<ChardevSpec>, std::string> parse_chardev_short_form(std::string_view text);

class Chardevs {
 public:
  explicit Chardevs(Env& env) : env_(env) {}
  ~Chardevs();
  Chardevs(const Chardevs&) = delete;
  Chardevs& operator=(const Chardevs&) = delete;

  // "Duplicate ID 'c' for chardev", "Failed to connect to ...". Where a new pseudo-terminal is, is
  // told on standard output.
  Task<Expected<void>> add(ChardevSpec spec, std::string location);
  // "chardev "c" not found", "Device 'c' is in use".
  Expected<void> claim(std::string_view id);
  // From now on nothing opens standard input and output.
  void forbid_stdio() { stdio_forbidden_ = true; }
  // Null for a sink, and after the first time. The id must be there.
  std::unique_ptr<Endpoint> take(std::string_view id);
  // Closes what was not taken.
  void close();

  struct Description {
    std::string label;
    std::string filename;
    bool open = false;
  };
  std::vector<Description> descriptions() const;

 private:
  struct Device {
    ChardevSpec spec;
    std::optional<CharacterFile> file;
    std::unique_ptr<Endpoint> endpoint;
    bool claimed = false;
    // Stays valid after take(): the monitor keeps the endpoint as long as the program runs.
    const Endpoint* seen = nullptr;
  };
  // The descriptors that the device's endpoint works on.
  Expected<void> open_file(Device& device);

  Env& env_;
  std::map<std::string, Device, std::less<>> devices_;
  bool stdio_used_ = false;
  bool stdio_forbidden_ = false;
};

}  // namespace blockbed::server
