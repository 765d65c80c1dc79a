// The formulas of gates and cells for float and double. Compiles as CUDA (NVRTC, nvcc) and, so that
// it can be tested without a GPU, as plain C++.
#pragma once

#ifdef __CUDACC__
#define GATECORE_FUNCTION __device__ __forceinline__
#else
#include <cmath>
#define GATECORE_FUNCTION inline
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

template <typename T> GATECORE_FUNCTION T reciprocal(T x) { return 1 / x; }

template <typename T> GATECORE_FUNCTION T select(T gate, T small, T large) {
    return gate < static_cast<T>(0.5) ? small : large;
}

}  // namespace gatecore

#include "../../common/formulas.h"
