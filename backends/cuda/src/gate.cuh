// The gate algebra of gatecore/algebra.py and gatecore/vjp.py, one number at a time: a gate is a
// number in [0, 1] that carries its complement, and nothing here subtracts one from the other.
// Compiles as CUDA (NVRTC, nvcc) and, so that it can be tested without a GPU, as plain C++.
#pragma once

#ifdef __CUDACC__
#define GATECORE_FUNCTION __device__ __forceinline__
#else
#include <cmath>
#define GATECORE_FUNCTION inline
#endif

namespace gatecore {

// exp and tanh of the argument's own precision; no fast-math variants
GATECORE_FUNCTION float exponential(float x) { return expf(x); }
GATECORE_FUNCTION double exponential(double x) { return exp(x); }
GATECORE_FUNCTION float tangent(float x) { return tanhf(x); }
GATECORE_FUNCTION double tangent(double x) { return tanh(x); }

template <typename T>
struct Gate {
    T value;       // in [0, 1]
    T complement;  // 1 - value, accurate also where value is nearly 1
};

template <typename T>
GATECORE_FUNCTION Gate<T> negate(Gate<T> a) {
    return {a.complement, a.value};
}

template <typename T>
GATECORE_FUNCTION Gate<T> both(Gate<T> a, Gate<T> b) {
    return {a.value * b.value, a.complement + a.value * b.complement};
}

template <typename T>
GATECORE_FUNCTION Gate<T> either(Gate<T> a, Gate<T> b) {
    return negate(both(negate(a), negate(b)));
}

template <typename T>
GATECORE_FUNCTION Gate<T> mix(Gate<T> s, Gate<T> high, Gate<T> low) {
    return {s.value * high.value + s.complement * low.value,
            s.value * high.complement + s.complement * low.complement};
}

// (σ(x), σ(-x)), each by the form that is accurate on its side
template <typename T>
GATECORE_FUNCTION Gate<T> sigmoid(T x) {
    T small = exponential(x < 0 ? x : -x);
    Gate<T> gate = {1 / (1 + small), small / (1 + small)};
    return x < 0 ? negate(gate) : gate;
}

// mix(r, either(f, f), both(f, f)) in closed form: equations (12), (16)
template <typename T>
GATECORE_FUNCTION Gate<T> refine(Gate<T> f, Gate<T> r) {
    return {f.value * (f.value + 2 * r.value * f.complement),
            f.complement * (f.complement + 2 * r.complement * f.value)};
}

// The effective forget gate of equations (21)-(22): F (1 - I + f I). The effective input gate,
// equation (23), is the same function of (I, F, i).
template <typename T>
GATECORE_FUNCTION Gate<T> master(Gate<T> own, Gate<T> other, Gate<T> inner) {
    return both(own, either(negate(other), inner));
}

// Cotangents of gates are those of their values.

template <typename T>
GATECORE_FUNCTION T sigmoid_vjp(Gate<T> gate, T v) {
    return v * gate.value * gate.complement;
}

template <typename T>
struct Pair {
    T first;
    T second;
};

// (of f, of r)
template <typename T>
GATECORE_FUNCTION Pair<T> refine_vjp(Gate<T> f, Gate<T> r, T v) {
    return {2 * v * (r.value * f.complement + r.complement * f.value),
            2 * v * f.value * f.complement};
}

// Cotangent of one master gate X beside the other one Y: of its own effective gate's v, with the
// inner gate x, and of the other effective gate's w, with the inner gate y.
template <typename T>
GATECORE_FUNCTION T master_vjp(Gate<T> other, Gate<T> inner, T v, Gate<T> other_inner, T w) {
    return v * (other.complement + inner.value * other.value) -
           w * (other.value * other_inner.complement);
}

}  // namespace gatecore
