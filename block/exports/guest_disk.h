// GuestDisk: a disk as a guest uses it, for a client that stands in for one.
//
// Problem: no guest runs here, so nothing would ever ask for a device's disk, and what a machine
// does about errors of its disks could not be seen: what a client of an export asks for fails in
// its own face. A client that is the guest asks as the device does.
//
// Contract
//  - Requests go through the backend of the device: its limits, its accounting, its permissions. A
//    request that comes while the guest stands still waits until it runs.
//  - A failure goes by `rerror` or `werror`, with BLOCK_IO_ERROR before anything else. Reported:
//    the request fails. Ignored: it ends well, and what was to be read is zeroes. Stop: the guest
//    stops, the backend has an I/O status, and the request is made again when the guest runs.
//  - cut_off() lets requests that wait fail, and all that come later: before the object dies, or
//    the device gives up its backend.
// Units: bytes. Errors: errno of the device's disk; ESHUTDOWN.
// Source of the rules: devices of QEMU 7.2. Threading: engine thread only.
#pragma once

#include <cstdint>

#include "block/graph/backend.h"
#include "block/runtime/sync.h"
#include "block/runtime/task.h"

namespace blockbed {

// The machine in which the guest is.
class GuestState {
 public:
  virtual bool running() const = 0;
  // Woken when the guest may run again.
  virtual WaitQueue& resumed() = 0;
  // A disk has failed, and the guest must not notice.
  virtual void stop_on_error() = 0;

 protected:
  ~GuestState() = default;
};

class GuestDisk {
 public:
  GuestDisk(Backend& device, GuestState& guest) : device_(device), guest_(guest) {}
  GuestDisk(const GuestDisk&) = delete;
  GuestDisk& operator=(const GuestDisk&) = delete;

  Task<Result<void>> read(uint64_t offset, IoVector buffers, RequestFlags flags);
  Task<Result<void>> write(uint64_t offset, IoVector buffers, RequestFlags flags);
  Task<Result<void>> zero(uint64_t offset, uint64_t length, RequestFlags flags);
  Task<Result<void>> discard(uint64_t offset, uint64_t length);
  Task<Result<void>> flush();

  void cut_off();

 private:
  // Makes the request until it has succeeded or its failure is no reason to stop.
  template <typename Attempt>
  Task<Result<void>> carry_out(AccountedKind kind, uint64_t bytes, Attempt attempt);
  ErrorAction meet_error(bool is_read, Errno error);

  Backend& device_;
  GuestState& guest_;
  bool cut_off_ = false;
};

}  // namespace blockbed
