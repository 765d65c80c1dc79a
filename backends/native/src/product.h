// Products of small matrices by packed ones: the tiles stay in registers over the whole inner sum.
//
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
  long vectors(long panel) const {
    return least(NV, (columns - panel * PANEL + VL - 1) / VL);
  }
  float* panel(long p) const { return data + p * PANEL * depth; }
  static long floats(long depth, long columns) { return depth * rounded(columns, VL); }
};

// A left operand (rows, depth), `stride` floats from row to row.
struct Left {
  const float* data;
  long stride, depth;
};

// Memory that is asked for while products are computed, a line for each row of weights: the weights
// that follow, and what the next step touches, which has long left the caches. A burst of such
// requests at any other time would have to be waited for.
class Ahead {
 public:
  struct Run { const float *next, *end; };
  void add(const float* start, long floats) {
    if (!start || floats <= 0) return;
    lines_ += rounded(floats, LINE) / LINE;
    runs_[count_++] = {start, start + rounded(floats, LINE)};
  }
  // With so many rows of weights to come, the first of them ask for weights: what is added is asked
  // for by the last ones, with some to spare, and no weights drive it from the cache again.
  void postpone(long rows) { waiting_ = count_ ? most(0, rows - lines_ - lines_ / 4) : 0; }
  // A tile goes on with `begin`, takes what is `following` when a run is at its end, and hands back
  // at the last what it has not asked for.
  Run begin(const float* weights) {
    weights_ = weights;
    if (waiting_) return {weights, weights + waiting_ * LINE};
    return now_ < count_ ? runs_[now_] : Run{weights, nullptr};
  }
  __attribute__((noinline)) Run following() {
    if (waiting_) waiting_ = 0;
    else now_++;
    return begin(weights_);
  }
  void hand_back(Run run) {
    if (waiting_) waiting_ = (run.end - run.next) / LINE;
    else if (now_ < count_) runs_[now_] = run;
  }

 private:
  Run runs_[7];
  int count_ = 0, now_ = 0;
  long lines_ = 0, waiting_ = 0;
  const float* weights_ = nullptr;
};

// Sums of MROWS rows and VECTORS vectors: each of `parts` left operands, from row `first` on, by as
// many of the panel's rows as it is deep, one after the other.
template <int MROWS, int VECTORS>
static void tile(const Left* left, int parts, long first, const float* __restrict panel, long width,
                 float* out, long out_stride, const float* initial, const float* upcoming,
                 Ahead& ahead) {
  V sum[MROWS][VECTORS];
  Ahead::Run run = ahead.begin(upcoming);
  V start[VECTORS] = {};
  if (initial)
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; v++) start[v] = load(initial + v * VL);
#pragma GCC unroll 8
  for (int r = 0; r < MROWS; r++)
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; v++) sum[r][v] = start[v];
  for (int part = 0; part < parts; part++) {
    const long stride = left[part].stride, depth = left[part].depth;
    const float* a = left[part].data + first * stride;
    for (long k = 0; k < depth; k++) {
      V w[VECTORS];
      __builtin_prefetch(run.next, 0, 2);  // not into the first cache, which the tile fills
      run.next += LINE;
      if (__builtin_expect(run.next == run.end, 0)) run = ahead.following();
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; v++) w[v] = load(panel + v * VL);
      panel += width;
#pragma GCC unroll 8
      for (int r = 0; r < MROWS; r++) {
        V x = all(a[r * stride + k]);
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) sum[r][v] += x * w[v];
      }
    }
  }
  ahead.hand_back(run);
#pragma GCC unroll 8
  for (int r = 0; r < MROWS; r++) {
    float* to = out + r * out_stride;
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; v++)
      store(to + v * VL, initial ? sum[r][v] : load(to + v * VL) + sum[r][v]);
  }
}

// How many tiles a panel takes: of nearly equal height, but 8 rows run faster as 8 x 2 than as 4 x 4.
static bool halved(long rows) { return VL == 16 && rows == 8; }
static long tiles_of(long rows) { return halved(rows) ? 2 : (rows + MR - 1) / MR; }

// All rows against one panel; `depth` is that of all parts.
template <int VECTORS>
static void rows_by_panel(long rows, const Left* left, int parts, long depth, const float* panel,
                          float* out, long out_stride, const float* initial,
                          const float* upcoming, Ahead& ahead) {
  const long width = VECTORS * VL;
  if (VECTORS == 4 && halved(rows)) {
    tile<8, 2>(left, parts, 0, panel, width, out, out_stride, initial, upcoming, ahead);
    tile<8, 2>(left, parts, 0, panel + 2 * VL, width, out + 2 * VL, out_stride,
               initial ? initial + 2 * VL : initial, upcoming + depth * LINE, ahead);
    return;
  }
  const long tiles = tiles_of(rows);
  for (long i = 0; i < tiles; i++) {
    const long first = rows * i / tiles;
    float* c = out + first * out_stride;
    const float* next = upcoming + i * depth * LINE;
    switch (rows * (i + 1) / tiles - first) {
#define CASE(m)                                                                               \
  case m:                                                                                     \
    tile<m, VECTORS>(left, parts, first, panel, width, c, out_stride, initial, next, ahead); \
    break;
      CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
      default:
        tile<MR, VECTORS>(left, parts, first, panel, width, c, out_stride, initial, next, ahead);
#undef CASE
    }
  }
}

