// Image locks: telling other programs, by locks on bytes of the image file, what is done with it
// here.
//
// Problem: a second program that writes the same image destroys it. QEMU's tools and this server
// see each other through OFD locks at agreed offsets.
//
// Contract (source: QEMU's file locking, visible in /proc/locks)
//  - For each permission bit n: a shared lock on byte 100 + n says "I use it", one on byte 200 + n
//    says "I do not let others use it".
//  - prepare() takes the locks that the new permissions add, then tests that nobody else has the
//    opposite ones; on failure everything is as before. commit() gives back what is no longer
//    needed, abort() what prepare() added.
// Errors: `Failed to get "write" lock`, `Failed to get shared "write" lock`, with a hint that names
// the image. Threading: engine thread only; every call is a fast system call.
#pragma once

#include <string>

#include "block/graph/permissions.h"
#include "block/runtime/file.h"
#include "qmp/schema/error.h"

namespace blockbed {

class ImageLocks {
 public:
  ImageLocks(File& file, std::string filename) : file_(file), filename_(std::move(filename)) {}

  Expected<void> prepare(Permissions needs, Permissions shares);
  void commit(Permissions needs, Permissions shares);
  void abort();
  // What another open file of this program has prepared already; to be committed.
  Expected<void> take_over(Permissions needs, Permissions shares);

 private:
  Expected<void> take(Permissions used, Permissions unshared);
  void give_back(Permissions used, Permissions unshared);
  Error conflict(const char* pattern, Permission permission) const;

  File& file_;
  std::string filename_;
  // Held now, in force or prepared.
  Permissions held_used_;
  Permissions held_unshared_;
  // In force.
  Permissions used_;
  Permissions unshared_;
};

}  // namespace blockbed
