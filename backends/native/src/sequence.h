// A whole sequence as each thread of a job runs it: forward.h and backward.h.
// The threads divide the work in one of three ways. By sequences: each takes its rows of the batch
// through all steps, and no thread waits within a step. By columns: each takes a share of the panels
// of every product, which then are read from memory once; there are two barriers a step. By units,
// where weights are multiplied as they lie: each takes a share of the units through product and cell;
// there is one barrier a step.
#pragma once

#include "cells.h"
#include "straight.h"
#include "thread_pool.h"

namespace ISA {

// Rows of gates are a multiple of a vector apart, and an odd number of cache lines: with an even
// one, the same column of many rows would fall into the same set of the cache.
INLINE long stride_of(const gatecore_layer& l) {
  const long lines = (l.width + VL + LINE - 1) / LINE;
  return (lines + (lines % 2 == 0)) * LINE;
}

// Whether the layer is so short that nothing pays for packed weights.
INLINE bool is_short(const gatecore_layer& l) {
  const long rows = (long)l.time * l.batch;
  return rows > 0 && rows <= STRAIGHT_ROWS;
}
// Whether a gate is activated row by row, and needs all units.
INLINE bool has_row_gates(const gatecore_layer& l) { return l.activation == CUMAX || l.auxiliary == MASTER; }
// Whether the recurrent products read the weights as they lie.
INLINE bool is_straight(const gatecore_layer& l) { return l.batch <= STRAIGHT_BATCH || is_short(l); }

// Hands out parts of the caller's scratch, each on a cache line; of none, it only counts them.
struct Arena {
  float* const start;
  long used = 0;
  explicit Arena(float* scratch) : start((float*)(((size_t)scratch + 63) / 64 * 64)) {}
  float* allocate(long floats) {
    float* part = start ? start + used : nullptr;
    used += rounded(floats, LINE);
    return part;
  }
};

// One step of a cell on the rows first .. last of the batch.
typedef void (*CellStep)(const Step&, long first, long last);
struct CellSteps { CellStep forward, backward; };

// What the forward and the backward pass share.
struct Sequence {
  const gatecore_layer& l;
  const gatecore_arguments& a;
  const Worker& worker;
  const bool by_columns;  // or by units
  const bool split_units = by_columns && is_straight(l) && !has_row_gates(l);
  const long T = l.time, B = l.batch, IN = l.input_size, H = l.hidden_size;
  const long WIDTH = l.width, ROWS = l.rows, STRIDE = stride_of(l), H_STRIDE = rounded(H, VL);

  // this thread's rows of the batch
  long row_begin() const { return worker.begin(B); }
  long row_end() const { return worker.end(B); }
  // and in the cells, where its units are these
  long cell_row_begin() const { return split_units ? 0 : row_begin(); }
  long cell_row_end() const { return split_units ? B : row_end(); }
  long unit_begin() const { return split_units ? share(H, 0) : 0; }
  long unit_end() const { return split_units ? share(H, 1) : H; }
  // and in the products, where its panels are these
  long first_row() const { return by_columns ? 0 : row_begin(); }
  long last_row() const { return by_columns ? B : row_end(); }
  long first_panel(const Packed& w) const { return by_columns ? worker.begin(w.panels()) : 0; }
  long last_panel(const Packed& w) const { return by_columns ? worker.end(w.panels()) : w.panels(); }
  void step_barrier() const { if (by_columns) worker.wait(); }
  // Where this worker's share of so many columns begins, or the next one's.
  long share(long columns, int next) const {
    const long blocks = (columns + LINE - 1) / LINE;
    return least(columns, blocks * (worker.id + next) / worker.size * LINE);
  }

  // Weights as they lie, and this thread's columns in products by them
  long column_begin(long columns) const { return by_columns ? share(columns, 0) : 0; }
  long column_end(long columns) const { return by_columns ? share(columns, 1) : columns; }
  Rows input_weights() const { return {a.weight_ih, ROWS, IN, l.input_rows}; }
  Rows state_weights() const { return {a.weight_hh, ROWS, H, l.state_rows}; }

  bool has_row(long column) const { return column >= 0 && column < ROWS; }

  // Prefetches this thread's rows of an array (batch, length), or of none.
  void prefetch_rows(Prefetcher& prefetcher, const float* array, long length) const {
    if (array) prefetcher.add(array + row_begin() * length, (row_end() - row_begin()) * length);
  }

