#include "tests/jobs/jobs_fixture.h"

#include <fmt/format.h>

#include "block/filters/register.h"
#include "block/formats/register.h"
#include "block/graph/drain.h"
#include "block/protocols/register.h"

namespace blockbed::test {

namespace {

// On the virtual clock.
constexpr int64_t kLook = 100'000;

}  // namespace

void EventLog::emit(std::string_view event, json::Value data) {
  const json::Object& object = data.as_object();
  const auto text = [&](const char* key) { return object.find(key)->as_string(); };
  if (event == "JOB_STATUS_CHANGE") {
    lines.push_back(fmt::format("{} {}", text("id"), text("status")));
  } else if (event == "BLOCK_JOB_ERROR") {
    lines.push_back(
        fmt::format("{} {} {} {}", event, text("device"), text("operation"), text("action")));
  } else if (event == "BLOCK_JOB_PENDING") {
    lines.push_back(fmt::format("{} {}", event, text("id")));
  } else {
    std::string line =
        fmt::format("{} {} {}/{}", event, text("device"), object.find("offset")->as_uint64(),
                    object.find("len")->as_uint64());
    if (object.contains("error")) line += ": " + text("error");
    lines.push_back(std::move(line));
  }
}

World::World(uint64_t seed) : env(seed) {
  register_protocols(drivers);
  register_formats(drivers);
  register_filters(drivers);
  graph.emplace(env, events, drivers);
  jobs.emplace(*graph);
}

World::~World() { env.run(finish()); }

Task<void> World::finish() {
  co_await jobs->shutdown();
  jobs.reset();
  co_await graph->shutdown();
  graph.reset();
}

Node& World::open(json::Object options) {
  Graph::OpenRequest request;
  request.options = std::move(options);
  auto opened = env.run(graph->open(std::move(request)));
  if (!opened) {
    ADD_FAILURE() << opened.error().description;
    std::abort();
  }
  graph->give_to_monitor(**opened);
  return **opened;
}

Node& World::file(const std::string& name, sim::SparseBytes content, json::Object options) {
  env.storage().put(name, std::move(content));
  options.set("driver", "file");
  options.set("node-name", name);
  options.set("filename", name);
  return open(std::move(options));
}

std::unique_ptr<Backend> World::guest(Node& node) { return device("", node); }

std::unique_ptr<Backend> World::device(const std::string& name, Node& node) {
  auto backend = std::make_unique<Backend>(*graph, name, kGuest);
  const Expected<void> inserted = backend->insert(node);
  if (!inserted) ADD_FAILURE() << inserted.error().description;
  return backend;
}

BackupOptions World::options(const std::string& id, Node& source, Node& target, BackupSync sync) {
  BackupOptions result;
  result.job.id = id;
  result.source = NodeRef(source);
  result.target = NodeRef(target);
  result.sync = sync;
  return result;
}

Task<Expected<std::shared_ptr<BackupJob>>> World::backup(BackupOptions options) {
  Expected<std::shared_ptr<BackupJob>> job;
  {
    MutexGuard lock = co_await graph->lock();
    DrainedSection drained = co_await drain(*options.source);
    job = co_await BackupJob::create(*jobs, std::move(options));
    if (job) jobs->start(**job);
  }
  if (job) co_await jobs->settle(*job);
  co_return job;
}

Task<void> World::wait_for_status(std::shared_ptr<Job> job, JobStatus status) {
  // A job that is gone reaches no status any more.
  while (job->status() != status && job->status() != JobStatus::kNull) {
    co_await env.sleep(kLook);
  }
}

Task<void> World::wait_for_end(std::shared_ptr<Job> job) {
  co_await wait_for_status(std::move(job), JobStatus::kConcluded);
}

Task<void> World::drop(Node& node) {
  MutexGuard lock = co_await graph->lock();
  graph->take_from_monitor(node);
  co_await graph->close_unreferenced();
}

}  // namespace blockbed::test
