#include "block/formats/image_create.h"

#include <fmt/format.h>

#include <variant>

#include "block/formats/encryption.h"
#include "block/formats/qcow2/create.h"
#include "block/formats/qcow2/driver.h"
#include "block/formats/qcow2/graph_storage.h"
#include "block/graph/backend.h"
#include "block/graph/filename.h"
#include "block/graph/graph.h"
#include "schema/blockdev_create.h"
#include "schema/blockdev_options.h"

namespace blockbed {

namespace {

const PermissionPair kWriting = {Permission::kWrite | Permission::kResize, Permissions::all()};
const PermissionPair kFinishing = {
    Permission::kConsistentRead | Permission::kWrite | Permission::kResize, Permissions::all()};

// [graph lock] What a client says an image is to be made on: the name of a node, or a new one.
Task<Expected<NodeRef>> open_reference(Graph& graph, const schema::BlockdevRef& reference) {
  const auto* name = std::get_if<std::string>(&reference.u);
  if (name == nullptr) {
    co_return co_await graph.open(*std::get<schema::Box<schema::BlockdevOptions>>(reference.u));
  }
  auto found = graph.find_device_or_node(*name, *name);
  if (!found) co_return fail(std::move(found).error());
  co_return NodeRef(**found);
}

// [graph lock]
Task<Expected<NodeRef>> open_file(Graph& graph, std::string filename) {
  Graph::OpenRequest request;
  request.filename = std::move(filename);
  request.protocol_only = true;
  co_return co_await graph.open(std::move(request));
}

// [graph lock]
Task<Expected<NodeRef>> open_image(Graph& graph, const Node& file, const Node* data) {
  Graph::OpenRequest request;
  request.options.set("driver", "qcow2");
  request.options.set("file", file.name());
  if (data != nullptr) request.options.set("data-file", data->name());
  co_return co_await graph.open(std::move(request));
}

Preallocation preallocation_of(std::optional<schema::PreallocMode> mode) {
  switch (mode.value_or(schema::PreallocMode::kOff)) {
    case schema::PreallocMode::kOff:
      return Preallocation::kOff;
    case schema::PreallocMode::kMetadata:
      return Preallocation::kMetadata;
    case schema::PreallocMode::kFalloc:
      return Preallocation::kFalloc;
    case schema::PreallocMode::kFull:
      return Preallocation::kFull;
  }
  return Preallocation::kOff;
}

Expected<qcow2::CreateOptions> options_of(const schema::BlockdevCreateOptionsQcow2& o) {
  qcow2::CreateOptions result;
  result.size = o.size;
  result.version =
      o.version.value_or(schema::BlockdevQcow2Version::kV3) == schema::BlockdevQcow2Version::kV2
          ? 2
          : 3;
  result.cluster_size = o.cluster_size.value_or(result.cluster_size);
  const int64_t refcount_bits = o.refcount_bits.value_or(16);
  // What is no width at all is refused with the others, not wrapped into one.
  result.refcount_bits =
      refcount_bits < 1 || refcount_bits > 64 ? 65 : static_cast<uint32_t>(refcount_bits);
  result.extended_l2 = o.extended_l2.value_or(false);
  result.lazy_refcounts = o.lazy_refcounts.value_or(false);
  if (o.compression_type == schema::Qcow2CompressionType::kZstd) {
    result.compression = qcow2::CompressionType::kZstd;
  }
  result.backing_file = o.backing_file;
  if (o.backing_fmt) result.backing_format = std::string(name(*o.backing_fmt));
  result.preallocation = preallocation_of(o.preallocation);
  result.data_file = o.data_file.has_value();
  result.data_file_raw = o.data_file_raw.value_or(false);
  if (o.encrypt) return encryption_unsupported();
  return result;
}

// Whoever makes an image holds its node in this way while `work` is done without the lock.
Task<Expected<void>> use_node(Graph& graph, Node& node, PermissionPair permissions,
                              MutexGuard* lock,
                              std::function<Task<Expected<void>>(Backend&)> work) {
  Backend backend(graph, "", permissions);
  BB_CO_TRY(backend.insert(node));
  if (lock != nullptr) lock->unlock();
  Expected<void> result = co_await work(backend);
  if (lock != nullptr) *lock = co_await graph.lock();
  co_await backend.release();
  co_return result;
}

// [graph lock] `lock` is the caller's, null when he keeps it all the time.
Task<Expected<void>> write_qcow2(Graph& graph, Node& file, Node* data, MutexGuard* lock,
                                 qcow2::CreateOptions options) {
  BB_CO_TRY(co_await use_node(graph, file, kWriting, lock,
                              [&options](Backend& backend) -> Task<Expected<void>> {
                                qcow2::NodeStorage storage(backend);
                                co_return co_await qcow2::write_empty(storage, options);
                              }));
  auto image = co_await open_image(graph, file, data);
  if (!image) co_return fail(std::move(image).error());
  if (data != nullptr) options.data_file_name = data->filename();
  co_return co_await use_node(
      graph, **image, kFinishing, lock, [&options](Backend& backend) -> Task<Expected<void>> {
        auto& driver = dynamic_cast<qcow2::Qcow2Driver&>(backend.node()->driver());
        BB_CO_TRY(co_await qcow2::finish(driver.image(), options));
        if (auto flushed = co_await backend.flush(); !flushed) {
          co_return fail(
              fmt::format("Could not write qcow2 header: {}", strerror_text(flushed.error())));
        }
        co_return Expected<void>();
      });
}

// [graph lock]
Task<Expected<void>> create_on_nodes(Graph& graph,
                                     const schema::BlockdevCreateOptionsQcow2& options,
                                     MutexGuard& lock) {
  auto file = co_await open_reference(graph, options.file);
  if (!file) co_return fail(std::move(file).error());
  auto wanted = options_of(options);
  if (!wanted) co_return fail(std::move(wanted).error());
  BB_CO_TRY(qcow2::check_create(*wanted));
  NodeRef data;
  if (options.data_file) {
    auto opened = co_await open_reference(graph, *options.data_file);
    if (!opened) co_return fail(std::move(opened).error());
    data = std::move(*opened);
  }
  co_return co_await write_qcow2(graph, **file, data.get(), &lock, std::move(*wanted));
}

}  // namespace

Task<Expected<void>> create_qcow2_image(Graph& graph,
                                        const schema::BlockdevCreateOptionsQcow2& options) {
  MutexGuard lock = co_await graph.lock();
  Expected<void> result = co_await create_on_nodes(graph, options, lock);
  co_await graph.close_unreferenced();
  co_return result;
}

namespace {

// Only files are made here: the path behind `filename`.
Expected<std::string> path_to_create(const DriverRegistry& drivers, std::string_view filename) {
  if (protocol_of(filename) == "json") return fail("Unknown protocol 'json'");
  auto named = options_of_filename(drivers, filename);
  if (!named) return fail(std::move(named).error());
  const json::Value* driver = named->options.find("driver");
  if (driver != nullptr && driver->is_string() && driver->as_string() != "file") {
    return fail(
        fmt::format("Protocol driver '{}' does not support image creation", driver->as_string()));
  }
  return named->options.find("filename")->as_string();
}

// As an option of a command line would have to be written.
std::string with_doubled_commas(std::string_view text) {
  std::string result;
  for (const char c : text) result.append(c == ',' ? 2 : 1, c);
  return result;
}

}  // namespace

std::string formatting_line(const ImageFileRequest& request) {
  std::string line = fmt::format("Formatting '{}', fmt={} ", request.filename, request.format);
  if (request.format != "qcow2") return line + fmt::format("size={}", request.size);
  const qcow2::CreateOptions defaults;
  line += fmt::format("cluster_size={} extended_l2=off compression_type=zlib size={}",
                      defaults.cluster_size, request.size);
  if (!request.backing_file.empty()) {
    line += fmt::format(" backing_file={}", with_doubled_commas(request.backing_file));
  }
  if (!request.backing_format.empty()) {
    line += fmt::format(" backing_fmt={}", request.backing_format);
  }
  return line + fmt::format(" lazy_refcounts=off refcount_bits={}", defaults.refcount_bits);
}

Task<Expected<void>> create_image_file(Graph& graph, CreateFile create_file,
                                       ImageFileRequest request,
                                       std::function<void(std::string_view)> announce) {
  const bool qcow2_format = request.format == "qcow2";
  // A device is made by nobody, but that is not the first that is wrong with it here.
  const bool device_over_backing = request.format == "host_device" && !request.backing_file.empty();
  if (!qcow2_format && request.format != "raw" && request.format != "file" &&
      !device_over_backing) {
    if (graph.drivers().find(request.format) == nullptr) {
      co_return fail(fmt::format("Unknown file format '{}'", request.format));
    }
    co_return fail(
        fmt::format("Format driver '{}' does not support image creation", request.format));
  }
  auto path = path_to_create(graph.drivers(), request.filename);
  if (!path) co_return fail(std::move(path).error());
  if (!qcow2_format && !request.backing_file.empty()) {
    co_return fail(fmt::format("Backing file not supported for file format '{}'", request.format));
  }
  if (!request.backing_file.empty() && request.backing_file == request.filename) {
    co_return fail("Error: Trying to create an image with the same filename as the backing file");
  }
  announce(formatting_line(request));

  schema::BlockdevCreateOptionsFile file_options;
  file_options.filename = *path;
  // A raw disk ends at a sector.
  file_options.size = qcow2_format ? 0 : (request.size + 511) / 512 * 512;
  BB_CO_TRY(co_await create_file(graph.env(), file_options, nullptr));
  if (!qcow2_format) co_return Expected<void>();

  qcow2::CreateOptions options;
  options.size = (request.size + 511) / 512 * 512;
  if (!request.backing_file.empty()) options.backing_file = request.backing_file;
  options.backing_format = request.backing_format;
  Expected<void> result = qcow2::check_create(options);
  if (result) {
    auto file = co_await open_file(graph, request.filename);
    result = file ? co_await write_qcow2(graph, **file, nullptr, nullptr, std::move(options))
                  : fail(std::move(file).error());
  }
  co_await graph.close_unreferenced();
  co_return result;
}

}  // namespace blockbed
