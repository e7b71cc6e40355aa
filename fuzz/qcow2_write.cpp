// Writes to an image, with every kind of request; the end of the input says which.
// qcow2_requests.h has the form of the input and what must hold.
#include "fuzz/qcow2_mutator.h"
#include "fuzz/qcow2_requests.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  blockbed::fuzz::write_to_image(std::span(data, size), blockbed::fuzz::RequestMix::kWrites);
  return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(uint8_t* data, std::size_t size, std::size_t most,
                                               unsigned seed) {
  return blockbed::fuzz::mutate_image_and_requests(data, size, most, seed);
}
