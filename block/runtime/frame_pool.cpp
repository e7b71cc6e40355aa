#include "block/runtime/frame_pool.h"

#include <array>
#include <new>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define BLOCKBED_FRAME_POOL_OFF 1
#endif
#endif

namespace blockbed::frame_pool {

#ifdef BLOCKBED_FRAME_POOL_OFF

void* allocate(std::size_t size) { return ::operator new(size); }
void release(void* block, std::size_t size) { ::operator delete(block, size); }

#else

namespace {

constexpr std::size_t kGranule = 64;
constexpr std::size_t kLargest = 4096;
// Bounds what an idle process keeps after a burst of requests.
constexpr std::size_t kKeptPerClass = 512;

struct FreeBlock {
  FreeBlock* next;
};

struct FreeList {
  FreeBlock* head = nullptr;
  std::size_t count = 0;
};

struct Pool {
  std::array<FreeList, kLargest / kGranule + 1> classes;

  ~Pool() {
    for (FreeList& list : classes) {
      while (list.head != nullptr) {
        FreeBlock* block = list.head;
        list.head = block->next;
        ::operator delete(block);
      }
    }
  }
};

thread_local Pool pool;

constexpr std::size_t class_of(std::size_t size) { return (size + kGranule - 1) / kGranule; }

}  // namespace

void* allocate(std::size_t size) {
  if (size > kLargest) return ::operator new(size);
  FreeList& list = pool.classes[class_of(size)];
  if (list.head == nullptr) return ::operator new(class_of(size) * kGranule);
  FreeBlock* block = list.head;
  list.head = block->next;
  --list.count;
  return block;
}

void release(void* block, std::size_t size) {
  if (size > kLargest) return ::operator delete(block);
  FreeList& list = pool.classes[class_of(size)];
  if (list.count >= kKeptPerClass) return ::operator delete(block);
  auto* free_block = static_cast<FreeBlock*>(block);
  free_block->next = list.head;
  list.head = free_block;
  ++list.count;
}

#endif

}  // namespace blockbed::frame_pool
