#include "qmp/machine/removable_media.h"
#include "qmp/monitor/command_context.h"
#include "qmp/monitor/command_table.h"
#include "qmp/monitor/human_command.h"
#include "schema/block.h"

namespace blockbed {

namespace {

namespace c = schema::commands;
using Done = Task<Expected<void>>;
using DriveName = RemovableMedia::DriveName;

std::optional<bool> read_only(schema::BlockdevChangeReadOnlyMode mode) {
  if (mode == schema::BlockdevChangeReadOnlyMode::kRetain) return std::nullopt;
  return mode == schema::BlockdevChangeReadOnlyMode::kReadOnly;
}

Done change_by_hand(RemovableMedia& media, HumanArguments arguments) {
  RemovableMedia::NewMedium medium;
  medium.filename = arguments.text("target");
  if (arguments.has("arg")) medium.format = arguments.text("arg");
  if (arguments.has("read-only-mode")) {
    auto mode = schema::from_json<schema::BlockdevChangeReadOnlyMode>(
        json::Value(arguments.text("read-only-mode")));
    if (!mode) {
      co_return fail("invalid parameter value: " + arguments.text("read-only-mode"));
    }
    medium.read_only = read_only(*mode);
  }
  co_return co_await media.change(DriveName::of_device(arguments.text("device")),
                                  std::move(medium));
}

}  // namespace

void register_media_commands(CommandTable& commands, HumanTable& human, RemovableMedia& media) {
  commands.implement<c::Eject>([&media](CommandContext&, c::Eject::Args arguments) {
    return media.eject({std::move(arguments.device), std::move(arguments.id)});
  });
  commands.implement<c::BlockdevOpenTray>(
      [&media](CommandContext&, c::BlockdevOpenTray::Args arguments) {
        return media.open_tray({std::move(arguments.device), std::move(arguments.id)});
      });
  commands.implement<c::BlockdevCloseTray>(
      [&media](CommandContext&, c::BlockdevCloseTray::Args arguments) {
        return media.close_tray({std::move(arguments.device), std::move(arguments.id)});
      });
  commands.implement<c::BlockdevRemoveMedium>(
      [&media](CommandContext&, c::BlockdevRemoveMedium::Args arguments) {
        return media.remove(DriveName::of_id(std::move(arguments.id)));
      });
  commands.implement<c::BlockdevInsertMedium>([&media](CommandContext&,
                                                       c::BlockdevInsertMedium::Args arguments) {
    return media.insert(DriveName::of_id(std::move(arguments.id)), std::move(arguments.node_name));
  });
  commands.implement<c::BlockdevChangeMedium>([&media](CommandContext&,
                                                       c::BlockdevChangeMedium::Args arguments) {
    RemovableMedia::NewMedium medium;
    medium.filename = std::move(arguments.filename);
    medium.format = std::move(arguments.format);
    if (arguments.read_only_mode) medium.read_only = read_only(*arguments.read_only_mode);
    return media.change({std::move(arguments.device), std::move(arguments.id)}, std::move(medium));
  });
  human.add({.name = "eject",
             .arguments = {{"f", HumanKind::kFlag}, {"device", HumanKind::kBlockDevice}},
             .parameters = "[-f] device",
             .help = "open the tray of a drive and take the medium out",
             .run = [&media](HumanContext&, HumanArguments arguments) -> Done {
               co_return co_await media.eject(DriveName::of_device(arguments.text("device")));
             }});
  human.add({.name = "change",
             .arguments = {{"device", HumanKind::kBlockDevice},
                           {"f", HumanKind::kFlag},
                           {"target", HumanKind::kFilename},
                           {"arg", HumanKind::kString, true},
                           {"read-only-mode", HumanKind::kString, true}},
             .parameters = "device [-f] filename [format [read-only-mode]]",
             .help = "put another medium into a drive",
             .run = [&media](HumanContext&, HumanArguments arguments) -> Done {
               co_return co_await change_by_hand(media, std::move(arguments));
             }});
}

}  // namespace blockbed
