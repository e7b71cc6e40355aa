#include "block/runtime/worker_pool.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>

#include "block/runtime/assert.h"

namespace blockbed {

WorkerPool::~WorkerPool() {
  {
    const std::lock_guard lock(mutex_);
    BB_ASSERT(first_ == nullptr);
    stopping_ = true;
  }
  work_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

unsigned WorkerPool::threads() const {
  const std::lock_guard lock(mutex_);
  return static_cast<unsigned>(threads_.size() - ended_.size());
}

void WorkerPool::submit(Job& job) {
  bool start = false;
  {
    const std::lock_guard lock(mutex_);
    job.next_job = nullptr;
    (last_ == nullptr ? first_ : last_->next_job) = &job;
    last_ = &job;
    ++waiting_jobs_;
    // Every waiting job has an idle thread on its way to it, or there are too few.
    start = waiting_jobs_ > idle_ && threads_.size() - ended_.size() < max_threads_;
    for (const std::thread::id id : ended_) {
      const auto thread = std::ranges::find(threads_, id, &std::thread::get_id);
      thread->join();
      threads_.erase(thread);
    }
    ended_.clear();
  }
  if (!start) {
    work_.notify_one();
    return;
  }
  sigset_t all, before;
  sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  std::thread thread([this] { serve(); });
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  const std::lock_guard lock(mutex_);
  threads_.push_back(std::move(thread));
}

void WorkerPool::serve() {
  ::pthread_setname_np(::pthread_self(), "worker");
  std::unique_lock lock(mutex_);
  for (;;) {
    while (first_ == nullptr) {
      if (stopping_) return;
      ++idle_;
      const std::cv_status woken = work_.wait_for(lock, idle_time_);
      --idle_;
      if (woken == std::cv_status::timeout && first_ == nullptr && !stopping_) {
        ended_.push_back(std::this_thread::get_id());
        return;
      }
    }
    Job& job = *first_;
    first_ = job.next_job;
    if (first_ == nullptr) last_ = nullptr;
    --waiting_jobs_;
    lock.unlock();
    job.call(job);
    loop_.complete(job);
    lock.lock();
  }
}

}  // namespace blockbed
