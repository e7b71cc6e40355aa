// The work of a mirror; how it is made is in mirror_create.cpp, how it ends in mirror_end.cpp.
#include "block/jobs/mirror.h"

#include <fmt/format.h>

#include <algorithm>

#include "block/filters/mirror_top.h"
#include "block/filters/target_size.h"
#include "block/graph/chain.h"
#include "block/graph/medium.h"
#include "block/jobs/job_registry.h"

namespace blockbed {

namespace {

// A ready job lets so much time pass before it copies what guests write: many writes of one place
// are one copy then.
constexpr int64_t kGatherTime = 100'000'000;
// A target is made to read as zeroes in pieces of this size, so that the job can be stopped.
constexpr uint64_t kZeroPiece = uint64_t{256} << 20;

}  // namespace

MirrorJob::MirrorJob(JobRegistry& registry, MirrorOptions options, NodeRef filter,
                     MirrorCopy::Settings settings)
    : BlockJob(registry, options.job),
      options_(std::move(options)),
      filter_(std::move(filter)),
      target_(std::in_place, registry.graph(), "",
              PermissionPair{Permissions::none(), Permissions::all()}) {
  copy_.emplace(env(), MirrorTop::of(*filter_).below(), target_->edge(), source().length(),
                settings);
  target_->set_user(&target_user_);
  // Whether the job stands still, it says itself.
  target_->set_disable_request_queuing(true);
}

void MirrorJob::TargetUser::drained_begin() {
  if (job_.options_.write_blocking) job_.filter_->drained_begin(job_.target_->edge());
}
void MirrorJob::TargetUser::drained_end() {
  if (job_.options_.write_blocking) job_.filter_->drained_end(job_.target_->edge());
}
bool MirrorJob::TargetUser::drained_poll() {
  return job_.options_.write_blocking && job_.filter_->drained_poll(job_.target_->edge());
}

void MirrorJob::speed_changed() {
  rate_limit_.set_speed(speed());
  if (pass_ != nullptr) {
    pass_->kick();
  } else {
    kick();
  }
}

void MirrorJob::interrupted() {
  if (pass_ != nullptr && (pause_requested() || cancelled())) pass_->stop();
}

Task<Expected<void>> MirrorJob::complete() {
  if (ending_ && !pivots_) {
    co_return fail(fmt::format("The active block job '{}' cannot be completed", id()));
  }
  {
    MutexGuard lock = co_await registry().graph().lock();
    // Its state may have changed before the lock was there.
    BB_CO_TRY(check_verb(JobVerb::kComplete));
    BB_CO_TRY(co_await open_backing());
    BB_CO_TRY(node_to_replace());
  }
  ending_ = pivots_ = true;
  kick();
  co_return Expected<void>();
}

bool MirrorJob::cancel_aborts(bool force) {
  if (force || !ready()) return true;
  ending_ = true;
  return false;
}

// --- the work

Task<JobResult> MirrorJob::run() {
  JobResult result = co_await work();
  if (!result || cancelled()) copy_->set_writes_to_both(false);
  co_await let_reply_go_first();
  co_return result;
}

Task<JobResult> MirrorJob::work() {
  BB_CO_TRY(co_await fit_target());
  if (options_.sync != MirrorSync::kNone && !options_.commit) {
    auto zeroed = co_await zero_rest_of_sector(target_->edge(), copy_->length());
    if (!zeroed) co_return job_failure(zeroed.error());
  }
  BB_CO_TRY(co_await mark_differences());
  if (cancelled()) co_return JobResult();
  if (copy_->dirty()) co_await let_reply_go_first();
  copy_->on_dirty = [this] {
    if (idle_) kick();
  };
  copy_->on_copy_failed = [this](Errno error, bool is_read) { guest_copy_failed(error, is_read); };
  JobResult result = co_await keep_equal();
  copy_->on_dirty = nullptr;
  copy_->on_copy_failed = nullptr;
  co_return result;
}

bool MirrorJob::target_fits() const {
  return options_.commit ? target().length() >= source().length()
                         : same_sectors(source(), target());
}

Task<JobResult> MirrorJob::fit_target() {
  if (!has_medium(target())) co_return job_failure(Errno(ENOMEDIUM));
  if (target_fits()) co_return JobResult();
  if (!options_.commit) {
    co_return job_failure(Error("Source and target image have different sizes"));
  }
  auto grown = co_await target_->truncate(source().length(), TruncateOptions());
  if (!grown) co_return job_failure(std::move(grown).error());
  co_return JobResult();
}

Task<JobResult> MirrorJob::zero_target() {
  for (uint64_t at = 0; at < copy_->length();) {
    co_await pause_point();
    if (cancelled()) co_return JobResult();
    const uint64_t piece = std::min(kZeroPiece, copy_->length() - at);
    auto zeroed = co_await target_->zero(at, piece, RequestFlags().with_may_unmap(options_.unmap));
    if (!zeroed) co_return job_failure(zeroed.error());
    at += piece;
  }
  co_return JobResult();
}

Task<JobResult> MirrorJob::mark_differences() {
  if (options_.sync == MirrorSync::kNone) co_return JobResult();
  // The lowest layer whose content counts; null: the last one there is.
  Node* lowest = nullptr;
  if (options_.commit) {
    // Not a filter over the target, which shows what the target holds.
    lowest = overlay_of(source(), &target());
  } else if (options_.sync == MirrorSync::kTop) {
    lowest = source().skip_filters();
  } else if (options_.zero_target) {
    if (!target().flags().unmap || !target().driver().honours_unmap()) {
      copy_->changed(0, copy_->length());
      co_return JobResult();
    }
    BB_CO_TRY(co_await zero_target());
  }
  for (uint64_t at = 0; at < copy_->length();) {
    co_await pause_point();
    if (cancelled()) co_return JobResult();
    auto answer = lowest == nullptr
                      ? co_await chain_content(source(), nullptr, at, copy_->length() - at)
                      : co_await chain_allocated(source(), lowest, /*include_base=*/true, at,
                                                 copy_->length() - at);
    if (!answer) co_return job_failure(answer.error());
    if (answer->length == 0) break;
    if (answer->allocated) copy_->changed(at, answer->length);
    at += answer->length;
    co_await env().executor().yield();
  }
  co_return JobResult();
}

Task<JobResult> MirrorJob::keep_equal() {
  bool gathered = false;
  // A pass was made since the end is wanted: what guests have written since then is little.
  bool last_pass = false;
  for (;;) {
    co_await pause_point();
    if (cancelled()) co_return JobResult();
    if (guest_failure_) co_return std::unexpected(*guest_failure_);

    if (copy_->dirty() && !(last_pass && copy_->remaining() <= copy_->settings().buffer_size)) {
      if (ready() && !ending_ && !gathered) {
        gathered = true;
        co_await sleep(kGatherTime);
        continue;
      }
      gathered = false;
      const bool ending = ending_;
      auto copied = co_await copy_once();
      if (!copied) co_return std::unexpected(std::move(copied).error());
      last_pass = ending && *copied;
      continue;
    }
    // Equal, or at the end so nearly that guests can wait for the rest.
    if (!ready() || ending_) {
      auto flushed = co_await flush_target();
      if (!flushed) co_return std::unexpected(std::move(flushed).error());
      if (!*flushed) continue;
      if (ready()) co_return JobResult();
      co_await pay_off(rate_limit_);
      if (!copy_->dirty() && !cancelled() && !pause_requested()) become_ready();
      continue;
    }
    idle_ = true;
    co_await wait();
    idle_ = false;
  }
}

Task<std::expected<bool, JobFailure>> MirrorJob::copy_once() {
  MirrorCopy::Pass pass(env().executor());
  pass.rate_limit = &rate_limit_;
  pass_ = &pass;
  co_await copy_->copy_pass(pass);
  pass_ = nullptr;
  if (pass.failures().empty()) co_return pass.complete();
  if (cancelled()) co_return false;
  JobResult met =
      co_await meet(pass.failures(), options_.on_source_error, options_.on_target_error);
  if (!met) co_return std::unexpected(std::move(met).error());
  co_return false;
}

Task<std::expected<bool, JobFailure>> MirrorJob::flush_target() {
  const Result<void> flushed = co_await target_->flush();
  if (flushed) co_return true;
  if (cancelled()) co_return false;
  JobResult met = co_await meet({{flushed.error(), /*is_read=*/false}}, options_.on_source_error,
                                options_.on_target_error);
  if (!met) co_return std::unexpected(std::move(met).error());
  co_return false;
}

void MirrorJob::guest_copy_failed(Errno error, bool is_read) {
  if (cancelled() || guest_failure_) return;
  const OnError policy = is_read ? options_.on_source_error : options_.on_target_error;
  if (error_action(policy, is_read, error) != ErrorAction::kReport) return;
  guest_failure_.emplace(job_failure(error).error());
  copy_->set_writes_to_both(false);
  kick();
}

}  // namespace blockbed
