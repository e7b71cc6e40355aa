// Mutations of qcow2 images that know what an image is made of.
//
// Problem: bytes flipped at random hit the header's magic or data that nobody interprets; nearly
// all such inputs are refused at once or read without meeting anything new.
//
// Contract
//  - mutate_image() is an LLVMFuzzerCustomMutator: it changes up to `most` bytes in place and
//    returns the new size. It finds the header's fields and extensions, the L1, L2, refcount and
//    snapshot tables and the bitmap directory, and puts values there that may mean something: the
//    place of another structure, one beyond a bound, reserved bits, what is not aligned. One
//    mutation in some is a plain one of the library's.
//  - Afterwards the magic, the version and, mostly, the sizes in the header are plausible, so that
//    the input gets past opening.
//  - mutate_image_and_requests() does the same to an input of image_and_requests.h, or changes its
//    requests.
// Units: bytes. Threading: plain functions of their arguments.
#pragma once

#include <cstddef>
#include <cstdint>

namespace blockbed::fuzz {

std::size_t mutate_image(uint8_t* data, std::size_t size, std::size_t most, unsigned seed);
std::size_t mutate_image_and_requests(uint8_t* data, std::size_t size, std::size_t most,
                                      unsigned seed);

}  // namespace blockbed::fuzz
