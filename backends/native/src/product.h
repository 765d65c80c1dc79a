// Products of small matrices by packed ones: the tiles stay in registers over the whole inner sum.
// Sums start from 0, and what they are added to comes last: a saturated gate's bias, or a cotangent
// carried over thousands of steps, is so large that it would swallow their terms one by one.
#pragma once

#include "vectors.h"

namespace ISA {

// A panel is NV vectors of columns; a tile is a panel by at most MR rows. With 32 registers 7 x 4
// sums, 4 vectors of weights and the broadcast value from memory fill them; with 16, 6 x 2.
enum { NV = VL == 16 ? 4 : 2, MR = VL == 16 ? 7 : 6, PANEL = NV * VL };
enum { INNER = 512 };  // rows of a panel that one pass takes: the left operand stays in the L1 cache

// A matrix (depth, columns), packed panel by panel: [panel][depth][vectors of it][lane]. The last
// panel holds as many vectors as it needs; lanes beyond the columns are 0.
struct Packed {
  float* data;
  long depth, columns;

  long panels() const { return (columns + PANEL - 1) / PANEL; }
  long vectors(long panel) const { return least(NV, (columns - panel * PANEL + VL - 1) / VL); }
  float* panel(long p) const { return data + p * PANEL * depth; }
  static long floats(long depth, long columns) { return depth * rounded(columns, VL); }
};

// A left operand (rows, depth), `stride` floats from row to row.
struct Left {
  const float* data;
  long stride, depth;
};

// Prefetches while products are computed, a line for each row of weights: the weights that follow, and
// what the next step touches. A burst of prefetches at any other time would have to be waited for.
class Prefetcher {
 public:
  struct Range { const float *next, *end; };
  void add(const float* start, long floats) {
    if (!start || floats <= 0) return;
    lines_ += rounded(floats, LINE) / LINE;
    ranges_[count_++] = {start, start + rounded(floats, LINE)};
  }
  // Of so many rows of weights to come, the first prefetch weights, and the last, with some to spare,
  // what was added: so no weights drive it from the cache again.
  void start_after(long rows) { rows_ = count_ ? most(0, rows - lines_ - lines_ / 4) : 0; }
  // A tile begins with `resume`, calls `following` at the end of a range, and `suspend` with the rest.
  Range resume(const float* weights) {
    weights_ = weights;
    if (rows_) return {weights, weights + rows_ * LINE};
    return now_ < count_ ? ranges_[now_] : Range{weights, nullptr};
  }
  __attribute__((noinline)) Range following() {
    if (rows_) rows_ = 0;
    else now_++;
    return resume(weights_);
  }
  void suspend(Range range) {
    if (rows_) rows_ = (range.end - range.next) / LINE;
    else if (now_ < count_) ranges_[now_] = range;
  }

