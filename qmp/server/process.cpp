#include "qmp/server/process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdlib>

#include "block/runtime/result.h"

namespace blockbed::server {

namespace {

constexpr char kReady = 'r';

ssize_t read_byte(int descriptor, char& byte) {
  ssize_t got = 0;
  do {
    got = ::read(descriptor, &byte, 1);
  } while (got < 0 && errno == EINTR);
  return got;
}

// Paths were given relative to where the program was started; the daemon goes to the root
// directory.
std::string absolute(const std::string& path) {
  if (path.empty() || path.front() == '/') return path;
  char directory[PATH_MAX];
  return ::getcwd(directory, sizeof directory) == nullptr ? path
                                                          : fmt::format("{}/{}", directory, path);
}

}  // namespace

Expected<std::unique_ptr<Daemon>> Daemon::daemonize() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return fail(fmt::format("pipe: {}", strerror_text(errno)));
  const pid_t child = ::fork();
  if (child < 0) return fail(fmt::format("fork: {}", strerror_text(errno)));
  if (child > 0) {
    ::close(ends[1]);
    char byte = 0;
    const bool ready = read_byte(ends[0], byte) == 1 && byte == kReady;
    ::_exit(ready ? 0 : 1);
  }
  ::close(ends[0]);
  ::setsid();
  // A second fork: the daemon is no leader of its session and cannot get a terminal again.
  const pid_t grandchild = ::fork();
  if (grandchild < 0) ::_exit(1);
  if (grandchild > 0) ::_exit(0);
  ::umask(027);
  return std::unique_ptr<Daemon>(new Daemon(ends[1]));
}

Daemon::~Daemon() {
  if (parent_ >= 0) ::close(parent_);
}

void Daemon::ready() {
  if (parent_ < 0) return;
  const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  if (null >= 0) {
    for (int standard = 0; standard <= 2; ++standard) ::dup2(null, standard);
    if (null > 2) ::close(null);
  }
  if (::chdir("/") != 0) return;
  ssize_t done = 0;
  do {
    done = ::write(parent_, &kReady, 1);
  } while (done < 0 && errno == EINTR);
  ::close(parent_);
  parent_ = -1;
}

Expected<std::unique_ptr<PidFile>> PidFile::create(std::string path) {
  path = absolute(path);
  const int descriptor = ::open(path.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, S_IRUSR | S_IWUSR);
  if (descriptor < 0) {
    return fail(fmt::format("cannot create PID file: Could not create '{}': {}", path,
                            strerror_text(errno)));
  }
  struct flock lock = {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  std::unique_ptr<PidFile> file(new PidFile(path, descriptor));
  const auto give_up = [&](std::string_view what, int number) {
    ::close(file->descriptor_);
    file->descriptor_ = -1;
    return fail(fmt::format("cannot create PID file: {}: {}", what, strerror_text(number)));
  };
  if (::fcntl(descriptor, F_SETLK, &lock) != 0) return give_up("Cannot lock pid file", errno);
  const std::string text = fmt::format("{}\n", ::getpid());
  if (::ftruncate(descriptor, 0) != 0 ||
      ::write(descriptor, text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
    return give_up("Failed to write pid file", errno);
  }
  return file;
}

PidFile::~PidFile() {
  if (descriptor_ < 0) return;
  ::unlink(path_.c_str());
  ::close(descriptor_);
}

}  // namespace blockbed::server
