// Threads: a team that runs one function, and a barrier between its members.
#pragma once

#include <atomic>

struct Barrier {
  alignas(64) std::atomic<int> arrived{0};
  alignas(64) std::atomic<int> generation{0};
  void wait(int members);
};

// One member's view: `id` of `size` threads that run together.
struct Member {
  int id, size;
  Barrier* barrier;

  void wait() const { if (size > 1) barrier->wait(size); }
  long begin(long count) const { return count * id / size; }
  long end(long count) const { return count * (id + 1) / size; }
};

// Runs f(data, member) on as many threads as are granted, at most `wanted`; returns when all have.
void run_team(int wanted, void (*f)(void*, const Member&), void* data);
void use_openmp(void* parallel, void* num_threads);
