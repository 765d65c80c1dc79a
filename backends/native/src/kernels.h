// What a unit compiled for one instruction set offers to the rest of the library.
#pragma once

#include "interface.h"
#include "thread_pool.h"

struct Kernels {
  long (*stride)(const gatecore_layer&);
  long (*forward_scratch)(const gatecore_layer&);
  long (*backward_scratch)(const gatecore_layer&, bool wants_d_x);
  void (*forward)(const gatecore_layer&, const gatecore_arguments&, const Worker&, bool by_columns);
  void (*backward)(const gatecore_layer&, const gatecore_arguments&, const Worker&, bool by_columns);
  double (*multiply_adds)(int64_t rounds);
};

#if defined(__x86_64__)
Kernels avx2_kernels();
Kernels avx512_kernels();
#elif defined(__aarch64__)
Kernels neon_kernels();
#endif
Kernels portable_kernels();
