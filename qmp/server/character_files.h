// Character devices that are files of the system: a pipe by name, a terminal, a new
// pseudo-terminal, a plain file to write to.
//
// Contract: open_*() give a pair of descriptors, closed when the owner dies. Nothing can be read
// from a plain file: its input waits for ever. The other side of a pseudo-terminal is kept open
// here, so that a terminal program may come and go: all of them speak to one session.
// Errors: texts of QEMU 7.2. Threading: any.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "qmp/schema/error.h"

namespace blockbed::server {

class CharacterFile {
 public:
  // PATH.in and PATH.out, or else PATH for both.
  static Expected<CharacterFile> open_pipe(const std::string& path);
  // A serial line or any other device, in raw mode if it is a terminal.
  static Expected<CharacterFile> open_device(const std::string& path);
  static Expected<CharacterFile> open_pty();
  static Expected<CharacterFile> open_output(const std::string& path, bool append);

  CharacterFile(CharacterFile&& other) noexcept = default;
  CharacterFile& operator=(CharacterFile&& other) noexcept {
    std::swap(descriptors_, other.descriptors_);
    std::swap(name_, other.name_);
    std::swap(input_, other.input_);
    std::swap(output_, other.output_);
    return *this;
  }
  ~CharacterFile();

  int input() const { return input_; }
  int output() const { return output_; }
  // Where a pseudo-terminal is: "/dev/pts/3".
  const std::string& name() const { return name_; }

 private:
  CharacterFile() = default;
  // Owned from here on; negative is a failure and stays one.
  int keep(int descriptor);

  std::vector<int> descriptors_;
  std::string name_;
  int input_ = -1;
  int output_ = -1;
};

}  // namespace blockbed::server
