#include "thread_pool.h"

#include <condition_variable>
#include <mutex>
#include <new>
#include <thread>

#include <unistd.h>

static int process_id() { return (int)getpid(); }

static void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ __volatile__("yield");
#endif
}

// Waits until `done`: spins for a while, since a step takes microseconds, then yields.
template <class F> static void spin_until(F done) {
  for (int spins = 0; !done();) {
    pause_briefly();
    if (++spins > 2000) std::this_thread::yield();
  }
}

void Barrier::wait(int threads) {
  const int now = generation.load(std::memory_order_relaxed);
  if (arrived.fetch_add(1, std::memory_order_acq_rel) == threads - 1) {
    arrived.store(0, std::memory_order_relaxed);
    generation.store(now + 1, std::memory_order_release);
  } else {
    spin_until([&] { return generation.load(std::memory_order_acquire) != now; });
  }
}

namespace {

struct Job {
  void (*function)(void*, const Worker&);
  void* data;
  Barrier barrier{};
  std::atomic<int> started{0};

  void run(int id, int size) { function(data, Worker{id, size, &barrier}); }
};

// Threads that sleep between jobs. They are detached and die with the process; a forked child, in
// which they do not exist, makes a pool of its own.
class ThreadPool {
 public:
  const int owner = process_id();
  std::mutex busy;  // locked while a job runs

  // Runs on `size` threads, or fewer where the system grants no more.
  void run(Job& job, int size) {
    grow(size - 1);
    const int helpers = size - 1 < threads_ ? size - 1 : threads_;
    running_.store(helpers, std::memory_order_relaxed);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      job_ = &job;
      helpers_ = helpers;
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    job.run(0, helpers + 1);
    spin_until([&] { return running_.load(std::memory_order_acquire) == 0; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<long> generation_{0};
  std::atomic<int> running_{0};
  Job* job_ = nullptr;
  int helpers_ = 0, threads_ = 0;

  void grow(int threads) {
    while (threads_ < threads) {
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
      for (int spins = 0; spins < 4000 && generation_.load(std::memory_order_acquire) == seen; spins++)
        pause_briefly();
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [&] { return generation_.load(std::memory_order_relaxed) != seen; });
      seen = generation_.load(std::memory_order_relaxed);
      Job* job = job_;
      const int helpers = helpers_;
      lock.unlock();
      if (id > helpers) continue;
      job->run(id, helpers + 1);
      running_.fetch_sub(1, std::memory_order_acq_rel);
    }
  }
};

std::atomic<ThreadPool*> pool{nullptr};  // never freed: its threads use it until the process ends
const int loaded_by = process_id();

// Without a lock, which a forked child might find locked for ever.
ThreadPool* pool_of_this_process() {
  ThreadPool* present = pool.load();
  if (present && present->owner == process_id()) return present;
  ThreadPool* created = new (std::nothrow) ThreadPool;
  if (pool.compare_exchange_strong(present, created)) return created;
  delete created;  // another thread was first
  return present;
}

typedef void (*Parallel)(void (*)(void*), void*, unsigned, unsigned);
typedef int (*Count)();
std::atomic<Parallel> openmp_parallel{nullptr};
std::atomic<Count> openmp_count{nullptr};

// The barrier is of as many threads as the runtime granted: of more, it would wait for ever.
void run_openmp_thread(void* data) {
  Job* job = (Job*)data;
  job->run(job->started.fetch_add(1), openmp_count.load()());
}

}  // namespace

void use_openmp(void* parallel, void* num_threads) {
  openmp_count.store((Count)num_threads);
  openmp_parallel.store(num_threads ? (Parallel)parallel : nullptr);
}

void run_on_threads(int most, void (*function)(void*, const Worker&), void* data) {
  Job job{function, data};
  Parallel parallel = openmp_parallel.load();
  if (most > 1 && parallel && process_id() == loaded_by)  // GNU's OpenMP hangs in a forked child
    return parallel(run_openmp_thread, &job, (unsigned)most, 0);
  ThreadPool* threads = most > 1 ? pool_of_this_process() : nullptr;
  if (threads && threads->busy.try_lock()) {
    threads->run(job, most);
    threads->busy.unlock();
    return;
  }
  job.run(0, 1);  // alone, also while another call uses the pool
}
