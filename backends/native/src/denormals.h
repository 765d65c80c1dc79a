// Denormal numbers taken for zeros, on the calling thread and in its scope.
#pragma once

#include <cstdint>

// Cotangents of steps far before the loss fall below the smallest normal number, where each operation
// of an x86 processor takes a hundred times as long. Their contributions are below 1e-38 of the loss.
class DenormalsAreZero {
 public:
#if defined(__x86_64__)
  DenormalsAreZero() : saved(__builtin_ia32_stmxcsr()) { __builtin_ia32_ldmxcsr(saved | 0x8040); }
  ~DenormalsAreZero() { __builtin_ia32_ldmxcsr(saved); }

 private:
  const unsigned saved;
#elif defined(__aarch64__)
  DenormalsAreZero() {
    __asm__ __volatile__("mrs %0, fpcr" : "=r"(saved));
    __asm__ __volatile__("msr fpcr, %0" ::"r"(saved | (uint64_t)1 << 24));
  }
  ~DenormalsAreZero() { __asm__ __volatile__("msr fpcr, %0" ::"r"(saved)); }

 private:
  uint64_t saved;
#else
  DenormalsAreZero() {}
  ~DenormalsAreZero() {}
#endif
};
