#include "block/exports/nbd/negotiation.h"

#include <fmt/format.h>

#include <algorithm>

#include "block/runtime/assert.h"

namespace blockbed::nbd {

namespace {

// Names of this length or more are cut in messages, as QEMU cuts them.
constexpr std::size_t kShownName = 80;

std::string shown(std::string_view name) {
  if (name.size() < kShownName) return std::string(name);
  return std::string(name.substr(0, kShownName)) + "...";
}

void put_text(std::byte* out, std::string_view text) {
  if (!text.empty()) std::memcpy(out, text.data(), text.size());
}

// Adds what one query names. Whole namespaces can only be listed.
void add_matching_contexts(std::string_view query, bool listing, const ExportFacts& facts,
                           MetaContexts& out) {
  if (query == kBaseAllocation || (listing && query == "base:")) {
    out.base_allocation = true;
  } else if (listing && query == "qemu:") {
    out.allocation_depth = facts.allocation_depth;
    out.bitmaps.assign(out.bitmaps.size(), true);
  } else if (query == kAllocationDepth) {
    out.allocation_depth = facts.allocation_depth;
  } else if (listing && query == kDirtyBitmapPrefix) {
    out.bitmaps.assign(out.bitmaps.size(), true);
  } else if (query.starts_with(kDirtyBitmapPrefix)) {
    const auto found = std::ranges::find(facts.bitmaps, query.substr(kDirtyBitmapPrefix.size()));
    if (found != facts.bitmaps.end()) {
      out.bitmaps[static_cast<std::size_t>(found - facts.bitmaps.begin())] = true;
    }
  }
}

}  // namespace

// Reads an option's data from front to back.
class Negotiation::DataReader {
 public:
  explicit DataReader(std::span<const std::byte> data) : data_(data) {}

  template <class T>
  std::optional<T> integer() {
    if (data_.size() < sizeof(T)) return std::nullopt;
    const T value = get<T>(data_.data());
    data_ = data_.subspan(sizeof(T));
    return value;
  }
  std::optional<std::string_view> bytes(std::size_t length) {
    if (data_.size() < length) return std::nullopt;
    const std::string_view result(reinterpret_cast<const char*>(data_.data()), length);
    data_ = data_.subspan(length);
    return result;
  }
  std::size_t left() const { return data_.size(); }

