// Gates in memory, and the ordered gate cumax: what the formulas of gates and cells do not say.
#pragma once

#include "vectors.h"

#define GATECORE_NAMESPACE ISA
#define GATECORE_FUNCTION inline ALWAYS_INLINE
#include "../../common/formulas.h"

namespace ISA {

// A gate in one float: the smaller side, negative if that is the complement; 1 minus it is the other.
INLINE V encoded(Gate<V> g) { return choose(g.complement - g.value, -g.complement, g.value); }
INLINE Gate<V> decoded(V code) {
  V smaller = magnitude(code), larger = 1.0f - smaller;
  return {choose(code, larger, smaller), choose(code, smaller, larger)};
}

// Ordered gates. `weights` is a row of n logits and becomes their softmax.
INLINE void softmax(float* weights, long n) {
  const long whole = n / VL * VL;
  V peaks = all(weights[0]), totals = {};
  for (long k = 0; k < whole; k += VL) peaks = highest(load(weights + k), peaks);
  float peak = weights[0], total = 0.0f;
  for (int i = 0; i < VL; i++) peak = peaks[i] > peak ? peaks[i] : peak;
  for (long k = whole; k < n; k++) peak = weights[k] > peak ? weights[k] : peak;
  for_vectors(n, [&](long k, int lanes) ALWAYS_INLINE {
    const V e = exponential(load(weights + k, lanes) - peak);
    store(weights + k, e, lanes);
    if (lanes == VL) totals = totals + e;
  });
  for (int i = 0; i < VL; i++) total += totals[i];
  for (long k = whole; k < n; k++) total += weights[k];
  const float scale = 1.0f / total;
  for_vectors(n, [&](long k, int lanes) ALWAYS_INLINE {
    store(weights + k, load(weights + k, lanes) * scale, lanes);
  });
}

// Sums of the first n entries up to each, and from each on (exclusive if `after`). Room for whole
// vectors is needed in `out` alone.
INLINE void prefix_sums(const float* in, float* out, long n) {
  V carried = {};
  for (long k = 0; k < n; k += VL) {
    V sums = running_sums<1>(load(in + k, (int)least(VL, n - k)));
    store(out + k, sums + carried);
    carried = carried + broadcast<VL - 1>(sums);
  }
}
INLINE void suffix_sums(const float* in, float* out, long n, bool after) {
  V carried = {};
  for (long k = (n - 1) / VL * VL; k >= 0; k -= VL) {
    V sums = running_sums<-1>(load(in + k, (int)least(VL, n - k)));
    store(out + k, (after ? shifted<-1>(sums) : sums) + carried);
    carried = carried + broadcast<0>(sums);
  }
}

// cumax from the softmax of its logits                                         equation (19)
INLINE void cumax(const float* weights, float* value, float* complement, long n) {
  prefix_sums(weights, value, n);
  suffix_sums(weights, complement, n, true);
  for (long k = 0; k < n; k += VL) {
    V sum = load(value + k), beyond = load(complement + k), scale = reciprocal(sum + beyond);
    store(value + k, sum * scale);
    store(complement + k, beyond * scale);
  }
}

// Cotangents of the logits from those of the values, v: with p the softmax,
// d_k = p_k (sum over j >= k of v_j (1 - f_j)  -  sum over j < k of v_j f_j).
// `v` is overwritten; `kept` and `spent` are scratch of n floats and a vector more.
INLINE void cumax_backward(const float* weights, const float* value, const float* complement, float* v,
                           float* kept, float* spent, float sign, float* d_logits, long n) {
  for (long k = 0; k < n; k += VL) {
    V cotangent = load(v + k);
    store(kept + k, cotangent * load(complement + k));
    store(spent + k, cotangent * load(value + k));
  }
  suffix_sums(kept, kept, n, false);
  prefix_sums(spent, v, n);
  for_vectors(n, [&](long k, int lanes) ALWAYS_INLINE {
    V before = load(v + k) - load(spent + k);  // exclusive: of the entries before each
    V d = load(weights + k, lanes) * (load(kept + k) - before);
    store(d_logits + k, sign * d, lanes);
  });
}

}  // namespace ISA
