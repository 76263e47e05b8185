#include "switchyard/threads.hpp"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>

#include "cpu/processors.hpp"
#include "fail.hpp"

namespace switchyard {
namespace {

constexpr int kMaxThreads = 1024;
// Long enough to bridge the steps of one forward (a few µs apart), short enough that an oversubscribed core loses no
// time slice.
constexpr int kSpins = 2000;

void pause() { __builtin_ia32_pause(); }

// Work that a caller offers. Lives on the caller's stack: it leaves only after it took the job off the list and all
// helpers are done.
struct Job {
  Threads::Body body;
  void* data;
  int wanted;           // helpers that may still join; under the pool's mutex
  int next_worker = 1;  // the caller is worker 0; under the pool's mutex
  std::atomic<int> running{0};
  Job* following = nullptr;
};

// Workers that help whoever offers work. A caller never waits for a worker that has not started on its job, so jobs of
// several callers cannot block each other, however few workers there are.
class Pool {
 public:
  static Pool& instance() {
    // Never destroyed: a static object's destructor may still run a forward.
    static Pool* pool = new Pool;
    return *pool;
  }

  void run(int count, Threads::Body body, void* data) {
    Job job{body, data, count - 1};
    offer(job);
    body(data, 0);
    withdraw(job);
    for (int spin = 0; spin < kSpins && job.running.load(std::memory_order_acquire) > 0; ++spin) {
      pause();
    }
    for (;;) {
      const std::uint64_t seen = finished_.load();
      if (job.running.load(std::memory_order_acquire) == 0) {
        return;
      }
      finished_.wait(seen);
    }
  }

 private:
  void offer(Job& job) {
    const int helpers = job.wanted;  // workers change it once they see the job
    {
      const std::lock_guard lock(mutex_);
      start_workers(helpers);
      job.following = jobs_;
      jobs_ = &job;
      offers_.fetch_add(1, std::memory_order_release);
    }
    for (int wakes = std::min(parked_.load(), helpers); wakes > 0; --wakes) {
      wake_.notify_one();
    }
  }

  // Workers start with the first work that wants them. Where the system has no thread to give, the others do the work.
  void start_workers(int workers) {
    try {
      for (; started_ < workers; ++started_) {
        std::thread([this] { serve(); }).detach();
      }
    } catch (const std::exception&) {
    }
  }

  void withdraw(Job& job) {
    const std::lock_guard lock(mutex_);
    Job** link = &jobs_;
    while (*link != &job) {
      link = &(*link)->following;
    }
    *link = job.following;
  }

  // A job with room for one more helper, and the number of that helper.
  Job* join(int& worker) {
    for (Job* job = jobs_; job != nullptr; job = job->following) {
      if (job->wanted > 0) {
        --job->wanted;
        worker = job->next_worker++;
        job->running.fetch_add(1, std::memory_order_relaxed);
        return job;
      }
    }
    return nullptr;
  }

  Job* wait_for_job(int& worker) {
    for (;;) {
      std::uint64_t seen = 0;
      {
        const std::lock_guard lock(mutex_);
        seen = offers_.load(std::memory_order_relaxed);
        if (Job* job = join(worker)) {
          return job;
        }
      }
      for (int spin = 0; spin < kSpins && offers_.load(std::memory_order_acquire) == seen; ++spin) {
        pause();
      }
      if (offers_.load(std::memory_order_acquire) == seen) {
        std::unique_lock lock(mutex_);
        parked_.fetch_add(1);
        wake_.wait(lock, [&] { return offers_.load(std::memory_order_relaxed) != seen; });
        parked_.fetch_sub(1);
      }
    }
  }

  [[noreturn]] void serve() {
    for (;;) {
      int worker = 0;
      Job* job = wait_for_job(worker);
      job->body(job->data, worker);
      job->running.fetch_sub(1, std::memory_order_release);  // the job may be gone after this, the pool is not
      finished_.fetch_add(1);
      finished_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  Job* jobs_ = nullptr;
  int started_ = 0;
  std::atomic<std::uint64_t> offers_{0};
  std::atomic<std::uint64_t> finished_{0};  // callers whose helpers are slow sleep on it
  std::atomic<int> parked_{0};
};

void run_on_pool(void* /*host*/, int workers, Threads::Body body, void* data) {
  Pool::instance().run(workers, body, data);
}

}  // namespace

Threads Threads::pool(int count) {
  const int wanted = count <= 0 ? std::min(usable_processors(), kMaxThreads) : count;
  if (wanted > kMaxThreads) {
    fail(Code::invalid_argument, "threads: found a count of {}, expected at most {}", count, kMaxThreads);
  }
  return {wanted, run_on_pool, nullptr};
}

Threads Threads::host(int count, Run run, void* host) {
  if (count < 1 || count > kMaxThreads || run == nullptr) {
    fail(Code::invalid_argument, "threads: found a host with {} threads{}, expected 1..{} and a function", count,
         run == nullptr ? " and no function" : "", kMaxThreads);
  }
  return {count, run, host};
}

void Threads::run(Body body, void* data) const {
  if (count_ == 1) {
    body(data, 0);
  } else {
    run_(host_, count_, body, data);
  }
}

}  // namespace switchyard
