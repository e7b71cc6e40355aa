#include "qmp/server/character_files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <termios.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "block/runtime/result.h"

namespace blockbed::server {

namespace {

std::unexpected<Error> cannot_open(const std::string& path) {
  return fail(fmt::format("Could not open '{}': {}", path, strerror_text(errno)));
}

void make_raw(int descriptor) {
  termios modes = {};
  if (::tcgetattr(descriptor, &modes) != 0) return;
  ::cfmakeraw(&modes);
  ::tcsetattr(descriptor, TCSAFLUSH, &modes);
}

}  // namespace

int CharacterFile::keep(int descriptor) {
  if (descriptor >= 0) descriptors_.push_back(descriptor);
  return descriptor;
}

CharacterFile::~CharacterFile() {
  for (const int descriptor : descriptors_) ::close(descriptor);
}

Expected<CharacterFile> CharacterFile::open_pipe(const std::string& path) {
  // For both directions: opening one end alone would wait for the other.
  constexpr int kFlags = O_RDWR | O_CLOEXEC | O_NONBLOCK;
  CharacterFile file;
  file.input_ = file.keep(::open((path + ".in").c_str(), kFlags));
  file.output_ = file.keep(::open((path + ".out").c_str(), kFlags));
  if (file.input_ >= 0 && file.output_ >= 0) return file;
  file.input_ = file.output_ = file.keep(::open(path.c_str(), kFlags));
  if (file.input_ < 0) return cannot_open(path);
  return file;
}

Expected<CharacterFile> CharacterFile::open_device(const std::string& path) {
  CharacterFile file;
  file.input_ = file.output_ =
      file.keep(::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (file.input_ < 0) return cannot_open(path);
  make_raw(file.input_);
  return file;
}

Expected<CharacterFile> CharacterFile::open_pty() {
  CharacterFile file;
  const auto failed = [] {
    return fail(fmt::format("Failed to create PTY: {}", strerror_text(errno)));
  };
  const int master = file.keep(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK));
  if (master < 0 || ::grantpt(master) != 0 || ::unlockpt(master) != 0) return failed();
  char name[64];
  if (::ptsname_r(master, name, sizeof name) != 0) return failed();
  const int slave = file.keep(::open(name, O_RDWR | O_NOCTTY | O_CLOEXEC));
  if (slave < 0) return failed();
  make_raw(slave);
  file.name_ = name;
  file.input_ = file.output_ = master;
  return file;
}

Expected<CharacterFile> CharacterFile::open_output(const std::string& path, bool append) {
  CharacterFile file;
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0)
    return fail(fmt::format("pipe: {}", strerror_text(errno)));
  file.input_ = file.keep(ends[0]);
  file.keep(ends[1]);
  file.output_ = file.keep(
      ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | (append ? O_APPEND : O_TRUNC), 0666));
  if (file.output_ < 0) return cannot_open(path);
  return file;
}

}  // namespace blockbed::server
