// ImagePlan: an image that a seed makes up, raw or qcow2 of any kind, with a past.
//
// Contract: an image has its file and its node under one name. make_image() writes the file, empty.
// give_past() opens it for a while and leaves data, zeroes, compressed clusters and places where
// nothing was written; all of it is flushed. Threading: one thread.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "block/formats/qcow2/create.h"
#include "block/graph/graph.h"
#include "block/sim/sim_env.h"
#include "block/sim/sim_random.h"
#include "qmp/schema/json.h"

namespace blockbed::test {

// An image: qcow2 as `create` says, or raw.
struct ImagePlan {
  bool qcow2 = false;
  qcow2::CreateOptions create;
  // As few tables in memory as there may be.
  bool small_cache = false;
  // Discards go on to the file.
  bool unmap = false;
};

ImagePlan random_image(sim::SimRandom& chance, uint64_t size);
// For who looks into a seed that failed.
std::string describe_image(const ImagePlan& plan);

Task<void> make_image(sim::SimEnv& env, std::string name, ImagePlan plan, uint64_t size);
// `backing` is the node that it stands on, "" for none.
json::Object definition_of(const std::string& name, const ImagePlan& plan,
                           const std::string& backing = "");

// What the image shows in a range from then on: sectors full of this number, see GoldenDisk.
using Note = std::function<void(uint64_t offset, uint64_t length, uint64_t number)>;
// `next` gives the number of each write.
Task<void> give_past(Graph& graph, sim::SimRandom& chance, json::Object definition, ImagePlan plan,
                     uint64_t size, std::function<uint64_t()> next, Note note);

}  // namespace blockbed::test
