#include "qmp/monitor/descriptors.h"

#include <fmt/format.h>
#include <unistd.h>

namespace blockbed {

UniqueDescriptor::~UniqueDescriptor() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

DescriptorBag::DescriptorBag(const std::vector<int>& owned) {
  for (const int descriptor : owned) descriptors_.emplace_back(descriptor);
}

std::optional<UniqueDescriptor> DescriptorBag::take() {
  if (descriptors_.empty()) return std::nullopt;
  UniqueDescriptor first = std::move(descriptors_.front());
  descriptors_.clear();
  return first;
}

Expected<void> DescriptorNames::add(std::string_view name, UniqueDescriptor descriptor) {
  if (!name.empty() && name[0] >= '0' && name[0] <= '9') {
    return fail("Parameter 'fdname' expects a name not starting with a digit");
  }
  named_.insert_or_assign(std::string(name), std::move(descriptor));
  return {};
}

Expected<void> DescriptorNames::close(std::string_view name) {
  const auto it = named_.find(name);
  if (it == named_.end()) return fail(fmt::format("File descriptor named '{}' not found", name));
  named_.erase(it);
  return {};
}

Expected<UniqueDescriptor> DescriptorNames::take(std::string_view name) {
  const auto it = named_.find(name);
  if (it == named_.end()) {
    return fail(fmt::format("File descriptor named '{}' has not been found", name));
  }
  UniqueDescriptor descriptor = std::move(it->second);
  named_.erase(it);
  return descriptor;
}

}  // namespace blockbed
