// Threads that run one function together, and a barrier between them.
#pragma once

#include <atomic>

struct Barrier {
  alignas(64) std::atomic<int> arrived{0};
  alignas(64) std::atomic<int> generation{0};
  void wait(int threads);
};

// One thread of a job: number `id` of `size`, with an equal share of the work.
struct Worker {
  int id, size;
  Barrier* barrier;

  void wait() const { if (size > 1) barrier->wait(size); }
  long begin(long count) const { return count * id / size; }
  long end(long count) const { return count * (id + 1) / size; }
};

// Runs f(data, worker) on at most so many threads, and returns when all have ended.
void run_on_threads(int most, void (*f)(void*, const Worker&), void* data);
void use_openmp(void* parallel, void* num_threads);
