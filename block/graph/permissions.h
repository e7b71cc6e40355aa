// Permissions: what a user of a node needs, and what it lets others do meanwhile.
//
// Problem: two users of one image that each believe to be alone corrupt it. So every edge of the
// graph states both sides, and a change of the graph is allowed only when no edge needs what
// another refuses.
//
// Source of the rule: the permission names and bit numbers are visible to clients
// (x-debug-query-block-graph, error texts) and to other programs (the OFD lock bytes 100 + bit and
// 200 + bit of image files). Threading: plain data.
#pragma once

#include <cstdint>
#include <string>

namespace blockbed {

enum class Permission : uint32_t {
  kConsistentRead = 1u << 0,  // what is read is what a guest would see
  kWrite = 1u << 1,
  kWriteUnchanged = 1u << 2,  // writes that do not change what is read (copy on read, stream)
  kResize = 1u << 3,
};

inline constexpr int kPermissionCount = 4;

class Permissions {
 public:
  constexpr Permissions() = default;
  constexpr Permissions(Permission p) : bits_(static_cast<uint32_t>(p)) {}
  static constexpr Permissions none() { return {}; }
  static constexpr Permissions all() { return from_bits((1u << kPermissionCount) - 1); }
  static constexpr Permissions from_bits(uint32_t bits) {
    Permissions p;
    p.bits_ = bits;
    return p;
  }

  constexpr uint32_t bits() const { return bits_; }
  constexpr bool has(Permission p) const { return (bits_ & static_cast<uint32_t>(p)) != 0; }
  constexpr bool empty() const { return bits_ == 0; }

  friend constexpr Permissions operator|(Permissions a, Permissions b) {
    return from_bits(a.bits_ | b.bits_);
  }
  friend constexpr Permissions operator&(Permissions a, Permissions b) {
    return from_bits(a.bits_ & b.bits_);
  }
  // Those of a that are not in b.
  friend constexpr Permissions operator-(Permissions a, Permissions b) {
    return from_bits(a.bits_ & ~b.bits_);
  }
  constexpr Permissions& operator|=(Permissions b) { return *this = *this | b; }
  constexpr Permissions& operator&=(Permissions b) { return *this = *this & b; }
  friend constexpr bool operator==(Permissions, Permissions) = default;

 private:
  uint32_t bits_ = 0;
};

constexpr Permissions operator|(Permission a, Permission b) {
  return Permissions(a) | Permissions(b);
}

// What an edge holds: `needs` is taken, `shares` is what every other edge to the node may take.
struct PermissionPair {
  Permissions needs;
  Permissions shares = Permissions::all();
  friend constexpr bool operator==(const PermissionPair&, const PermissionPair&) = default;
};

// "consistent read, write": the words of error messages.
std::string permission_words(Permissions permissions);

// What a filter or format that adds nothing passes on to its child.
inline constexpr Permissions kPassedThrough = Permission::kConsistentRead | Permission::kWrite |
                                              Permissions(Permission::kWriteUnchanged) |
                                              Permissions(Permission::kResize);

// What child a parent node has there; several may apply. Decides which default permissions it
// takes.
enum class ChildRole : uint32_t {
  kData = 1u << 0,      // holds guest data
  kMetadata = 1u << 1,  // holds the parent's own tables
  kFiltered = 1u << 2,  // the parent shows just what the child shows
  kCow = 1u << 3,       // shows through where the parent has nothing
  kPrimary = 1u << 4,   // the one child that the parent is about
};

class ChildRoles {
 public:
  constexpr ChildRoles() = default;
  constexpr ChildRoles(ChildRole r) : bits_(static_cast<uint32_t>(r)) {}
  constexpr bool has(ChildRole r) const { return (bits_ & static_cast<uint32_t>(r)) != 0; }
  friend constexpr ChildRoles operator|(ChildRoles a, ChildRoles b) {
    ChildRoles r;
    r.bits_ = a.bits_ | b.bits_;
    return r;
  }
  friend constexpr bool operator==(ChildRoles, ChildRoles) = default;

 private:
  uint32_t bits_ = 0;
};

constexpr ChildRoles operator|(ChildRole a, ChildRole b) { return ChildRoles(a) | ChildRoles(b); }

// The roles of a format's `file` child, of a backing file, and of what a filter stands on.
inline constexpr ChildRoles kImageRoles =
    ChildRole::kData | ChildRole::kMetadata | ChildRoles(ChildRole::kPrimary);
inline constexpr ChildRoles kCowRole = ChildRole::kCow;
inline constexpr ChildRoles kFilteredRoles = ChildRole::kFiltered | ChildRole::kPrimary;

}  // namespace blockbed
