#if defined(__x86_64__)
#define ISA avx512
#define VL 16
#include "unit.h"

Kernels avx512_kernels() { return avx512::kernels(); }
#endif
