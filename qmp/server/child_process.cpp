#include "qmp/server/child_process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "block/runtime/result.h"

namespace blockbed::server {

namespace {

struct Pipe {
  UniqueDescriptor read_end;
  UniqueDescriptor write_end;
};

Expected<Pipe> make_pipe() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0)
    return fail(fmt::format("Unable to open pipe: {}", strerror_text(errno)));
  return Pipe{UniqueDescriptor(ends[0]), UniqueDescriptor(ends[1])};
}

// How the process begins: nothing of what the server does with signals and descriptors.
class Conditions {
 public:
  Conditions(int input, int output) {
    ::posix_spawn_file_actions_init(&descriptors);
    ::posix_spawn_file_actions_adddup2(&descriptors, input, STDIN_FILENO);
    ::posix_spawn_file_actions_adddup2(&descriptors, output, STDOUT_FILENO);
    ::posix_spawnattr_init(&signals);
    sigset_t none, all;
    ::sigemptyset(&none);
    ::sigfillset(&all);
    ::posix_spawnattr_setsigmask(&signals, &none);
    ::posix_spawnattr_setsigdefault(&signals, &all);
    ::posix_spawnattr_setflags(&signals, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  }
  ~Conditions() {
    ::posix_spawn_file_actions_destroy(&descriptors);
    ::posix_spawnattr_destroy(&signals);
  }
  Conditions(const Conditions&) = delete;
  Conditions& operator=(const Conditions&) = delete;

  posix_spawn_file_actions_t descriptors;
  posix_spawnattr_t signals;
};

}  // namespace

Expected<std::unique_ptr<ChildProcess>> ChildProcess::start(const std::string& command) {
  auto input = make_pipe();
  if (!input) return fail(std::move(input).error());
  auto output = make_pipe();
  if (!output) return fail(std::move(output).error());
  const Conditions conditions(input->read_end.get(), output->write_end.get());
  std::string words[] = {"/bin/sh", "-c", command};
  char* const arguments[] = {words[0].data(), words[1].data(), words[2].data(), nullptr};
  pid_t process = 0;
  const int failed = ::posix_spawn(&process, arguments[0], &conditions.descriptors,
                                   &conditions.signals, arguments, ::environ);
  if (failed != 0) return fail(fmt::format("Unable to fork: {}", strerror_text(failed)));
  return std::unique_ptr<ChildProcess>(
      new ChildProcess(process, std::move(input->write_end), std::move(output->read_end)));
}

ChildProcess::~ChildProcess() {
  // Nobody else waits for it: its number is its own until it is waited for.
  ::kill(process_, SIGTERM);
  ::waitpid(process_, nullptr, WNOHANG);
}

}  // namespace blockbed::server
