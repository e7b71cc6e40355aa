// Negotiation: the handshake of one client, as a state machine over bytes.
//
// Problem: the handshake is the part of NBD that strangers reach first. It must answer every
// malformed option as clients expect, never allocate what a stranger asks for, and be testable and
// fuzzable without a socket.
//
// Contract
//  - The caller sends greeting() first, then hands all bytes that it receives to consume(), in
//    fragments of any size, and sends what has gathered in output() whenever it likes.
//  - consume() takes everything unless it pauses or the handshake ends. It pauses when kOutputPause
//    bytes of answers have gathered: send and clear them, then go on. When the handshake ends
//    phase() tells how, and what was not taken belongs to what follows (the first requests).
//    kClose: send the output, then close; reason() says why for the log.
//  - Between the answer that ends the handshake and the use of selected() nothing may be awaited:
//    the export that the client was told about is looked up again by its identity.
// Bounds: an option is held in memory up to kMaxOptionData; output exceeds kOutputPause by the
// answer to one option, which is at most what the catalog lists. Source: the protocol document;
// which errors close the connection, and the texts, are QEMU 7.2's. One departure: bytes left over
// behind the queries of a meta context option are an error, where QEMU takes them for the next
// option. Threading: plain data.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "block/exports/nbd/wire.h"

namespace blockbed::nbd {

// What a client may learn of an export.
struct ExportFacts {
  // Different for every export that ever was, unlike its name.
  uint64_t identity = 0;
  std::string name;
  std::string description;
  uint64_t size = 0;
  // Without kSendDf, which depends on the client.
  uint16_t flags = kHasFlags;
  uint32_t minimum_block = 1;
  uint32_t maximum_block = kMaxPayload;
  bool allocation_depth = false;
  // Names of dirty bitmaps that are exported too.
  std::vector<std::string> bitmaps;
};

class ExportCatalog {
 public:
  virtual std::optional<ExportFacts> find(std::string_view name) const = 0;
  // In the order of creation.
  virtual std::vector<ExportFacts> list() const = 0;

 protected:
  ~ExportCatalog() = default;
};

// The meta contexts that a client asked for. Their numbers on the wire: base:allocation 0, depth 1,
// bitmap n 2 + n.
struct MetaContexts {
  bool base_allocation = false;
  bool allocation_depth = false;
  // By position in ExportFacts::bitmaps.
  std::vector<bool> bitmaps;

  static constexpr uint32_t kBaseId = 0;
  static constexpr uint32_t kDepthId = 1;
  static constexpr uint32_t kFirstBitmapId = 2;

  std::size_t count() const;
  bool empty() const { return count() == 0; }
};

class Negotiation {
 public:
  enum class Phase { kHandshake, kTransmission, kClose };

  // The longest name and the most information requests that an info option can carry; meta context
  // options of every known client are far shorter. Longer ones get "too big".
  static constexpr uint32_t kMaxOptionData = 4 + kMaxString + 2 + 2 * 65535;
  // A client that asks without reading the answers must not fill our memory.
  static constexpr std::size_t kOutputPause = std::size_t{64} << 10;

  explicit Negotiation(const ExportCatalog& catalog) : catalog_(catalog) {}

  static std::array<std::byte, kGreetingSize> greeting() { return encode_greeting(); }

  // How much of `input` was taken.
  std::size_t consume(std::span<const std::byte> input);

  Phase phase() const { return phase_; }
  const std::string& reason() const { return reason_; }
  std::vector<std::byte>& output() { return output_; }

  // With phase() == kTransmission.
  const ExportFacts& selected() const { return selected_; }
  bool structured_replies() const { return structured_; }
  const MetaContexts& contexts() const { return contexts_; }

 private:
  class DataReader;
  enum class State { kClientFlags, kOptionHeader, kOptionData, kSkip };

  void take_client_flags();
  void take_option_header();
  void take_option();
  void close(std::string reason);
  void expect(State state, std::size_t length);

  void export_name();
  void list();
  void info_or_go();
  void list_or_set_meta_context();
  std::optional<std::string_view> take_name(DataReader& reader);
  void select(ExportFacts facts);
  uint16_t offered_flags(const ExportFacts& facts) const;

  // Replies to the current option.
  std::byte* reply(OptionReply type, std::size_t length);
  void acknowledge() { reply(OptionReply::kAck, 0); }
  void refuse(OptionReply type, std::string_view text);
  void refuse_length();
  void refuse_inconsistent();
  void refuse_unknown_export(std::string_view name);

  const ExportCatalog& catalog_;
  Phase phase_ = Phase::kHandshake;
  State state_ = State::kClientFlags;
  std::size_t wanted_ = kClientFlagsSize;
  std::vector<std::byte> data_;
  std::vector<std::byte> output_;
  std::string reason_;

  bool fixed_newstyle_ = false;
  bool no_zeroes_ = false;
  bool structured_ = false;
  OptionHeader option_;
  // The export that the contexts were chosen for.
  uint64_t contexts_of_ = 0;
  MetaContexts contexts_;
  ExportFacts selected_;
};

}  // namespace blockbed::nbd
