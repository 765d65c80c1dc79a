// Products of small matrices by packed ones: the tiles stay in registers over the whole inner sum.
// Sums start from 0, and what they are added to comes last: a saturated gate's bias, or a cotangent
// carried over thousands of steps, is so large that it would swallow their terms one by one.
#pragma once

#include "tiles.h"
#include "vectors.h"

namespace ISA {

enum { NV = TILES.vectors, MR = TILES.rows };

// A matrix (depth, columns), packed panel by panel: [panel][depth][vectors of it][lane]. The last
// panel holds as many vectors as it needs; lanes beyond the columns are 0.
template <int VECTORS> struct Panels {
  enum { WIDTH = VECTORS * VL };
  float* data;
  long depth, columns;

  long panels() const { return (columns + WIDTH - 1) / WIDTH; }
  long vectors(long panel) const { return least(VECTORS, (columns - panel * WIDTH + VL - 1) / VL); }
  float* panel(long p) const { return data + p * WIDTH * depth; }
  static long floats(long depth, long columns) { return depth * rounded(columns, VL); }
};
typedef Panels<NV> Packed;
enum { PANEL = Packed::WIDTH };

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
  // The tiles to come read so many rows of weights.
  void expect(long rows) { rows_ = rows; }
  // Before the tiles of a panel, which read so many rows: the weights that are read after it. What was
  // added comes last, with some rows to spare: so no weights drive it from the cache again.
  void panel(const float* following, long floats, long rows) {
    adding_ = count_ && rows_ < lines_ + lines_ / 4;
    rows_ -= rows;
    weights_ = {following, following + rounded(floats, LINE)};
  }
  // A tile begins with `resume`, calls `following` at the end of a range, and `suspend` with the rest.
  // When all is prefetched, it prefetches the weights `present` in the cache.
  Range resume(const float* present) {
    present_ = present;
    const bool more = adding_ ? now_ < count_ : weights_.next < weights_.end;
    return more ? current() : Range{present, nullptr};
  }
  __attribute__((noinline)) Range following() {
    if (adding_) now_++;
    else weights_.next = weights_.end;
    return resume(present_);
  }
  void suspend(Range range) {
    if (range.end) current() = range;
  }

 private:
  Range& current() { return adding_ ? ranges_[now_] : weights_; }
  Range ranges_[7], weights_ = {};
  int count_ = 0, now_ = 0;
  long lines_ = 0, rows_ = 0;
  bool adding_ = false;
  const float* present_ = nullptr;
};

// Where a product goes: it is added to what is there, or to one row for all, from which sums start.
struct Target {
  float* out;
  long stride;
  const float* initial;  // the row, or null

  Target at(long first_row, long column) const {
    return {out + first_row * stride + column, stride, initial ? initial + column : nullptr};
  }
};

// Sums of MROWS rows and VECTORS vectors: each of `parts` left operands, from row `first` on, by as
// many of the panel's rows as it is deep, one after the other.
template <int MROWS, int VECTORS>
static void tile(const Left* left, int parts, long first, const float* __restrict panel, long width,
                 Target target, Prefetcher& prefetcher) {
  V sum[MROWS][VECTORS];
  Prefetcher::Range range = prefetcher.resume(panel);
  UNROLL(8) for (int r = 0; r < MROWS; r++)
    UNROLL(4) for (int v = 0; v < VECTORS; v++)
      sum[r][v] = target.initial ? load(target.initial + v * VL) : (V){};
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
  UNROLL(8) for (int r = 0; r < MROWS; r++)
    UNROLL(4) for (int v = 0; v < VECTORS; v++) {
      float* to = target.out + r * target.stride + v * VL;
      store(to, target.initial ? sum[r][v] : load(to) + sum[r][v]);
    }
}

// Rows of a tile of so many vectors: fewer vectors leave registers to more rows.
constexpr int height_of(int vectors) {
  const int rows = MR * NV / vectors;
  return rows < 8 ? rows : 8;
}
// How many tiles a panel takes: of nearly equal height, but 8 rows run faster as 8 x 2 than as 4 x 4.
static bool halved(long rows) { return VL == 16 && rows == 8; }
static long tiles_of(long rows, int vectors = NV) {
  const int height = height_of(vectors);
  return halved(rows) && vectors == NV ? 2 : (rows + height - 1) / height;
}

