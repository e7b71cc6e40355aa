// The options that a new image takes, as `qemu-img create -o` has them.
//
// Contract: names, kinds of values and texts are those of qemu-img 7.2; nothing is created here.
// Threading: the thread of the process.
#pragma once

#include <string_view>

#include "block/formats/qcow2/create.h"
#include "qmp/commands/option_text.h"
#include "qmp/server/image_tool.h"

namespace blockbed::server {

struct CreateOption {
  std::string_view name;
  OptionKind kind;
};

// Of a qcow2 image, without those of the file that it lies in; null: it has none of that name.
const CreateOption* find_qcow2_option(std::string_view name);
// Names and values of an image of that format in a file.
Expected<void> check_create_options(const OptionText& text, bool is_qcow2);
// Of options that were checked; all but encryption.
Expected<qcow2::CreateOptions> read_qcow2_options(const OptionText& text);

}  // namespace blockbed::server
