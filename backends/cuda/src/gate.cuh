// The formulas of gates and cells for float and double. Compiles as CUDA (NVRTC, nvcc) and, so that
// it can be tested without a GPU, as plain C++.
#pragma once

#ifdef __CUDACC__
#define GATECORE_FUNCTION __device__ __forceinline__
#define GATECORE_ROLLED _Pragma("unroll 1")  // for loops that mostly run once
#else
#include <cmath>
#define GATECORE_FUNCTION inline
#define GATECORE_ROLLED
#endif
#define GATECORE_NAMESPACE gatecore

namespace gatecore {

// A NaN stays one.
template <typename T> GATECORE_FUNCTION T clamped(T x, T limit) {
    return x > limit ? limit : x < -limit ? -limit : x;
}

// exp and tanh of the argument's own precision; no fast-math variants
GATECORE_FUNCTION float exponential(float x) { return expf(clamped(x, 87.0f)); }
GATECORE_FUNCTION double exponential(double x) { return exp(clamped(x, 708.0)); }
GATECORE_FUNCTION float tangent(float x) { return tanhf(x); }
GATECORE_FUNCTION double tangent(double x) { return tanh(x); }

// A step of Newton's method for 1 / x, from y within some ulp of it.
GATECORE_FUNCTION float newton(float x, float y) { return fmaf(y, fmaf(-x, y, 1.0f), y); }

// 1 / x for x in [1, 2^126). IEEE division branches to a subroutine where x may be anything; loads
// that follow the branch wait for it.
GATECORE_FUNCTION float reciprocal(float x) {
#ifdef __CUDACC__
    float y;  // within 1 ulp
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return newton(x, y);
#else
    return 1 / x;
#endif
}
GATECORE_FUNCTION double reciprocal(double x) { return 1 / x; }

template <typename T> GATECORE_FUNCTION T select(T gate, T small, T large) {
    return gate < static_cast<T>(0.5) ? small : large;
}

}  // namespace gatecore

#include "../../common/formulas.h"
