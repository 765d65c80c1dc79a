#include "thread_pool.h"

#include <condition_variable>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

#if defined(_WIN32)
static int process_id() { return 0; }  // no fork there
#else
#include <unistd.h>
static int process_id() { return (int)getpid(); }
#endif

static void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ __volatile__("yield");
#endif
}

// Waits until `done`: spinning for a while, since a step takes microseconds, then giving way.
template <class F> static void spin_until(F done) {
  for (int spins = 0; !done();) {
    pause_briefly();
    if (++spins > 2000) std::this_thread::yield();
  }
}

void Barrier::wait(int members) {
  const int now = generation.load(std::memory_order_relaxed);
  if (arrived.fetch_add(1, std::memory_order_acq_rel) == members - 1) {
    arrived.store(0, std::memory_order_relaxed);
    generation.store(now + 1, std::memory_order_release);
  } else {
    spin_until([&] { return generation.load(std::memory_order_acquire) != now; });
  }
}

namespace {

struct Job {
  void (*function)(void*, const Member&);
  void* data;
  Barrier barrier;
  std::atomic<int> arrivals{0};
  int size = 1;

  void run(int id) {
    Member member = {id, size, &barrier};
    function(data, member);
  }
};

// Threads that sleep between jobs. They are detached and die with the process; a forked child, in
// which they do not exist, makes a pool of its own.
class Pool {
 public:
  const int owner = process_id();
  std::mutex busy;  // held while a job runs

  // Runs on `wanted` threads, or fewer where the system grants no more.
  void run(Job& job, int wanted) {
    grow(wanted - 1);
    const int helpers = wanted - 1 < threads_ ? wanted - 1 : threads_;
    job.size = helpers + 1;
    left_.store(helpers, std::memory_order_relaxed);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      job_ = &job;
      helpers_ = helpers;
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    job.run(0);
    spin_until([&] { return left_.load(std::memory_order_acquire) == 0; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<long> generation_{0};
  std::atomic<int> left_{0};
  Job* job_ = nullptr;
  int helpers_ = 0, threads_ = 0;

  void grow(int wanted) {
    while (threads_ < wanted) {
      try {
        const long seen = generation_.load();
        std::thread([this, id = threads_ + 1, seen] { work(id, seen); }).detach();
      } catch (const std::exception&) {
        return;
      }
      threads_++;
    }
  }

  void work(int id, long seen) {
    for (;;) {
      Job* job;
      for (int spins = 0; spins < 4000 && generation_.load(std::memory_order_acquire) == seen; spins++)
        pause_briefly();
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return generation_.load(std::memory_order_relaxed) != seen; });
        seen = generation_.load(std::memory_order_relaxed);
        job = id <= helpers_ ? job_ : nullptr;
      }
      if (!job) continue;
      job->run(id);
      left_.fetch_sub(1, std::memory_order_acq_rel);
    }
  }
};

std::atomic<Pool*> pool{nullptr};  // never freed: its threads use it until the process ends
int loaded_by = process_id();

// Without a lock, which a forked child might find locked for ever.
Pool* own_pool() {
  Pool* now = pool.load();
  if (now && now->owner == process_id()) return now;
  Pool* made = new (std::nothrow) Pool;
  if (pool.compare_exchange_strong(now, made)) return made;
  delete made;  // another thread was first
  return now;
}

typedef void (*Parallel)(void (*)(void*), void*, unsigned, unsigned);
typedef int (*Count)();
std::atomic<Parallel> openmp_parallel{nullptr};
std::atomic<Count> openmp_count{nullptr};

void run_openmp_member(void* data) {
  Job* job = (Job*)data;
  const int id = job->arrivals.fetch_add(1);
  // as many as the runtime granted, which it alone knows: waiting for more would last for ever
  Member member = {id, openmp_count.load()(), &job->barrier};
  job->function(job->data, member);
}

}  // namespace

void use_openmp(void* parallel, void* num_threads) {
  openmp_count.store((Count)num_threads);
  openmp_parallel.store(num_threads ? (Parallel)parallel : nullptr);
}

void run_team(int wanted, void (*function)(void*, const Member&), void* data) {
  Job job;
  job.function = function;
  job.data = data;
  Parallel parallel = openmp_parallel.load();
  if (wanted > 1 && parallel && process_id() == loaded_by) {  // GNU's OpenMP hangs in a forked child
    parallel(run_openmp_member, &job, (unsigned)wanted, 0);
    return;
  }
  Pool* threads = wanted > 1 ? own_pool() : nullptr;
  if (threads && threads->busy.try_lock()) {
    threads->run(job, wanted);
    threads->busy.unlock();
    return;
  }
  job.run(0);  // alone: also when called while another call uses the pool
}
