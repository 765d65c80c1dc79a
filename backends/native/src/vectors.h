// Vectors of VL floats, and the functions of them that gates need. Everything is internal to the unit:
// nothing here may be shared with code compiled for another instruction set.
#pragma once

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

#define ALWAYS_INLINE __attribute__((always_inline))
#define INLINE static inline ALWAYS_INLINE
#define PRAGMA(text) _Pragma(#text)
#define UNROLL(times) PRAGMA(GCC unroll times)
#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (I){__VA_ARGS__})
#endif

namespace ISA {

typedef float V __attribute__((vector_size(VL * 4)));
typedef float Unaligned __attribute__((vector_size(VL * 4), aligned(4), may_alias));
typedef int I __attribute__((vector_size(VL * 4)));

enum { LINE = 16 };  // floats of a cache line

INLINE long rounded(long n, long to) { return (n + to - 1) / to * to; }
INLINE long least(long a, long b) { return a < b ? a : b; }
INLINE long most(long a, long b) { return a > b ? a : b; }

// f(constant) with a constant of value n, which is 1 .. MOST
template <int N> struct Constant { enum { value = N }; };
template <int MOST, class F> INLINE void with_constant(long n, F f) {
  if constexpr (MOST > 1)
    if (n < MOST) return with_constant<MOST - 1>(n, f);
  f(Constant<MOST>());
}

INLINE V load(const float* p) { return *(const Unaligned*)p; }
INLINE void store(float* p, V v) { *(Unaligned*)p = v; }
INLINE V all(float x) { return x - (V){}; }

// The first n lanes; the others are 0 when loaded, and untouched when stored.
#if VL == 16
INLINE __mmask16 lanes(int n) { return (__mmask16)((1u << n) - 1); }
INLINE V load(const float* p, int n) { return n >= VL ? load(p) : (V)_mm512_maskz_loadu_ps(lanes(n), p); }
INLINE void store(float* p, V v, int n) {
  if (n >= VL) return store(p, v);
  _mm512_mask_storeu_ps(p, lanes(n), (__m512)v);
}
#elif VL == 8 && defined(__AVX2__)
INLINE __m256i lanes(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
INLINE V load(const float* p, int n) { return n >= VL ? load(p) : (V)_mm256_maskload_ps(p, lanes(n)); }
#else
INLINE V load(const float* p, int n) {
  if (n >= VL) return load(p);
  V v = {};
  for (int i = 0; i < n; i++) v[i] = p[i];
  return v;
}
#endif
#if VL != 16
INLINE void store(float* p, V v, int n) {
  if (n >= VL) return store(p, v);
  for (int i = 0; i < n; i++) p[i] = v[i];
}
#endif

// f(j, n) for each vector of n lanes; n is the constant VL for all but the last
template <class F> INLINE void for_vectors(long j, long end, F f) {
  for (; j + VL <= end; j += VL) f(j, VL);
  if (j < end) f(j, (int)(end - j));
}
template <class F> INLINE void for_vectors(long count, F f) { for_vectors(0, count, f); }

// lowest and highest keep a NaN that is their second argument
#if VL == 16
INLINE V lowest(V a, V b) { return (V)_mm512_min_ps((__m512)a, (__m512)b); }
INLINE V highest(V a, V b) { return (V)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE V choose(V sign, V negative, V positive) {  // by the sign bit
  return (V)_mm512_mask_mov_ps((__m512)positive, _mm512_movepi32_mask((__m512i)sign), (__m512)negative);
}
INLINE V reciprocal(V d) {  // 14 bits, then one step of Newton's method
  V y = (V)_mm512_rcp14_ps((__m512)d);
  return y + y * (1.0f - d * y);
}
#elif VL == 8 && defined(__AVX2__)
INLINE V lowest(V a, V b) { return (V)_mm256_min_ps((__m256)a, (__m256)b); }
INLINE V highest(V a, V b) { return (V)_mm256_max_ps((__m256)a, (__m256)b); }
INLINE V choose(V sign, V negative, V positive) {
  return (V)_mm256_blendv_ps((__m256)positive, (__m256)negative, (__m256)sign);
}
INLINE V reciprocal(V d) { return 1.0f / d; }
#else
INLINE V lowest(V a, V b) { return a < b ? a : b; }
INLINE V highest(V a, V b) { return a > b ? a : b; }
INLINE V choose(V sign, V negative, V positive) { return (I)sign < 0 ? negative : positive; }
INLINE V reciprocal(V d) { return 1.0f / d; }
#endif

INLINE V select(V gate, V small, V large) { return gate < 0.5f ? small : large; }
INLINE V magnitude(V x) { return (V)((I)x & 0x7fffffff); }

// The polynomial of these coefficients, of the highest power first
template <class... C> INLINE V polynomial(V x, float highest, C... coefficients) {
  V p = all(highest);
  ((p = p * x + coefficients), ...);
  return p;
}

// e^x for |x| <= 87, clamped beyond, so that neither it nor its reciprocal overflows or is denormal
INLINE V exponential(V x) {
  x = lowest(all(87.0f), highest(all(-87.0f), x));
  const V shifter = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  V n = x * 1.44269504088896341f + shifter;
  I exponent = (I)n << 23;
  n = n - shifter;
  V r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  V p = polynomial(r, 1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f,
                   1.6666665459e-1f, 5.0000001201e-1f);
  p = p * r * r + r + 1.0f;
  return (V)((I)p + exponent);
}

// x P(x^2) / Q(x^2) with P(0) = Q(0) = 1, fitted for the least largest relative error up to 9, 2e-8:
// exact near 0 and without a bias, for the sake of what is added up over thousands of steps
INLINE V tanh(V x) {
  const V end = all(9.0f);
  x = lowest(end, highest(-end, x));
  V s = x * x;
  V p = polynomial(s, 1.3354550354449657e-08f, 2.060899896605406e-05f, 3.495583077892661e-03f,
                   0.13381020724773407f, 1.0f);
  V q = polynomial(s, 7.776511665724684e-07f, 3.2856265897862613e-04f, 2.5876963511109352e-02f,
                   0.46714335680007935f, 1.0f);
  return x * p * reciprocal(q);
}

#if VL == 16
#define LANES(f) f(0), f(1), f(2), f(3), f(4), f(5), f(6), f(7), f(8), f(9), f(10), f(11), \
                 f(12), f(13), f(14), f(15)
#elif VL == 8
#define LANES(f) f(0), f(1), f(2), f(3), f(4), f(5), f(6), f(7)
#else
#define LANES(f) f(0), f(1), f(2), f(3)
#endif
// Lane l is lane l - D of x, or 0 where there is none.
template <int D> INLINE V shifted(V x) {
#define LANE(l) (l - D >= 0 && l - D < VL ? l - D : VL)
  return SHUFFLE(x, (V){}, LANES(LANE));
#undef LANE
}
// Every lane is lane L of x.
template <int L> INLINE V broadcast(V x) {
#define LANE(l) (L)
  return SHUFFLE(x, x, LANES(LANE));
#undef LANE
}
// Of each 2 D lanes of a and b, the first D of both, or the others.
template <int D> INLINE V upper(V a, V b) {
#define LANE(l) (l & D ? VL + l - D : l)
  return SHUFFLE(a, b, LANES(LANE));
#undef LANE
}
template <int D> INLINE V lower(V a, V b) {
#define LANE(l) (l & D ? VL + l : l + D)
  return SHUFFLE(a, b, LANES(LANE));
#undef LANE
}
// Swaps rows and columns of VL vectors, in blocks of D by D for D from 1 up.
template <int D> INLINE void exchanged(V* v) {
  UNROLL(16) for (int i = 0; i < VL; i++) {
    if (i & D) continue;
    V a = v[i], b = v[i + D];
    v[i] = upper<D>(a, b);
    v[i + D] = lower<D>(a, b);
  }
}
static void transpose_block(V* v) {
  exchanged<1>(v);
  exchanged<2>(v);
  if constexpr (VL > 4) exchanged<4>(v);
  if constexpr (VL > 8) exchanged<8>(v);
}
// Sums of pairs of lanes D apart: of COUNT vectors, for D from 1 up to VL / 2, one whose i-th lane is the
// sum of the lanes of the i-th. The calls of some D may be for fewer vectors at a time.
template <int COUNT, int D> INLINE V folded(V* v) {
  if constexpr (COUNT == 1) return v[0];
  else {
    UNROLL(8) for (int i = 0; i < COUNT / 2; i++)
      v[i] = upper<D>(v[2 * i], v[2 * i + 1]) + lower<D>(v[2 * i], v[2 * i + 1]);
    return folded<COUNT / 2, 2 * D>(v);
  }
}
// Sums over the lanes up to each lane (D = 1), or from it on (D = -1)
template <int D> INLINE V running_sums(V x) {
  x = x + shifted<D>(x);
  x = x + shifted<2 * D>(x);
  if (VL > 4) x = x + shifted<4 * D>(x);
  if (VL > 8) x = x + shifted<8 * D>(x);
  return x;
}

}  // namespace ISA