 private:
  std::span<const std::byte> data_;
};

std::size_t MetaContexts::count() const {
  return static_cast<std::size_t>(base_allocation) + static_cast<std::size_t>(allocation_depth) +
         static_cast<std::size_t>(std::ranges::count(bitmaps, true));
}

std::size_t Negotiation::consume(std::span<const std::byte> input) {
  std::size_t taken = 0;
  // An item of length 0 is complete without any input.
  while (phase_ == Phase::kHandshake) {
    if (state_ == State::kSkip) {
      const std::size_t part = std::min(wanted_, input.size() - taken);
      taken += part;
      wanted_ -= part;
      if (wanted_ > 0) break;
      expect(State::kOptionHeader, kOptionHeaderSize);
      continue;
    }
    if (state_ == State::kOptionHeader && output_.size() >= kOutputPause) break;
    const std::size_t part = std::min(wanted_ - data_.size(), input.size() - taken);
    data_.insert(data_.end(), input.begin() + static_cast<std::ptrdiff_t>(taken),
                 input.begin() + static_cast<std::ptrdiff_t>(taken + part));
    taken += part;
    if (data_.size() < wanted_) break;
    switch (state_) {
      case State::kClientFlags:
        take_client_flags();
        break;
      case State::kOptionHeader:
        take_option_header();
        break;
      case State::kOptionData:
        take_option();
        if (phase_ == Phase::kHandshake) expect(State::kOptionHeader, kOptionHeaderSize);
        break;
      case State::kSkip:
        break;
    }
  }
  return taken;
}

void Negotiation::expect(State state, std::size_t length) {
  state_ = state;
  wanted_ = length;
  data_.clear();
}

void Negotiation::close(std::string reason) {
  phase_ = Phase::kClose;
  reason_ = std::move(reason);
}

void Negotiation::take_client_flags() {
  const auto flags = get<uint32_t>(data_.data());
  fixed_newstyle_ = (flags & kFixedNewstyle) != 0;
  no_zeroes_ = (flags & kNoZeroes) != 0;
  const uint32_t unknown = flags & ~uint32_t{kFixedNewstyle | kNoZeroes};
  if (unknown != 0) return close(fmt::format("Unknown client flags 0x{:x} received", unknown));
  expect(State::kOptionHeader, kOptionHeaderSize);
}

// Decides from the header alone what to do with the data: hold it, or answer at once and skip it.
void Negotiation::take_option_header() {
  option_ = decode_option(data_.data());
  if (option_.magic != kOptionMagic) return close("Bad magic received");
  if (option_.length > kMaxPayload) {
    return close(fmt::format("len ({}) is larger than max len ({})", option_.length, kMaxPayload));
  }
  const auto option = static_cast<Option>(option_.option);
  if (!fixed_newstyle_ && option != Option::kExportName) {
    return close(
        fmt::format("Unsupported option {} ({})", option_.option, option_name(option_.option)));
  }
  switch (option) {
    case Option::kExportName:
      // The option that has no way to say no.
      if (option_.length > kMaxString) return close("Bad length received");
      return expect(State::kOptionData, option_.length);
    case Option::kAbort:
      acknowledge();
      return close("");
    case Option::kList:
      if (option_.length != 0)
        refuse_length();
      else
        list();
      break;
    case Option::kStartTls:
      if (option_.length != 0)
        refuse_length();
      else
        refuse(OptionReply::kErrPolicy, "TLS not configured");
      break;
    case Option::kStructuredReply:
      if (option_.length != 0) {
        refuse_length();
      } else if (structured_) {
        refuse(OptionReply::kErrInvalid, "structured reply already negotiated");
      } else {
        structured_ = true;
        acknowledge();
      }
      break;
    case Option::kSetMetaContext:
      contexts_ = {};
      contexts_of_ = 0;
      if (!structured_) {
        refuse(OptionReply::kErrInvalid,
               fmt::format("request option '{}' when structured reply is not negotiated",
                           option_name(option_.option)));
        break;
      }
      [[fallthrough]];
    case Option::kListMetaContext:
    case Option::kInfo:
    case Option::kGo:
      if (option_.length <= kMaxOptionData) return expect(State::kOptionData, option_.length);
      refuse(OptionReply::kErrTooBig,
             fmt::format("option '{}' is too long", option_name(option_.option)));
      break;
    default:
      refuse(OptionReply::kErrUnsupported, fmt::format("Unsupported option {} ({})", option_.option,
                                                       option_name(option_.option)));
      break;
  }
  expect(State::kSkip, option_.length);
}

void Negotiation::take_option() {
  switch (static_cast<Option>(option_.option)) {
    case Option::kExportName:
      return export_name();
    case Option::kInfo:
    case Option::kGo:
      return info_or_go();
    case Option::kListMetaContext:
    case Option::kSetMetaContext:
      return list_or_set_meta_context();
    default:
      BB_ASSERT(!"only options whose data is held come here");
  }
}

std::byte* Negotiation::reply(OptionReply type, std::size_t length) {
  const std::size_t at = output_.size();
  output_.resize(at + kOptionReplyHeaderSize + length);
  encode(&output_[at],
         OptionReplyHeader{kOptionReplyMagic, option_.option, static_cast<uint32_t>(type),
                           static_cast<uint32_t>(length)});
  return output_.data() + at + kOptionReplyHeaderSize;
}

void Negotiation::refuse(OptionReply type, std::string_view text) {
  put_text(reply(type, text.size()), text);
}

void Negotiation::refuse_length() {
  refuse(OptionReply::kErrInvalid,
         fmt::format("option '{}' has unexpected length", option_name(option_.option)));
}

void Negotiation::refuse_inconsistent() {
  refuse(OptionReply::kErrInvalid,
         fmt::format("Inconsistent lengths in option {}", option_name(option_.option)));
}

void Negotiation::refuse_unknown_export(std::string_view name) {
  refuse(OptionReply::kErrUnknown, fmt::format("export '{}' not present", shown(name)));
}

uint16_t Negotiation::offered_flags(const ExportFacts& facts) const {
  return static_cast<uint16_t>(facts.flags | (structured_ ? kSendDf : 0));
}

void Negotiation::select(ExportFacts facts) {
  if (contexts_of_ != facts.identity) contexts_ = {};
  selected_ = std::move(facts);
  phase_ = Phase::kTransmission;
}

void Negotiation::export_name() {
  const std::string_view name(reinterpret_cast<const char*>(data_.data()), data_.size());
  std::optional<ExportFacts> facts = catalog_.find(name);
  if (!facts) return close("export not found");
  const std::size_t at = output_.size();
  output_.resize(at + 10 + (no_zeroes_ ? 0 : kExportNameZeroes));
  put(&output_[at], facts->size);
  put(&output_[at + 8], offered_flags(*facts));
  select(*std::move(facts));
}

void Negotiation::list() {
  for (const ExportFacts& facts : catalog_.list()) {
    std::byte* out = reply(OptionReply::kServer, 4 + facts.name.size() + facts.description.size());
    put(out, static_cast<uint32_t>(facts.name.size()));
    put_text(out + 4, facts.name);
    put_text(out + 4 + facts.name.size(), facts.description);
  }
  acknowledge();
}

// The name that an option begins with; none when it was refused for it.
std::optional<std::string_view> Negotiation::take_name(DataReader& reader) {
  const auto length = reader.integer<uint32_t>();
  if (!length) {
    refuse_inconsistent();
    return std::nullopt;
  }
  if (*length > kMaxString) {
    refuse(OptionReply::kErrInvalid, fmt::format("Invalid name length: {}", *length));
    return std::nullopt;
  }
  const auto name = reader.bytes(*length);
  if (!name) {
    refuse_inconsistent();
  } else if (name->contains('\0')) {
    refuse(OptionReply::kErrInvalid,
           fmt::format("Unexpected embedded NUL in option {}", option_name(option_.option)));
    return std::nullopt;
  }
  return name;
}

void Negotiation::info_or_go() {
  DataReader reader(data_);
  const std::optional<std::string_view> name = take_name(reader);
  if (!name) return;
  const auto requests = reader.integer<uint16_t>();
  if (!requests) return refuse_inconsistent();
  bool wants_name = false, wants_block_size = false;
  for (uint16_t i = 0; i < *requests; ++i) {
    const auto info = reader.integer<uint16_t>();
    if (!info) return refuse_inconsistent();
    if (*info == static_cast<uint16_t>(Info::kName)) wants_name = true;
    if (*info == static_cast<uint16_t>(Info::kBlockSize)) wants_block_size = true;
  }
  if (reader.left() > 0) return refuse_length();

  std::optional<ExportFacts> facts = catalog_.find(*name);
  if (!facts) return refuse_unknown_export(*name);

  const bool go = static_cast<Option>(option_.option) == Option::kGo;
  const auto text_info = [&](Info type, std::string_view text) {
    std::byte* out = reply(OptionReply::kInfo, 2 + text.size());
    put(out, static_cast<uint16_t>(type));
    put_text(out + 2, text);
  };
  if (wants_name) text_info(Info::kName, facts->name);
  if (!facts->description.empty()) text_info(Info::kDescription, facts->description);

  // The smallest block is only told to clients that promise to obey by asking; others may send any
  // size, and they get it.
  const uint32_t minimum = wants_block_size || !go ? facts->minimum_block : 1;
  std::byte* block = reply(OptionReply::kInfo, 14);
  put(block, static_cast<uint16_t>(Info::kBlockSize));
  put(block + 2, minimum);
  put(block + 6, std::max<uint32_t>(4096, minimum));
  put(block + 10, facts->maximum_block);

  std::byte* size = reply(OptionReply::kInfo, 12);
  put(size, static_cast<uint16_t>(Info::kExport));
  put(size + 2, facts->size);
  put(size + 10, offered_flags(*facts));

  if (!go && !wants_block_size && facts->minimum_block > 1) {
    return refuse(OptionReply::kErrBlockSizeRequired,
                  "request NBD_INFO_BLOCK_SIZE to use this export");
  }
  acknowledge();
  if (go) select(*std::move(facts));
}

void Negotiation::list_or_set_meta_context() {
  DataReader reader(data_);
  const bool listing = static_cast<Option>(option_.option) == Option::kListMetaContext;
  const std::optional<std::string_view> name = take_name(reader);
  if (!name) return;
  const std::optional<ExportFacts> facts = catalog_.find(*name);
  if (!facts) return refuse_unknown_export(*name);

  const auto queries = reader.integer<uint32_t>();
  if (!queries) return refuse_inconsistent();
  MetaContexts found;
  found.bitmaps.assign(facts->bitmaps.size(), false);
  if (listing && *queries == 0) {
    found.base_allocation = true;
    add_matching_contexts("qemu:", listing, *facts, found);
  }
  for (uint32_t i = 0; i < *queries; ++i) {
    const auto length = reader.integer<uint32_t>();
    if (!length) return refuse_inconsistent();
    const auto query = reader.bytes(*length);
    if (!query) return refuse_inconsistent();
    add_matching_contexts(*query, listing, *facts, found);
  }
  if (reader.left() > 0) return refuse_length();

  const auto tell = [&](uint32_t id, std::string_view prefix, std::string_view context) {
    std::byte* out = reply(OptionReply::kMetaContext, 4 + prefix.size() + context.size());
    put(out, listing ? uint32_t{0} : id);
    put_text(out + 4, prefix);
    put_text(out + 4 + prefix.size(), context);
  };
  if (found.base_allocation) tell(MetaContexts::kBaseId, "", kBaseAllocation);
  if (found.allocation_depth) tell(MetaContexts::kDepthId, "", kAllocationDepth);
  for (std::size_t i = 0; i < found.bitmaps.size(); ++i) {
    if (found.bitmaps[i]) {
      tell(static_cast<uint32_t>(MetaContexts::kFirstBitmapId + i), kDirtyBitmapPrefix,
           facts->bitmaps[i]);
    }
  }
  acknowledge();
  if (!listing) {
    contexts_ = std::move(found);
    contexts_of_ = facts->identity;
  }
}

}  // namespace blockbed::nbd
