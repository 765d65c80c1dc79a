#if defined(__x86_64__)
#define ISA avx2
#define VL 8
#include "unit.h"

Kernels avx2_kernels() { return avx2::kernels(); }
#endif