  // The arrays of step t. Without a backward pass to come, there are one step's gates and two states.
  Step step_at(long t, float* buffers) const {
    const long now = l.saves ? t : 0, before = l.saves ? t : t % 2;
    const long after = l.saves ? t + 1 : 1 - before, steps = t * B * H;
    auto at = [](auto* array, long offset) { return array ? array + offset : array; };
    Step step = {};
    step.layer = &l;
    step.stride = STRIDE;
    step.hidden_stride = H;
    step.first_unit = unit_begin();
    step.last_unit = unit_end();
    step.buffers = buffers + worker.id * BUFFERS * buffer_floats(l);
    step.gates = a.saved_gates + now * B * STRIDE;
    step.hidden_before = a.saved_hidden + before * B * H;
    step.hidden = a.saved_hidden + after * B * H;
    step.cell_before = at(a.saved_cell, before * B * H);
    step.cell = at(a.saved_cell, after * B * H);
    step.output = at(a.output_hidden, steps);
    step.output_cell = at(a.output_cell, steps);
    step.zoneout_hidden = {at(a.zoneout_mask_hidden, steps), a.zoneout_hidden};
    step.zoneout_cell = {at(a.zoneout_mask_cell, steps), a.zoneout_cell};
    step.d_output = at(a.d_output_hidden, steps);
    step.d_output_cell = at(a.d_output_cell, steps);
    return step;
  }

  // This thread's part of a state (batch, hidden) by strides of rows: zeros from null, nothing to null.
  void copy_state(const float* from, long from_stride, float* to, long to_stride) const {
    if (!to) return;
    for (long r = cell_row_begin(); r < cell_row_end(); r++)
      for (long j = unit_begin(); j < unit_end(); j++) to[r * to_stride + j] = from ? from[r * from_stride + j] : 0.0f;
  }

  // Zeroes this thread's part of the states, or of their cotangents, that are reset before step t.
  void reset(long t, float* hidden, float* cell, long stride) const {
    if (!a.resets) return;
    const long first = unit_begin(), bytes = (unit_end() - first) * sizeof(float);
    for (long r = cell_row_begin(); r < cell_row_end(); r++) {
      if (!a.resets[t * B + r]) continue;
      __builtin_memset(hidden + r * stride + first, 0, bytes);
      if (cell) __builtin_memset(cell + r * stride + first, 0, bytes);
    }
  }

  // out (rows, padded columns) = left by all of `weights`
  static void product(long rows, const Left& left, const Packed& weights, float* out, long out_stride) {
    static const float zeros[PANEL] = {};
    Prefetcher prefetcher;
    for (long p = 0; p < weights.panels(); p++)  // one by one: they all start from `zeros`
      multiply(rows, &left, 1, weights, 0, p, p + 1, out, out_stride, zeros - p * PANEL, prefetcher);
  }

  // Weights' rows of the columns of w, panel by panel.
  void pack_rows(const Packed& w, const float* source, const int32_t* rows) const {
    for (long p = worker.begin(w.panels()); p < worker.end(w.panels()); p++) {
      const long lanes = w.vectors(p) * VL, columns = least(lanes, w.columns - p * PANEL);
      for (long k = 0; k < w.depth; k++) {
        const float* from = source + rows[k] * w.columns + p * PANEL;
        float* to = w.panel(p) + k * lanes;
        for (long i = 0; i < lanes; i++) to[i] = i < columns ? from[i] : 0.0f;
      }
    }
  }

  // to[k][i] = from[rows[first + i]][k] where there is such a row, else 0
  void transpose(const float* from, long depth, const int32_t* rows, long first, float* to,
                 long lanes) const {
    for (long k = 0; k < depth; k += VL)
      for (long i = 0; i < lanes; i += VL) {
        const int count = (int)least(VL, depth - k);
        V block[VL] = {};
        for (long j = 0; j < VL; j++)
          if (has_row(first + i + j)) block[j] = load(from + rows[first + i + j] * depth + k, count);
        transpose_block(block);
        for (long j = 0; j < count; j++) store(to + (k + j) * lanes + i, block[j]);
      }
  }

  // to[rows[first + i]][k] = from[k][i] for the first `used` of the lanes, where there is such a row
  void untranspose(const float* from, long depth, const int32_t* rows, long first, float* to,
                   long lanes, long used) const {
    for (long k = 0; k < depth; k += VL)
      for (long i = 0; i < lanes; i += VL) {
        const int count = (int)least(VL, depth - k);
        V block[VL] = {};
        for (long j = 0; j < count; j++) block[j] = load(from + (k + j) * lanes + i);
        transpose_block(block);
        for (long j = 0; j < VL && i + j < used; j++)
          if (has_row(first + i + j)) store(to + rows[first + i + j] * depth + k, block[j], count);
      }
  }
};

}  // namespace ISA
