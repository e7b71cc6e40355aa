// The commands that this program can execute, and how a command is implemented.
//
// Problem: the schema says which commands exist; families of commands are written in different
// places. Each registers its handlers here, once, and the monitor finds them by name.
//
// Registering: `C` is a command of the schema (schema::commands::X), the handler is a plain
// function or a coroutine, usually a lambda whose captures the table keeps alive:
//
// table.implement<schema::commands::BlockdevDel>(
//         [&graph](CommandContext&, schema::commands::BlockdevDel::Args args)
//             -> Task<Expected<void>> { co_return co_await graph.remove(args.node_name); });
//
// Contract
//  - The arguments were checked against the schema before the handler runs; what the handler
//    returns (Expected<C::Result>) is turned into JSON after it. `Expected<void>` becomes the empty
//    object.
//  - A command has at most one handler. A handler of a command that the schema gives only to the
//    other manner of starting is dropped: a family registers everything it has.
//  - A plain handler must not wait. Only one in-band command runs at a time (dispatcher.h), so a
//    coroutine handler may rely on no other command beginning while it is suspended; out-of-band
//    ones excepted, and those must not wait.
//  - A command of the schema without a handler answers "The command X is not implemented by
//    Blockbed", and query-commands and query-qmp-schema leave it out.
// Threading: engine thread.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "block/runtime/task.h"
#include "qmp/schema/codec.h"
#include "qmp/schema/commands.h"
#include "qmp/schema/error.h"
#include "qmp/schema/json.h"

namespace blockbed {

class CommandContext;

// How the program was started: as qemu-system-* or as qemu-storage-daemon.
enum class Manner { kSystem, kDaemon };

using CommandResult = Expected<json::Value>;
using PlainCommand = std::function<CommandResult(CommandContext&, json::Value arguments)>;
using CoroutineCommand = std::function<Task<CommandResult>(CommandContext&, json::Value arguments)>;

struct Command {
  std::string_view name;
  schema::CommandFlags flags;
  std::variant<PlainCommand, CoroutineCommand> handler;
};

namespace command_detail {

template <class T>
struct TaskTraits {
  static constexpr bool kIsTask = false;
  using Value = T;
};
template <class T>
struct TaskTraits<Task<T>> {
  static constexpr bool kIsTask = true;
  using Value = T;
};

template <class Result>
CommandResult to_result(Expected<Result> result) {
  if (!result) return std::unexpected(std::move(result).error());
  if constexpr (std::is_void_v<Result>) {
    return json::Value(json::Object());
  } else {
    using schema::to_json;
    return to_json(*result);
  }
}

}  // namespace command_detail

class CommandTable {
 public:
  explicit CommandTable(Manner manner) : manner_(manner) {}
  CommandTable(const CommandTable&) = delete;
  CommandTable& operator=(const CommandTable&) = delete;

  Manner manner() const { return manner_; }

  template <class C, class Handler>
  void implement(Handler handler);

  // With the arguments as they came, for tests.
  void implement_raw(std::string_view name, schema::CommandFlags flags, PlainCommand handler);
  void implement_raw(std::string_view name, schema::CommandFlags flags, CoroutineCommand handler);

  // Null when no handler was registered under the name.
  Command* find(std::string_view name);
  // What a client is told when find() found nothing.
  Error why_not(std::string_view name) const;

  // The names that have a handler, in the order of the schema.
  std::vector<std::string_view> implemented() const;
  // The commands of the schema for this manner that have none.
  std::vector<std::string_view> without_handler() const;

 private:
  bool has(const schema::CommandFlags& flags) const;
  void add(Command command);

  Manner manner_;
  std::map<std::string_view, Command> commands_;
};

template <class C, class Handler>
void CommandTable::implement(Handler handler) {
  using Args = typename C::Args;
  using Returned = std::invoke_result_t<Handler&, CommandContext&, Args>;
  static_assert(std::is_same_v<typename command_detail::TaskTraits<Returned>::Value,
                               Expected<typename C::Result>>,
                "the handler must return Expected<C::Result>, or a Task of it");

  if constexpr (command_detail::TaskTraits<Returned>::kIsTask) {
    // The coroutine refers to the handler inside the table: a lambda's captures live in the lambda.
    struct Adapter {
      Handler handler;

      static Task<CommandResult> run(Handler& handler, CommandContext& context, Args args) {
        auto task = handler(context, std::move(args));
        auto result = co_await std::move(task);
        co_return command_detail::to_result(std::move(result));
      }
      static Task<CommandResult> refuse(Error error) { co_return fail(std::move(error)); }

      Task<CommandResult> operator()(CommandContext& context, json::Value arguments) {
        Expected<Args> args = schema::from_json<Args>(arguments);
        if (!args) return refuse(std::move(args).error());
        return run(handler, context, *std::move(args));
      }
    };
    implement_raw(C::kName, C::kFlags, CoroutineCommand(Adapter{std::move(handler)}));
  } else {
    struct Adapter {
      Handler handler;

      CommandResult operator()(CommandContext& context, json::Value arguments) {
        Expected<Args> args = schema::from_json<Args>(arguments);
        if (!args) return fail(std::move(args).error());
        return command_detail::to_result(handler(context, *std::move(args)));
      }
    };
    implement_raw(C::kName, C::kFlags, PlainCommand(Adapter{std::move(handler)}));
  }
}

}  // namespace blockbed