 private:
  Range ranges_[7];
  int count_ = 0, now_ = 0;
  long lines_ = 0, rows_ = 0;
  const float* weights_ = nullptr;
};

// Sums of MROWS rows and VECTORS vectors: each of `parts` left operands, from row `first` on, by as
// many of the panel's rows as it is deep, one after the other.
template <int MROWS, int VECTORS>
static void tile(const Left* left, int parts, long first, const float* __restrict panel, long width,
                 float* out, long out_stride, const float* initial, const float* upcoming,
                 Prefetcher& prefetcher) {
  V sum[MROWS][VECTORS];
  Prefetcher::Range range = prefetcher.resume(upcoming);
  V start[VECTORS] = {};
  if (initial)
    UNROLL(4) for (int v = 0; v < VECTORS; v++) start[v] = load(initial + v * VL);
  UNROLL(8) for (int r = 0; r < MROWS; r++)
    UNROLL(4) for (int v = 0; v < VECTORS; v++) sum[r][v] = start[v];
  for (int part = 0; part < parts; part++) {
    const long stride = left[part].stride, depth = left[part].depth;
    const float* a = left[part].data + first * stride;
    for (long k = 0; k < depth; k++) {
      V w[VECTORS];
      __builtin_prefetch(range.next, 0, 2);  // not into the first cache, which the tile fills
      range.next += LINE;
      if (__builtin_expect(range.next == range.end, 0)) range = prefetcher.following();
      UNROLL(4) for (int v = 0; v < VECTORS; v++) w[v] = load(panel + v * VL);
      panel += width;
      UNROLL(8) for (int r = 0; r < MROWS; r++) {
        V x = all(a[r * stride + k]);
        UNROLL(4) for (int v = 0; v < VECTORS; v++) sum[r][v] += x * w[v];
      }
    }
  }
  prefetcher.suspend(range);
  UNROLL(8) for (int r = 0; r < MROWS; r++) {
    float* to = out + r * out_stride;
    UNROLL(4) for (int v = 0; v < VECTORS; v++)
      store(to + v * VL, initial ? sum[r][v] : load(to + v * VL) + sum[r][v]);
  }
}

// How many tiles a panel takes: of nearly equal height, but 8 rows run faster as 8 x 2 than as 4 x 4.
static bool halved(long rows) { return VL == 16 && rows == 8; }
static long tiles_of(long rows) { return halved(rows) ? 2 : (rows + MR - 1) / MR; }

// All rows against one panel; `depth` is that of all parts.
template <int VECTORS>
static void rows_by_panel(long rows, const Left* left, int parts, long depth, const float* panel,
                          float* out, long out_stride, const float* initial, const float* upcoming,
                          Prefetcher& prefetcher) {
  const long width = VECTORS * VL;
  if (VECTORS == 4 && halved(rows)) {
    tile<8, 2>(left, parts, 0, panel, width, out, out_stride, initial, upcoming, prefetcher);
    tile<8, 2>(left, parts, 0, panel + 2 * VL, width, out + 2 * VL, out_stride,
               initial ? initial + 2 * VL : initial, upcoming + depth * LINE, prefetcher);
    return;
  }
  const long tiles = tiles_of(rows);
  for (long i = 0; i < tiles; i++) {
    const long first = rows * i / tiles;
    with_constant<MR>(rows * (i + 1) / tiles - first, [&](auto height) {
      tile<height.value, VECTORS>(left, parts, first, panel, width, out + first * out_stride,
                                  out_stride, initial, upcoming + i * depth * LINE, prefetcher);
    });
  }
}

INLINE long depth_of(const Left* left, int parts) {
  long depth = 0;
  for (int part = 0; part < parts; part++) depth += left[part].depth;
  return depth;
}

// One pass: all parts by the rows of `weights` from `from` on, for the panels begin .. end.
static void pass(long rows, const Left* left, int parts, const Packed& weights, long from,
                 long begin, long end, float* out, long out_stride, const float* initial,
                 Prefetcher& prefetcher) {
  const long depth = depth_of(left, parts);
  for (long p = begin; p < end; p++) {
    const float* panel = weights.panel(p) + from * weights.vectors(p) * VL;
    // what is read after this panel: the next one, or the first one's next rows
    const float* upcoming = p + 1 < end ? weights.panel(p + 1) + from * weights.vectors(p + 1) * VL
                                        : weights.panel(begin) + (from + depth) * PANEL;
    with_constant<NV>(weights.vectors(p), [&](auto vectors) {
      rows_by_panel<vectors.value>(rows, left, parts, depth, panel, out + p * PANEL, out_stride,
                                   initial ? initial + p * PANEL : nullptr, upcoming, prefetcher);
    });
  }
}

// out (rows, columns) = initial (columns,), or += where that is null: the parts of `left` side by side
// by the rows of `weights` from `from` on, for the panels begin .. end. `out` and `initial` have room
// for whole vectors. Deep parts are taken INNER rows of weights at a time.
static void multiply(long rows, const Left* left, int parts, const Packed& weights, long from,
                     long begin, long end, float* out, long out_stride, const float* initial,
                     Prefetcher& prefetcher) {
  if (depth_of(left, parts) <= INNER + LINE)
    return pass(rows, left, parts, weights, from, begin, end, out, out_stride, initial, prefetcher);
  for (int part = 0; part < parts; part++)
    for (long k = 0; k < left[part].depth; k += INNER) {
      const Left block = {left[part].data + k, left[part].stride, least(INNER, left[part].depth - k)};
      pass(rows, &block, 1, weights, from, begin, end, out, out_stride, initial, prefetcher);
      from += block.depth;
      initial = nullptr;
    }
}

// The product that forms weight gradients: sums over time of left[k][m] * right[k][n].
// Rows of a tile of weight gradients; time steps times sequences of one pass: the right operands of a
// panel and of the next one stay in the L2 cache.
enum { HEIGHT = 6, BLOCK = 1024 };

// Adds to out (ROWS, width) for one panel; left is [k][HEIGHT]. Each k prefetches `upcoming` + k `step`.
template <int ROWS, int VECTORS>
static void outer_tile(const float* left, const float* __restrict right, long right_stride,
                       long depth, float* out, bool fresh, const float* upcoming, long step) {
  V sum[ROWS][VECTORS];
  const long width = VECTORS * VL;
  UNROLL(8) for (int r = 0; r < ROWS; r++)
    UNROLL(4) for (int v = 0; v < VECTORS; v++) {
      sum[r][v] = (V){};
      __builtin_prefetch(out + (r + HEIGHT) * width + v * VL);
    }
  for (long k = 0; k < depth; k++) {
    V w[VECTORS];
    __builtin_prefetch(upcoming + k * step, 0, 2);
    UNROLL(4) for (int v = 0; v < VECTORS; v++) w[v] = load(right + k * right_stride + v * VL);
    UNROLL(8) for (int r = 0; r < ROWS; r++) {
      V a = all(left[k * HEIGHT + r]);
      UNROLL(4) for (int v = 0; v < VECTORS; v++) sum[r][v] += a * w[v];
    }
  }
  UNROLL(8) for (int r = 0; r < ROWS; r++)
    UNROLL(4) for (int v = 0; v < VECTORS; v++) {
      float* to = out + r * width + v * VL;
      store(to, fresh ? sum[r][v] : load(to) + sum[r][v]);
    }
}

// out (panel of `vectors`, rows from..to of it) += left^T right over `depth` rows. `left` is
// [tile of HEIGHT rows][left_depth][HEIGHT]; `from` and `to` count such tiles, of `total` rows. A tile
// prefetches the next one's left operand, the last ones a vector each of the right one that follows.
static void outer(const float* left, long left_depth, long from, long to, long total,
                  const float* right, long right_stride, long depth, long vectors, float* out,
                  bool fresh) {
  for (long k = 0; k < depth; k += BLOCK) {
    const long block = least(BLOCK, depth - k), width = vectors * VL;
    const float* b = right + k * right_stride;
    const float* following = k + BLOCK < depth ? b + BLOCK * right_stride : right + width;
    for (long i = from; i < to; i++) {
      const float* a = left + (i * left_depth + k) * HEIGHT;
      const long rest = to - 1 - i;
      const float* next = rest < vectors ? following + rest * VL : a + left_depth * HEIGHT;
      const long step = rest < vectors ? right_stride : HEIGHT;
      with_constant<NV>(vectors, [&](auto v) {
        with_constant<HEIGHT>(total - i * HEIGHT, [&](auto height) {
          outer_tile<height.value, v.value>(a, b, right_stride, block, out + i * HEIGHT * width,
                                            fresh && k == 0, next, step);
        });
      });
    }
  }
}

}  // namespace ISA
