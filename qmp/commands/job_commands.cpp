#include "qmp/commands/job_commands.h"

#include <fmt/format.h>

#include <memory>

#include "block/jobs/block_job.h"
#include "qmp/monitor/command_context.h"
#include "schema/block_info.h"
#include "schema/block_job.h"
#include "schema/job.h"

namespace blockbed {

namespace {

namespace c = schema::commands;
using Found = Expected<std::shared_ptr<Job>>;

Found find_job(const JobRegistry& jobs, const std::string& id) {
  if (auto job = jobs.find(id)) return job;
  return fail("Job not found");
}

Found find_block_job(const JobRegistry& jobs, const std::string& id) {
  if (auto job = jobs.find(id); job != nullptr && job->is_block_job()) return job;
  return fail(ErrorClass::kDeviceNotActive, fmt::format("Block job '{}' not found", id));
}

// --- the verbs, for a job that was found in either way

Task<Expected<void>> pause(JobRegistry& jobs, Found job) {
  if (!job) co_return fail(std::move(job).error());
  BB_CO_TRY((*job)->user_pause());
  co_await jobs.settle(*job);
  co_return Expected<void>();
}

Task<Expected<void>> resume(JobRegistry& jobs, Found job) {
  if (!job) co_return fail(std::move(job).error());
  BB_CO_TRY((*job)->user_resume());
  co_await jobs.settle(*job);
  co_return Expected<void>();
}

Task<Expected<void>> complete(JobRegistry& jobs, Found job) {
  if (!job) co_return fail(std::move(job).error());
  BB_CO_TRY(co_await (*job)->user_complete());
  co_await jobs.settle(*job);
  co_return Expected<void>();
}

Task<Expected<void>> cancel(JobRegistry& jobs, Found job, bool force) {
  if (!job) co_return fail(std::move(job).error());
  co_return co_await jobs.cancel(*job, force);
}

Task<Expected<void>> finalize(JobRegistry& jobs, Found job) {
  if (!job) co_return fail(std::move(job).error());
  co_return co_await jobs.finalize(*job);
}

Task<Expected<void>> dismiss(JobRegistry& jobs, Found job) {
  if (!job) co_return fail(std::move(job).error());
  co_return co_await jobs.dismiss(*job);
}

Task<Expected<void>> cancel_block_job(JobRegistry& jobs, c::BlockJobCancel::Args arguments) {
  Found job = find_block_job(jobs, arguments.device);
  const bool force = arguments.force.value_or(false);
  if (job && (*job)->user_paused() && !force) {
    co_return fail(
        fmt::format("The block job for device '{}' is currently paused", arguments.device));
  }
  co_return co_await cancel(jobs, std::move(job), force);
}

Expected<void> set_speed(JobRegistry& jobs, const c::BlockJobSetSpeed::Args& arguments) {
  Found job = find_block_job(jobs, arguments.device);
  if (!job) return fail(std::move(job).error());
  return static_cast<BlockJob&>(**job).user_set_speed(arguments.speed);
}

// --- reports

std::vector<schema::JobInfo> query_jobs(const JobRegistry& jobs) {
  std::vector<schema::JobInfo> result;
  for (const std::shared_ptr<Job>& job : jobs.jobs()) {
    schema::JobInfo info;
    info.id = job->id();
    info.type = *schema::parse_job_type(job->type());
    info.status = *schema::parse_job_status(job_status_name(job->status()));
    info.current_progress = static_cast<int64_t>(job->progress().done);
    info.total_progress = static_cast<int64_t>(job->progress().total());
    if (job->failure()) info.error = job->failure()->text;
    result.push_back(std::move(info));
  }
  return result;
}

std::vector<schema::BlockJobInfo> query_block_jobs(const JobRegistry& jobs) {
  std::vector<schema::BlockJobInfo> result;
  for (const std::shared_ptr<Job>& any : jobs.jobs()) {
    if (!any->is_block_job()) continue;
    const auto& job = static_cast<const BlockJob&>(*any);
    schema::BlockJobInfo info;
    info.type = job.type();
    info.device = job.id();
    info.len = static_cast<int64_t>(job.progress().total());
    info.offset = static_cast<int64_t>(job.progress().done);
    info.busy = job.shows_busy();
    info.paused = job.pause_requested();
    info.speed = static_cast<int64_t>(job.speed());
    info.io_status = to_schema(job.io_status());
    info.ready = job.status() == JobStatus::kReady || job.status() == JobStatus::kStandby;
    info.status = *schema::parse_job_status(job_status_name(job.status()));
    info.auto_finalize = job.auto_finalize();
    info.auto_dismiss = job.auto_dismiss();
    if (job.failure()) info.error = job.failure()->text;
    result.push_back(std::move(info));
  }
  return result;
}

}  // namespace

void register_job_commands(CommandTable& commands, JobRegistry& jobs) {
  commands.implement<c::JobPause>([&jobs](CommandContext&, c::JobPause::Args arguments) {
    return pause(jobs, find_job(jobs, arguments.id));
  });
  commands.implement<c::JobResume>([&jobs](CommandContext&, c::JobResume::Args arguments) {
    return resume(jobs, find_job(jobs, arguments.id));
  });
  commands.implement<c::JobComplete>([&jobs](CommandContext&, c::JobComplete::Args arguments) {
    return complete(jobs, find_job(jobs, arguments.id));
  });
  commands.implement<c::JobCancel>([&jobs](CommandContext&, c::JobCancel::Args arguments) {
    return cancel(jobs, find_job(jobs, arguments.id), /*force=*/true);
  });
  commands.implement<c::JobFinalize>([&jobs](CommandContext&, c::JobFinalize::Args arguments) {
    return finalize(jobs, find_job(jobs, arguments.id));
  });
  commands.implement<c::JobDismiss>([&jobs](CommandContext&, c::JobDismiss::Args arguments) {
    return dismiss(jobs, find_job(jobs, arguments.id));
  });

  commands.implement<c::BlockJobPause>([&jobs](CommandContext&, c::BlockJobPause::Args arguments) {
    return pause(jobs, find_block_job(jobs, arguments.device));
  });
  commands.implement<c::BlockJobResume>(
      [&jobs](CommandContext&, c::BlockJobResume::Args arguments) {
        return resume(jobs, find_block_job(jobs, arguments.device));
      });
  commands.implement<c::BlockJobComplete>(
      [&jobs](CommandContext&, c::BlockJobComplete::Args arguments) {
        return complete(jobs, find_block_job(jobs, arguments.device));
      });
  commands.implement<c::BlockJobCancel>(
      [&jobs](CommandContext&, c::BlockJobCancel::Args arguments) {
        return cancel_block_job(jobs, std::move(arguments));
      });
  commands.implement<c::BlockJobFinalize>(
      [&jobs](CommandContext&, c::BlockJobFinalize::Args arguments) {
        return finalize(jobs, find_block_job(jobs, arguments.id));
      });
  commands.implement<c::BlockJobDismiss>(
      [&jobs](CommandContext&, c::BlockJobDismiss::Args arguments) {
        return dismiss(jobs, find_block_job(jobs, arguments.id));
      });
  commands.implement<c::BlockJobSetSpeed>(
      [&jobs](CommandContext&, c::BlockJobSetSpeed::Args arguments) {
        return set_speed(jobs, arguments);
      });

  commands.implement<c::QueryJobs>(
      [&jobs](CommandContext&, c::QueryJobs::Args) -> Expected<c::QueryJobs::Result> {
        return query_jobs(jobs);
      });
  commands.implement<c::QueryBlockJobs>(
      [&jobs](CommandContext&, c::QueryBlockJobs::Args) -> Expected<c::QueryBlockJobs::Result> {
        return query_block_jobs(jobs);
      });
}

}  // namespace blockbed