// All rows against one panel.
template <int VECTORS>
static void rows_by_panel(long rows, const Left* left, int parts, const float* panel, Target target,
                          Prefetcher& prefetcher) {
  const long width = VECTORS * VL;
  if (VECTORS == 4 && halved(rows)) {
    tile<8, 2>(left, parts, 0, panel, width, target, prefetcher);
    tile<8, 2>(left, parts, 0, panel + 2 * VL, width, target.at(0, 2 * VL), prefetcher);
    return;
  }
  const long tiles = tiles_of(rows, VECTORS);
  for (long i = 0; i < tiles; i++) {
    const long first = rows * i / tiles;
    with_constant<height_of(VECTORS)>(rows * (i + 1) / tiles - first, [&]([[maybe_unused]] auto height) {
      tile<height.value, VECTORS>(left, parts, first, panel, width, target.at(first, 0), prefetcher);
    });
  }
}

// Columns from .. from + depth of the parts of `left` side by side; the number of parts.
static int slice(const Left* left, int parts, long from, long depth, Left* out) {
  int count = 0;
  for (int part = 0; part < parts; from -= left[part++].depth) {
    const long begin = most(0, from), end = least(left[part].depth, from + depth);
    if (begin < end) out[count++] = {left[part].data + begin, left[part].stride, end - begin};
  }
  return count;
}

enum { PARTS = 2 };  // at most

// out (rows, columns) = initial (columns,), or += where that is null: the parts of `left` side by side
// by the rows of `weights` from `from` on, for the panels begin .. end. `out` and `initial` have room
// for whole vectors. Deep parts are taken about TILES.inner rows of weights at a time.
static void multiply(long rows, const Left* left, int parts, const Packed& weights, long from,
                     long begin, long end, float* out, long out_stride, const float* initial,
                     Prefetcher& prefetcher) {
  long deep = 0;
  for (int part = 0; part < parts; part++) deep += left[part].depth;
  const long passes = deep <= TILES.inner + LINE ? 1 : (deep + TILES.inner - 1) / TILES.inner;
  for (long i = 0; i < passes; i++) {
    const long first = deep * i / passes, depth = deep * (i + 1) / passes - first;
    const Target target = {out, out_stride, i == 0 ? initial : nullptr};
    auto block = [&](long p, long k) { return weights.panel(p) + (from + k) * weights.vectors(p) * VL; };
    Left block_left[PARTS];
    const int block_parts = slice(left, parts, first, depth, block_left);
    for (long p = begin; p < end; p++) {
      const bool last = p + 1 == end;
      const float* next = last ? block(begin, first + depth) : block(p + 1, first);
      const long floats = depth * weights.vectors(last ? begin : p + 1) * VL;
      prefetcher.panel(next, floats, tiles_of(rows, weights.vectors(p)) * depth);
      with_constant<NV>(weights.vectors(p), [&]([[maybe_unused]] auto vectors) {
        rows_by_panel<vectors.value>(rows, block_left, block_parts, block(p, first),
                                     target.at(0, p * PANEL), prefetcher);
      });
    }
  }
}

// The product that forms weight gradients: sums over time of left[k][m] * right[k][n].
enum { HEIGHT = TILES.outer_rows, BLOCK = TILES.outer_inner };
typedef Panels<TILES.outer_vectors> Gradient;  // depth is that of the features

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
  const bool copied = TILES.outer_copied && to - from >= TILES.outer_copied;
  const long width = vectors * VL, stride = copied ? width : right_stride;
  float copy[TILES.outer_copied ? BLOCK * Gradient::WIDTH : 1];
  for (long k = 0; k < depth; k += BLOCK) {
    const long block = least(BLOCK, depth - k);
    const float *source = right + k * right_stride, *b = copied ? copy : source;
    const float* following = k + BLOCK < depth ? source + BLOCK * right_stride : right + width;
    for (long r = 0; copied && r < block; r++)
      for (long i = 0; i < width; i += VL) store(copy + r * width + i, load(source + r * right_stride + i));
    for (long i = from; i < to; i++) {
      const float* a = left + (i * left_depth + k) * HEIGHT;
      const long rest = to - 1 - i;
      const float* next = rest < vectors ? following + rest * VL : a + left_depth * HEIGHT;
      const long step = rest < vectors ? right_stride : (long)HEIGHT;
      with_constant<TILES.outer_vectors>(vectors, [&]([[maybe_unused]] auto v) {
        with_constant<HEIGHT>(total - i * HEIGHT, [&]([[maybe_unused]] auto height) {
          outer_tile<height.value, v.value>(a, b, stride, block, out + i * HEIGHT * width,
                                            fresh && k == 0, next, step);
        });
      });
    }
  }
}

}  // namespace ISA
