#include "qmp/server/create_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>

#include "block/formats/qcow2/driver.h"
#include "qmp/schema/scalar_text.h"

namespace blockbed::server {

namespace {

// Of the file that an image lies in, or of a raw one.
constexpr std::array<CreateOption, 4> kStorageOptions = {{
    {"size", OptionKind::kSize},
    {"preallocation", OptionKind::kText},
    {"nocow", OptionKind::kSwitch},
    {"extent_size_hint", OptionKind::kSize},
}};
constexpr std::array<CreateOption, 21> kQcow2Options = {{
    {"size", OptionKind::kSize},
    {"preallocation", OptionKind::kText},
    {"compat", OptionKind::kText},
    {"backing_file", OptionKind::kText},
    {"backing_fmt", OptionKind::kText},
    {"data_file", OptionKind::kText},
    {"data_file_raw", OptionKind::kSwitch},
    {"encryption", OptionKind::kSwitch},
    {"encrypt.format", OptionKind::kText},
    {"encrypt.key-secret", OptionKind::kText},
    {"encrypt.cipher-alg", OptionKind::kText},
    {"encrypt.cipher-mode", OptionKind::kText},
    {"encrypt.ivgen-alg", OptionKind::kText},
    {"encrypt.ivgen-hash-alg", OptionKind::kText},
    {"encrypt.hash-alg", OptionKind::kText},
    {"encrypt.iter-time", OptionKind::kNumber},
    {"cluster_size", OptionKind::kSize},
    {"lazy_refcounts", OptionKind::kSwitch},
    {"refcount_bits", OptionKind::kNumber},
    {"extended_l2", OptionKind::kSwitch},
    {"compression_type", OptionKind::kText},
}};

const CreateOption* find(std::span<const CreateOption> options, std::string_view name) {
  const auto found = std::ranges::find(options, name, &CreateOption::name);
  return found == options.end() ? nullptr : &*found;
}

}  // namespace

const CreateOption* find_qcow2_option(std::string_view name) { return find(kQcow2Options, name); }

Expected<void> check_create_options(const OptionText& text, bool is_qcow2) {
  for (const auto& [name, value] : text.items()) {
    const CreateOption* option = is_qcow2 ? find_qcow2_option(name) : nullptr;
    if (option == nullptr) option = find(kStorageOptions, name);
    if (option == nullptr) return fail(fmt::format("Invalid parameter '{}'", name));
    BB_TRY(check_option_value(option->name, option->kind, value));
  }
  if (text.help()) return fail("Invalid parameter 'help'");
  return {};
}

Expected<qcow2::CreateOptions> read_qcow2_options(const OptionText& text) {
  qcow2::CreateOptions result;
  if (const std::string* size = text.find("cluster_size")) {
    result.cluster_size = *schema::parse_size(*size);
  }
  if (!std::has_single_bit(result.cluster_size) || result.cluster_size < 512 ||
      result.cluster_size > (uint64_t{2} << 20)) {
    return fail("Cluster size must be a power of two between 512 and 2048k");
  }
  if (const std::string* compat = text.find("compat")) {
    if (*compat != "0.10" && *compat != "1.1") {
      return fail(fmt::format("Invalid compatibility level: '{}'", *compat));
    }
    result.version = *compat == "0.10" ? 2 : 3;
  }
  if (const std::string* bits = text.find("refcount_bits")) {
    const uint64_t number = *schema::parse_uint64(*bits);
    if (number > 64 || !std::has_single_bit(number)) {
      return fail("Refcount width must be a power of two and may not exceed 64 bits");
    }
    if (result.version < 3 && number != 16) {
      return fail(
          "Different refcount widths than 16 bits require compatibility level 1.1 or above (use "
          "compat=1.1 or greater)");
    }
    result.refcount_bits = static_cast<uint32_t>(number);
  }
  if (const std::string* extended = text.find("extended_l2")) {
    result.extended_l2 = *schema::parse_switch(*extended);
    constexpr uint64_t kLeast = uint64_t{1} << qcow2::kMinExtendedClusterBits;
    if (result.extended_l2 && result.cluster_size < kLeast) {
      return fail(fmt::format(
          "Extended L2 entries are only supported with cluster sizes of at least {} bytes",
          kLeast));
    }
  }
  if (const std::string* mode = text.find("preallocation")) {
    const std::array modes = {Preallocation::kOff, Preallocation::kMetadata, Preallocation::kFalloc,
                              Preallocation::kFull};
    const auto* found = std::ranges::find(modes, *mode, preallocation_name);
    if (found == modes.end()) return fail(fmt::format("invalid parameter value: {}", *mode));
    result.preallocation = *found;
  }
  if (const std::string* backing = text.find("backing_file")) result.backing_file = *backing;
  return result;
}

}  // namespace blockbed::server
