#if defined(__aarch64__)
#define ISA neon
#define VL 4
#define REGISTERS 32
#include "unit.h"

Kernels neon_kernels() { return neon::kernels(); }
#endif
