#include "qmp/server/process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <grp.h>
#include <pwd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdlib>

#include "block/runtime/result.h"
#include "qmp/schema/scalar_text.h"

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
  return std::unique_ptr<Daemon>(new Daemon(ends[1], ::open("/dev/null", O_RDWR | O_CLOEXEC)));
}

Daemon::~Daemon() {
  if (parent_ >= 0) ::close(parent_);
  if (null_ >= 0) ::close(null_);
}

void Daemon::ready() {
  if (parent_ < 0) return;
  if (null_ >= 0) {
    for (int standard = 0; standard <= 2; ++standard) {
      ::dup2(standard == STDERR_FILENO && log_ >= 0 ? log_ : null_, standard);
    }
  }
  if (::chdir("/") != 0) return;
  ssize_t done = 0;
  do {
    done = ::write(parent_, &kReady, 1);
  } while (done < 0 && errno == EINTR);
  ::close(parent_);
  parent_ = -1;
}

Expected<Rights> Rights::of_user(const std::string& text) {
  Rights rights;
  if (const passwd* entry = ::getpwnam(text.c_str()); entry != nullptr) {
    rights.user_ = text;
    rights.ids_ = std::pair(entry->pw_uid, entry->pw_gid);
    return rights;
  }
  const std::size_t colon = text.find(':');
  const auto number = [](const std::string& digits) -> std::optional<uint32_t> {
    const auto value = schema::parse_uint64(digits);
    // The largest is "no change" to the kernel.
    if (!value || *value >= UINT32_MAX) return std::nullopt;
    return static_cast<uint32_t>(*value);
  };
  if (colon != std::string::npos) {
    const auto user = number(text.substr(0, colon)), group = number(text.substr(colon + 1));
    if (user && group) {
      rights.ids_ = std::pair(*user, *group);
      return rights;
    }
  }
  return fail(fmt::format("User \"{}\" doesn't exist (and is not <uid>:<gid>)", text));
}

Expected<void> Rights::apply() const {
  if (!root_.empty() && (::chroot(root_.c_str()) != 0 || ::chdir("/") != 0)) {
    return fail("chroot failed");
  }
  if (!ids_) return {};
  const auto& [user, group] = *ids_;
  if (::setgid(group) != 0) return fail(fmt::format("Failed to setgid({})", group));
  const bool grouped =
      user_.empty() ? ::setgroups(1, &group) == 0 : ::initgroups(user_.c_str(), group) == 0;
  if (!grouped) return fail(fmt::format("Failed to set the groups of user {}", user));
  if (::setuid(user) != 0) return fail(fmt::format("Failed to setuid({})", user));
  if (user != 0 && ::setuid(0) == 0) return fail("Dropping privileges failed");
  return {};
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
