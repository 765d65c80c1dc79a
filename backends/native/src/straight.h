// Products by weights as they lie in memory, a row for each column of a step: where packed weights would
// not pay, or a step reads each weight for so few sequences that memory sets the time.
#pragma once

#include "product.h"

namespace ISA {

enum { COLUMNS = LINE };  // that are computed together

// Weights' rows, of which column c has row order[c].
struct Rows {
  const float* data;
  long count, depth;
  const int32_t* order;

  const float* at(long row) const { return data + row * depth; }
  // The same for columns that are counted from `offset` on.
  Rows from(long offset) const { return {data, count, depth, order - offset}; }
  // How many columns from `column` on, below `end`, have rows that lie side by side.
  long run(long column, long end) const {
    long n = 1;
    while (column + n < end && order[column + n] == order[column] + n) n++;
    return n;
  }
};

// target (M rows from `first` on) for `count` columns from `column` on, whose weights' rows lie side by side
template <int M>
static void dots(const Left* left, const Rows* weights, int parts, long first, long column, long count,
                 Target target) {
  // two sums of each, of every other vector, in 16 registers or 8; more rows would be too many streams
  enum { SUMS = VL == 16 ? 8 : 4, N = SUMS / M < 4 ? SUMS / M : 4, PASSES = COLUMNS / N };
  V folds[M][PASSES] = {};
  for (long pass = 0; pass * N < count; pass++) {
    V even[M * N] = {}, odd[M * N] = {};
    for (int part = 0; part < parts; part++) {
      const long stride = left[part].stride, depth = left[part].depth;
      const float *a = left[part].data + first * stride, *w[N];
      UNROLL(4) for (int n = 0; n < N; n++)  // the last row again and again where there is none
        w[n] = weights[part].at(least(weights[part].order[column] + pass * N + n, weights[part].count - 1));
      auto add = [&](V* sum, long k, int lanes) ALWAYS_INLINE {
        V x[M];
        UNROLL(4) for (int m = 0; m < M; m++) x[m] = load(a + m * stride + k, lanes);
        UNROLL(4) for (int n = 0; n < N; n++) {
          const V y = load(w[n] + k, lanes);
          UNROLL(4) for (int m = 0; m < M; m++) sum[m * N + n] += x[m] * y;
        }
      };
      long k = 0;
      for (; k + 2 * VL <= depth; k += 2 * VL) {
        add(even, k, VL);
        add(odd, k + VL, VL);
      }
      for_vectors(k, depth, [&](long k, int lanes) ALWAYS_INLINE { add(even, k, lanes); });
    }
    UNROLL(8) for (int s = 0; s < M * N; s++) even[s] += odd[s];
    UNROLL(4) for (int m = 0; m < M; m++) folds[m][pass] = folded<N, 1>(even + m * N);
  }
  for (int m = 0; m < M; m++) {
    const Target at = target.at(first + m, column);
    const float* from = at.initial ? at.initial : at.out;
    for_vectors(count, [&](long j, int lanes) ALWAYS_INLINE {
      const V sums = folded<VL / N, N>(folds[m] + j / N);
      store(at.out + j, load(from + j, lanes) + sums, lanes);
    });
  }
}

// The product of rows by the weights of the columns begin .. end, from the last to the first of these if
// `backwards`, added as by `multiply`.
static void multiply_by_rows(long rows, const Left* left, const Rows* weights, int parts, long begin,
                             long end, Target target, bool backwards) {
  const long blocks = (end - begin + COLUMNS - 1) / COLUMNS;
  for (long i = 0; i < blocks; i++) {
    const long first = begin + (backwards ? blocks - 1 - i : i) * COLUMNS;
    const long last = least(end, first + COLUMNS);
    for (long column = first; column < last;) {
      const long count = weights->run(column, last);
      for (long r = 0; r < rows;) {
        const long rest = rows - r;
        auto tile = [&]([[maybe_unused]] auto height) {
          dots<height.value>(left, weights, parts, r, column, count, target);
          r += height.value;
        };
        if (rest >= 4) tile(Constant<4>());
        else if (rest >= 2) tile(Constant<2>());
        else tile(Constant<1>());
      }
      column += count;
    }
  }
}

enum { ROWS_AT_ONCE = 8 };

// out[j] += sum over i < N of factors[i] weights[i][j], for j < count
template <int N>
static void add_rows(const float* factors, const float* weights, long depth, float* out, long count) {
  V factor[N];
  UNROLL(8) for (int i = 0; i < N; i++) factor[i] = all(factors[i]);
  for_vectors(count, [&](long j, int lanes) ALWAYS_INLINE {
    V even = load(out + j, lanes), odd = {};
    UNROLL(8) for (int i = 0; i < N; i++) {
      const V term = factor[i] * load(weights + i * depth + j, lanes);
      (i % 2 ? odd : even) += term;
    }
    store(out + j, even + odd, lanes);
  });
}

// out (rows, count) += left by the columns' weights, of which `count` entries from `first` on are taken;
// from the last columns to the first if `backwards`
static void add_weighted_rows(long rows, const Left& left, const Rows& weights, long first, float* out,
                              long stride, long count, bool backwards) {
  const long blocks = (left.depth + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE;
  for (long i = 0; i < blocks; i++) {
    const long begin = (backwards ? blocks - 1 - i : i) * ROWS_AT_ONCE;
    const long end = least(left.depth, begin + ROWS_AT_ONCE);
    for (long column = begin; column < end;) {
      const long n = weights.run(column, end);
      const float* from = weights.at(weights.order[column]) + first;
      with_constant<ROWS_AT_ONCE>(n, [&]([[maybe_unused]] auto at_once) {
        for (long r = 0; r < rows; r++)
          add_rows<at_once.value>(left.data + r * left.stride + column, from, weights.depth,
                                  out + r * stride, count);
      });
      column += n;
    }
  }
}

// to[n][j] = sum over k of left[k][n] right[k][j], for n < N and j < width
template <int N>
static void outer_rows(long depth, const float* left, long left_stride, const float* right, long width,
                       float* to) {
  for_vectors(width, [&](long j, int lanes) ALWAYS_INLINE {
    V sum[N] = {};
    for (long k = 0; k < depth; k++) {
      const V x = load(right + k * width + j, lanes);
      UNROLL(8) for (int n = 0; n < N; n++) sum[n] += all(left[k * left_stride + n]) * x;
    }
    UNROLL(8) for (int n = 0; n < N; n++) store(to + n * width + j, sum[n], lanes);
  });
}

// The gradients (rows of weights, width) of the columns begin .. end: the sums over `depth` rows of
// left (depth, columns) and right (depth, width).
static void form_rows(long depth, const float* left, long left_stride, const float* right,
                      const Rows& gradient, float* to, long begin, long end) {
  for (long column = begin; column < end;) {
    const long n = gradient.run(column, least(end, column + ROWS_AT_ONCE));
    with_constant<ROWS_AT_ONCE>(n, [&]([[maybe_unused]] auto at_once) {
      outer_rows<at_once.value>(depth, left + column, left_stride, right, gradient.depth,
                                to + gradient.order[column] * gradient.depth);
    });
    column += n;
  }
}

}  // namespace ISA