// One pass: all parts by the rows of `weights` from `from` on, for the panels begin .. end.
static void pass(long rows, const Left* left, int parts, const Packed& weights, long from,
                 long begin, long end, float* out, long out_stride, const float* initial,
                 Ahead& ahead) {
  long depth = 0;
  for (int part = 0; part < parts; part++) depth += left[part].depth;
  for (long p = begin; p < end; p++) {
    const long vectors = weights.vectors(p);
    const float* panel = weights.panel(p) + from * vectors * VL;
    // what is read after this panel: the next one, or the first one's next rows
    const float* upcoming = p + 1 < end
                                ? weights.panel(p + 1) + from * weights.vectors(p + 1) * VL
                                : weights.panel(begin) + (from + depth) * PANEL;
    float* c = out + p * PANEL;
    const float* start = initial ? initial + p * PANEL : nullptr;
    switch (vectors) {
#define CASE(n)                                                                                \
  case n:                                                                                      \
    rows_by_panel<n>(rows, left, parts, depth, panel, c, out_stride, start, upcoming, ahead); \
    break;
      CASE(1) CASE(2)
#if VL == 16
      CASE(3) CASE(4)
#endif
#undef CASE
    }
  }
}

// out (rows, columns) = initial (columns,), or += where that is null: the parts of `left` side by side
// by the rows of `weights` from `from` on, for the panels begin .. end. `out` and `initial` have room
// for whole vectors. Deep parts are taken INNER rows of weights at a time.
static void multiply(long rows, const Left* left, int parts, const Packed& weights, long from,
                     long begin, long end, float* out, long out_stride, const float* initial,
                     Ahead& ahead) {
  long depth = 0;
  for (int part = 0; part < parts; part++) depth += left[part].depth;
  if (depth <= INNER + LINE)
    return pass(rows, left, parts, weights, from, begin, end, out, out_stride, initial, ahead);
  for (int part = 0; part < parts; part++)
    for (long k = 0; k < left[part].depth; k += INNER) {
      const Left block = {left[part].data + k, left[part].stride,
                          least(INNER, left[part].depth - k)};
      pass(rows, &block, 1, weights, from, begin, end, out, out_stride, initial, ahead);
      from += block.depth;
      initial = nullptr;
    }
}

// The product that forms weight gradients: sums over time of left[k][m] * right[k][n].

enum { HEIGHT = 6 };    // rows of a tile of weight gradients
enum { BLOCK = 1024 };  // time steps times sequences of one pass: the right operand of a panel, and
                        // the next one's, stay in the L2 cache

// Adds to out (ROWS, width) for one panel; left is [k][HEIGHT]. With each k, what stands `step` times k
// from `upcoming` is asked for.
template <int ROWS, int VECTORS>
static void outer_tile(const float* left, const float* __restrict right, long right_stride,
                       long depth, float* out, bool fresh, const float* upcoming, long step) {
  V sum[ROWS][VECTORS];
  const long width = VECTORS * VL;
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; v++) {
      sum[r][v] = (V){};
      __builtin_prefetch(out + (r + HEIGHT) * width + v * VL);
    }
  for (long k = 0; k < depth; k++) {
    V w[VECTORS];
    __builtin_prefetch(upcoming + k * step, 0, 2);
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; v++) w[v] = load(right + k * right_stride + v * VL);
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++) {
      V a = all(left[k * HEIGHT + r]);
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; v++) sum[r][v] += a * w[v];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; v++) {
      float* to = out + r * width + v * VL;
      store(to, fresh ? sum[r][v] : load(to) + sum[r][v]);
    }
}

// out (panel of `vectors`, rows from..to of it) += left^T right over `depth` rows. `left` is
// [tile of HEIGHT rows][left_depth][HEIGHT]; `from` and `to` count such tiles, of `total` rows. A tile
// asks for the next one's left operand, the last ones for a vector each of the right one that follows.
template <int VECTORS>
static void outer_panel(const float* left, long left_depth, long from, long to, long total,
                        const float* right, long right_stride, long depth, float* out, bool fresh) {
  for (long k = 0; k < depth; k += BLOCK) {
    const long block = least(BLOCK, depth - k);
    const float* b = right + k * right_stride;
    const float* following = k + BLOCK < depth ? b + BLOCK * right_stride : right + VECTORS * VL;
    for (long i = from; i < to; i++) {
      const float* a = left + (i * left_depth + k) * HEIGHT;
      const long rest = to - 1 - i;
      const float* next = rest < VECTORS ? following + rest * VL : a + left_depth * HEIGHT;
      const long step = rest < VECTORS ? right_stride : HEIGHT;
      float* c = out + i * HEIGHT * VECTORS * VL;
      const bool start = fresh && k == 0;
      switch (least(HEIGHT, total - i * HEIGHT)) {
#define CASE(m) \
  case m: outer_tile<m, VECTORS>(a, b, right_stride, block, c, start, next, step); break;
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
#undef CASE
      }
    }
  }
}

static void outer(const float* left, long left_depth, long from, long to, long total,
                  const float* right, long right_stride, long depth, long vectors, float* out,
                  bool fresh) {
  switch (vectors) {
#define CASE(n)                                                                                 \
  case n:                                                                                       \
    outer_panel<n>(left, left_depth, from, to, total, right, right_stride, depth, out, fresh); \
    break;
    CASE(1) CASE(2)
#if VL == 16
    CASE(3) CASE(4)
#endif
#undef CASE
  }
}

}  // namespace ISA
