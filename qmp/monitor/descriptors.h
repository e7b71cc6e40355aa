// File descriptors that clients hand over: as they arrive, and under the names that `getfd` gives
// them.
//
// Contract: UniqueDescriptor closes what it owns. A DescriptorBag holds what came with one portion
// of input; a newer portion with descriptors replaces it for the commands after it, as QEMU's
// character devices do. DescriptorNames belong to the monitor and outlive sessions: libvirt passes
// a descriptor and names it in a later command.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "qmp/schema/error.h"

namespace blockbed {

class UniqueDescriptor {
 public:
  UniqueDescriptor() = default;
  explicit UniqueDescriptor(int descriptor) : descriptor_(descriptor) {}
  UniqueDescriptor(UniqueDescriptor&& other) noexcept
      : descriptor_(std::exchange(other.descriptor_, -1)) {}
  UniqueDescriptor& operator=(UniqueDescriptor&& other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    return *this;
  }
  ~UniqueDescriptor();

  int get() const { return descriptor_; }
  // The caller closes it.
  int release() { return std::exchange(descriptor_, -1); }

 private:
  int descriptor_ = -1;
};

class DescriptorBag {
 public:
  explicit DescriptorBag(const std::vector<int>& owned);

  // The first one; the others that came with it are closed (QEMU's rule).
  std::optional<UniqueDescriptor> take();

 private:
  std::vector<UniqueDescriptor> descriptors_;
};

class DescriptorNames {
 public:
  // Replaces and closes what had the name. A name must not begin with a digit.
  Expected<void> add(std::string_view name, UniqueDescriptor descriptor);
  // "File descriptor named 'x' not found" / "... has not been found", as closefd and the users of
  // descriptors say.
  Expected<void> close(std::string_view name);
  Expected<UniqueDescriptor> take(std::string_view name);

 private:
  std::map<std::string, UniqueDescriptor, std::less<>> named_;
};

}  // namespace blockbed
