// Recycled memory for coroutine frames.
//
// Problem: a request passes some ten coroutines; a general allocation for each frame would cost
// more than the request's own work. Frames come in few sizes, and a frame freed by one request is
// what the next one needs.
//
// Contract: allocate(n) returns memory for n bytes aligned as operator new aligns it; release(p, n)
// takes it back with the same n. Sizes above the largest class go to the general allocator. Under
// AddressSanitizer nothing is recycled, so that a use after free is seen. Threading: the free lists
// belong to a thread; a block may be released on another thread than it came from.
#pragma once

#include <cstddef>

namespace blockbed::frame_pool {

void* allocate(std::size_t size);
void release(void* block, std::size_t size);

}  // namespace blockbed::frame_pool
