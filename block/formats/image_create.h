// Making images on the host or on nodes: blockdev-create for formats, and the older way by file
// name.
//
// Problem: blockdev-create has typed options and a node to write on; drive-backup, drive-mirror and
// external snapshots (mode=absolute-paths) have a file name, a format and a size.
//
// Contract
//  - create_qcow2_image takes the graph lock itself for opening and closing nodes, and not for
//    writing: the caller does not hold it. Who calls create_image_file holds it all the time: he is
//    in the middle of a change of the graph, which nobody else may see.
//  - create_image_file announces the line that QEMU prints on standard output ("Formatting 'f',
//    fmt=...") before it begins; printing is the caller's.
//  - A file that could not be made into an image stays behind, as with QEMU.
// Units: bytes. Errors: texts of QEMU. Threading: engine thread only.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "block/runtime/task.h"
#include "qmp/schema/error.h"

namespace blockbed {

class Env;
class Graph;
namespace schema {
struct BlockdevCreateOptionsFile;
struct BlockdevCreateOptionsQcow2;
}  // namespace schema

Task<Expected<void>> create_qcow2_image(Graph& graph,
                                        const schema::BlockdevCreateOptionsQcow2& options);

struct ImageFileRequest {
  std::string filename;
  std::string format;
  uint64_t size = 0;
  std::string backing_file;
  std::string backing_format;

  ImageFileRequest() = default;
};

// create_file of block/protocols/file_create.h: this room stands beside that one.
using CreateFile = Task<Expected<void>> (*)(Env& env,
                                            const schema::BlockdevCreateOptionsFile& options,
                                            std::function<Task<void>()> opened);

// "Formatting 'f', fmt=qcow2 cluster_size=65536 ... ", without newline.
std::string formatting_line(const ImageFileRequest& request);

Task<Expected<void>> create_image_file(Graph& graph, CreateFile create_file,
                                       ImageFileRequest request,
                                       std::function<void(std::string_view)> announce);

}  // namespace blockbed
