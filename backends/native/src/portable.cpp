#define ISA portable
#define VL 4
#include "unit.h"

Kernels portable_kernels() { return portable::kernels(); }
