// A whole sequence, forward and backward, as each member of a team runs it.
//
// The team divides the work in one of two ways. By sequences: each member takes its rows of the batch
// through all steps, and nobody waits within a step. By columns: each takes a share of the panels of
// every product, which then are read from memory once; there are two barriers a step.
#pragma once

#include "cells.h"
#include "product.h"
#include "thread_pool.h"

namespace ISA {

// Rows of gates are a multiple of a vector apart, and an odd number of cache lines: with an even
// one, the same column of many rows would fall into the same set of the cache.
INLINE long stride_of(const gatecore_layer& l) {
  const long lines = (l.width + VL + LINE - 1) / LINE;
  return (lines + (lines % 2 == 0)) * LINE;
}

// Time steps between two updates of the weights' gradients: what these read was just written, and of
// small layers is still in the L2 cache.
INLINE long chunk_steps(const gatecore_layer& l) {
  const long rows = l.hidden_size >= 512 ? 1024 : l.hidden_size >= 128 ? 256 : 512;
  const long steps = rows / (l.batch > 0 ? l.batch : 1);
  return steps < 1 ? 1 : least(steps, l.time > 0 ? l.time : 1);
}

// Floats of the weights' gradients: columns by rows of [h, 1, x].
INLINE long gradient_floats(const gatecore_layer& l) {
  return rounded(l.width, VL) * rounded(l.hidden_size + 1 + l.input_size, HEIGHT);
}
// Whether each member forms sums of its own, and so waits for nobody: where they fit the cache once
// more, and all have about as many sequences.
INLINE bool own_sums(const gatecore_layer& l) {
  return l.threads > 1 && l.split != 2 && l.batch >= 4 * l.threads &&
         gradient_floats(l) <= 80 * 1024;
}

// Hands out parts of the caller's scratch, each on a cache line.
struct Arena {
  float* next;
  explicit Arena(float* start) : next(start) {
    if (start) next = (float*)(((size_t)start + 63) / 64 * 64);
  }
  float* take(long floats) {
    float* taken = next;
    next += rounded(floats, LINE);
    return taken;
  }
};

// One step of a cell on the rows first .. last of the batch.
typedef void (*CellStep)(const Step&, long first, long last);

struct Sequence {
  const gatecore_layer& l;
  const Member& member;
  const bool by_columns, alone = false;
  const long T = l.time, B = l.batch, IN = l.input_size, H = l.hidden_size, WIDTH = l.width, ROWS = l.rows;
  const long STRIDE = stride_of(l), H_STRIDE = rounded(H, VL);
  // Who forms the weights' gradients of a chunk together, and from which sequences: all members from
  // all, or one alone from its own.
  const Member sharing = alone ? Member{0, 1, nullptr} : member;
  const long group = alone ? member.begin(B) : 0;
  const long group_size = alone ? member.end(B) - group : B;

  // this member's rows of the batch in the products
  long first_row() const { return by_columns ? 0 : member.begin(B); }
  long last_row() const { return by_columns ? B : member.end(B); }
  // and its panels
  long first_panel(const Packed& w) const { return by_columns ? member.begin(w.panels()) : 0; }
  long last_panel(const Packed& w) const { return by_columns ? member.end(w.panels()) : w.panels(); }
  void step_barrier() const { if (by_columns) member.wait(); }

  // ---- forward

  struct ForwardScratch {
    Packed weights;     // (input + hidden, width): the columns' weights of x, then of h
    float* bias;        // (width,)
    float* buffers;     // BUFFERS rows for each member
    ForwardScratch(const gatecore_layer& l, Arena& arena, int members) {
      weights = {nullptr, (long)l.input_size + l.hidden_size, l.width};
      weights.data = arena.take(Packed::floats(weights.depth, weights.columns));
      bias = arena.take(rounded(l.width, VL));
      buffers = arena.take(members * BUFFERS * buffer_floats(l));
    }
  };

  void pack_forward(const gatecore_arguments& a, const ForwardScratch& s) const {
    const Packed& w = s.weights;
    for (long p = member.begin(w.panels()); p < member.end(w.panels()); p++) {
      const long lanes = w.vectors(p) * VL;
      for (long i = 0; i < lanes; i++) {
        const long column = p * PANEL + i;
        s.bias[column] = column < ROWS ? a.bias[l.input_rows[column]]
                       : column < WIDTH ? a.bias_n[column - ROWS] : 0.0f;
      }
      transpose(a.weight_ih, IN, l.input_rows, p * PANEL, w.panel(p), lanes);
      transpose(a.weight_hh, H, l.state_rows, p * PANEL - l.state_offset, w.panel(p) + IN * lanes,
                lanes);
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
  bool has_row(long column) const { return column >= 0 && column < ROWS; }

  void product(const Left* left, int parts, const Packed& w, long from, long begin, long end,
               float* out, const float* initial, Ahead& ahead) const {
    if (begin < end)
      multiply(last_row() - first_row(), left, parts, w, from, begin, end, out, STRIDE, initial,
               ahead);
  }

  // This member's rows of an array (batch, length), or of none.
  void rows_ahead(Ahead& ahead, const float* array, long length) const {
    if (array) ahead.add(array + member.begin(B) * length, (member.end(B) - member.begin(B)) * length);
  }

  void forward(const gatecore_arguments& a, CellStep cell_forward) const {
    Arena arena(a.scratch);
    ForwardScratch s(l, arena, l.threads);
    pack_forward(a, s);
    copy_state(a.initial_hidden, H, a.saved_hidden, H);
    if (a.saved_cell) copy_state(a.initial_cell, H, a.saved_cell, H);
    member.wait();
    const Packed& w = s.weights;
    const long r0 = first_row(), begin = first_panel(w), end = last_panel(w);
    // panels with columns of the state's product, and of the input's
    const long first_state = l.state_offset / PANEL, last_input = (ROWS + PANEL - 1) / PANEL;
    Step step = {};
    step.layer = &l;
    step.stride = STRIDE;
    step.buffers = s.buffers + member.id * BUFFERS * buffer_floats(l);
    for (long t = 0; t < T; t++) {
      place(a, t, step);
      reset(a, t, (float*)step.hidden_before, (float*)step.cell_before);
      step_barrier();
      float* z = step.gates;
      const Left parts[] = {{a.x + (t * B + r0) * IN, IN, IN},
                            {step.hidden_before + r0 * H, H, H}};
      Ahead ahead;
      if (l.saves && t + 1 < T) {
        rows_ahead(ahead, z + B * STRIDE, STRIDE);
        rows_ahead(ahead, step.hidden + B * H, H);
        rows_ahead(ahead, step.cell ? step.cell + B * H : nullptr, H);
        rows_ahead(ahead, step.output + B * H, H);
      }
      ahead.postpone(tiles_of(last_row() - r0) *
                     (IN * most(0, least(end, last_input) - begin) +
                      H * most(0, end - most(begin, first_state))));
      // the GRU's candidate has two panels' worth of columns that only one of the parts reaches
      product(parts, 1, w, 0, begin, least(end, first_state), z + r0 * STRIDE, s.bias, ahead);
      product(parts, 2, w, 0, most(begin, first_state), least(end, last_input), z + r0 * STRIDE,
              s.bias, ahead);
      product(parts + 1, 1, w, IN, most(begin, last_input), end, z + r0 * STRIDE, s.bias, ahead);
      step_barrier();
      clear_padding(z);
      cell_forward(step, member.begin(B), member.end(B));
    }
    const long last = l.saves ? T : T % 2;
    copy_state(a.saved_hidden + last * B * H, H, a.final_hidden, H);
    if (a.saved_cell) copy_state(a.saved_cell + last * B * H, H, a.final_cell, H);
  }

  // What is saved is written to the last float: equal calls leave equal memory.
  void clear_padding(float* gates) const {
    const long written = rounded(WIDTH, VL);
    for (long r = member.begin(B); r < member.end(B); r++)
      __builtin_memset(gates + r * STRIDE + written, 0, (STRIDE - written) * sizeof(float));
  }

  // Where step t stands in memory. Without a backward to come, one step's gates and two states do.
  void place(const gatecore_arguments& a, long t, Step& step) const {
    const long now = l.saves ? t : 0, before = l.saves ? t : t % 2;
    const long after = l.saves ? t + 1 : 1 - before, steps = t * B * H;
    step.gates = a.saved_gates + now * B * STRIDE;
    step.hidden_before = a.saved_hidden + before * B * H;
    step.hidden = a.saved_hidden + after * B * H;
    step.cell_before = a.saved_cell ? a.saved_cell + before * B * H : nullptr;
    step.cell = a.saved_cell ? a.saved_cell + after * B * H : nullptr;
    step.output = a.output_hidden + steps;
    step.output_cell = a.output_cell ? a.output_cell + steps : nullptr;
    step.keep_cell = a.zoneout_mask_cell ? a.zoneout_mask_cell + steps : nullptr;
    step.keep_hidden = a.zoneout_mask_hidden ? a.zoneout_mask_hidden + steps : nullptr;
    step.kept_cell = a.zoneout_cell;
    step.kept_hidden = a.zoneout_hidden;
  }

  // This thread's rows of a state (batch, hidden), `stride` floats from row to row: zeros from null,
  // nothing to null.
  void copy_state(const float* from, long from_stride, float* to, long to_stride) const {
    if (!to) return;
    for (long r = member.begin(B); r < member.end(B); r++)
      for (long j = 0; j < H; j++) to[r * to_stride + j] = from ? from[r * from_stride + j] : 0.0f;
  }

  // Zeroes the rows of this member that are reset before step t.
  void reset(const gatecore_arguments& f, long t, float* a, float* b, long stride = 0) const {
    if (!f.resets) return;
    for (long r = member.begin(B); r < member.end(B); r++) {
      if (!f.resets[t * B + r]) continue;
      const long row = r * (stride ? stride : H);
      __builtin_memset(a + row, 0, H * sizeof(float));
      if (b) __builtin_memset(b + row, 0, H * sizeof(float));
    }
  }

  // ---- backward

  struct BackwardScratch {
    Packed recurrent;   // (rows, hidden): of the state's columns
    Packed inputs;      // (rows, input): of the input's columns, if the cotangent of x is wanted
    float* d_gates;     // (steps of a chunk, batch, stride)
    float *d_hidden, *d_cell;  // (batch, padded hidden)
    float* left;        // [h, 1, x] of a chunk, transposed in tiles: [tile][row][HEIGHT]
    float* gradient;    // the columns' gradients, [panel][hidden + 1 + input][vectors][lane], of
                        // each member that forms its own
    float* d_x;         // for each member, X_ROWS rows of padded x
    float* buffers;
    BackwardScratch(const gatecore_layer& l, Arena& arena, int members, bool wants_x) {
      const long H = l.hidden_size, B = l.batch, rows = chunk_steps(l) * B;
      recurrent = {arena.take(Packed::floats(l.rows, H)), l.rows, H};
      inputs = {nullptr, l.rows, l.input_size};
      if (wants_x) inputs.data = arena.take(Packed::floats(l.rows, l.input_size));
      d_gates = arena.take(rows * stride_of(l));
      d_hidden = arena.take(B * rounded(H, VL));
      d_cell = arena.take(B * rounded(H, VL));
      left = arena.take(rounded(H + 1 + l.input_size, HEIGHT) * rows);
      gradient = arena.take(gradient_floats(l) * (own_sums(l) ? members : 1));
      d_x = wants_x ? arena.take(members * X_ROWS * rounded(l.input_size, VL)) : nullptr;
      buffers = arena.take(members * BUFFERS * buffer_floats(l));
    }
  };
  enum { X_ROWS = 96 };

  long features() const { return H + 1 + IN; }  // rows of the gradient: h, 1 for the bias, x

  static void pack_rows(const Packed& w, const float* source, const int32_t* rows,
                        const Member& member) {
    for (long p = member.begin(w.panels()); p < member.end(w.panels()); p++) {
      const long lanes = w.vectors(p) * VL, columns = least(lanes, w.columns - p * PANEL);
      for (long k = 0; k < w.depth; k++) {
        const float* from = source + rows[k] * w.columns + p * PANEL;
        float* to = w.panel(p) + k * lanes;
        for (long i = 0; i < lanes; i++) to[i] = i < columns ? from[i] : 0.0f;
      }
    }
  }

  void backward(const gatecore_arguments& a, CellStep cell_backward) const {
    Arena arena(a.scratch);
    const BackwardScratch s(l, arena, l.threads, a.d_x);
    pack_rows(s.recurrent, a.weight_hh, l.state_rows, member);
    if (a.d_x) pack_rows(s.inputs, a.weight_ih, l.input_rows, member);
    copy_state(a.d_final_hidden, H, s.d_hidden, H_STRIDE);
    copy_state(a.d_final_cell, H, s.d_cell, H_STRIDE);
    member.wait();
    if (own_sums(l)) {
      // as many groups as threads were asked for: sums do not depend on how many were granted
      for (int id = member.begin(l.threads); id < member.end(l.threads); id++)
        Sequence{l, {id, l.threads, nullptr}, false, true}.through(a, s, cell_backward);
      member.wait();
      add_up(s);
    } else {
      through(a, s, cell_backward);
    }
    copy_state(s.d_hidden, H_STRIDE, a.d_initial_hidden, H);
    copy_state(s.d_cell, H_STRIDE, a.d_initial_cell, H);
    hand_out(a, s);
  }

  // All steps from the last to the first, and with them the columns' gradients and d_x.
  void through(const gatecore_arguments& a, BackwardScratch s, CellStep cell_backward) const {
    const long steps = chunk_steps(l);
    s.d_gates += group * steps * STRIDE;
    s.left += group * steps * rounded(features(), HEIGHT);
    if (alone) s.gradient += member.id * gradient_floats(l);
    for (long last = T; last > 0;) {
      const long first = (last - 1) / steps * steps;
      for (long t = last - 1; t >= first; t--)
        step_back(a, s, t, first, cell_backward);
      sharing.wait();
      accumulate(s, (last - first) * group_size, steps * group_size, last == T);
      if (a.d_x) input_cotangents(a, s, first, last);
      sharing.wait();
      last = first;
    }
  }

  void step_back(const gatecore_arguments& a, const BackwardScratch& s, long t, long first,
                 CellStep cell_backward) const {
    float* d_gates = s.d_gates + ((t - first) * group_size - group) * STRIDE;
    Step step = {};
    place(a, t, step);
    step.layer = &l;
    step.stride = STRIDE;
    step.d_gates = d_gates;
    step.d_hidden = s.d_hidden;
    step.d_cell = s.d_cell;
    step.d_stride = H_STRIDE;
    step.d_output = a.d_output_hidden ? a.d_output_hidden + t * B * H : nullptr;
    step.d_output_cell = a.d_output_cell ? a.d_output_cell + t * B * H : nullptr;
    step.buffers = s.buffers + member.id * BUFFERS * buffer_floats(l);
    Ahead ahead;
    if (t > 0) {
      rows_ahead(ahead, t > first ? d_gates - group_size * STRIDE : nullptr, STRIDE);
      rows_ahead(ahead, step.gates - B * STRIDE, STRIDE);
      rows_ahead(ahead, step.cell ? step.cell_before - B * H : nullptr, H);
      rows_ahead(ahead, step.hidden_before - B * H, H);
      rows_ahead(ahead, a.x + (t - 1) * B * IN, IN);
      rows_ahead(ahead, step.d_output ? step.d_output - B * H : nullptr, H);
      rows_ahead(ahead, step.d_output_cell ? step.d_output_cell - B * H : nullptr, H);
    }
    cell_backward(step, member.begin(B), member.end(B));
    transpose_features(a, s, t, first);
    step_barrier();
    const Packed& w = s.recurrent;
    const long r0 = first_row(), r1 = last_row(), begin = first_panel(w), end = last_panel(w);
    ahead.postpone(tiles_of(r1 - r0) * (end - begin) * ROWS);
    const Left left = {d_gates + r0 * STRIDE + l.state_offset, STRIDE, ROWS};
    multiply(r1 - r0, &left, 1, w, 0, begin, end, s.d_hidden + r0 * H_STRIDE, H_STRIDE, nullptr,
             ahead);
    step_barrier();
    reset(a, t, s.d_hidden, s.d_cell, H_STRIDE);
  }

  // Where row k of the group's rows in a chunk stands in arrays (time, batch).
  long row_of(long first, long k) const {
    return (first + k / group_size) * B + group + k % group_size;
  }

  // [h of the step before, 1, x] of this member's rows at step t, to the features of the chunk from step
  // `first` on, with time and batch as the inner index.
  void transpose_features(const gatecore_arguments& a, const BackwardScratch& s, long t,
                          long first) const {
    const long depth = chunk_steps(l) * group_size, count = features();
    for (long r = member.begin(B); r < member.end(B); r++) {
      const float *h = a.saved_hidden + (t * B + r) * H, *x = a.x + (t * B + r) * IN;
      float* to = s.left + ((t - first) * group_size + r - group) * HEIGHT;
      long m = 0;
      auto tiles = [&](const float* from, long offset, long end) ALWAYS_INLINE {
        for (; m + HEIGHT <= end; m += HEIGHT, to += HEIGHT * depth)
          __builtin_memcpy(to, from + (m - offset), HEIGHT * sizeof(float));
      };
      auto mixed = [&] {
        for (long i = m; i < m + HEIGHT; i++)
          to[i - m] = i < H ? h[i] : i == H ? 1.0f : i < count ? x[i - H - 1] : 0.0f;
        m += HEIGHT;
        to += HEIGHT * depth;
      };
      tiles(h, 0, H);
      while (m <= H) mixed();
      tiles(x, H + 1, count);
      if (m < count) mixed();
    }
  }

  void accumulate(const BackwardScratch& s, long rows, long depth, bool fresh) const {
    const Packed shape = {nullptr, 0, WIDTH};
    const long count = features();
    for (long p = sharing.begin(shape.panels()); p < sharing.end(shape.panels()); p++) {
      const bool input_only = (p + 1) * PANEL <= l.state_offset, state_only = p * PANEL >= ROWS;
      const long from = input_only ? H / HEIGHT : 0;
      const long to = (state_only ? H + 1 + HEIGHT - 1 : count + HEIGHT - 1) / HEIGHT;
      float* out = s.gradient + p * PANEL * rounded(count, HEIGHT);
      outer(s.left, depth, from, to, count, s.d_gates + p * PANEL, STRIDE, rows, shape.vectors(p),
            out, fresh);
    }
  }

  void input_cotangents(const gatecore_arguments& a, const BackwardScratch& s, long first,
                        long last) const {
    static const float zeros[PANEL] = {};
    const long rows = (last - first) * group_size, padded = rounded(IN, VL);
    float* out = s.d_x + member.id * X_ROWS * padded;
    Ahead ahead;
    for (long k = sharing.begin(rows); k < sharing.end(rows); k += X_ROWS) {
      const long count = least(X_ROWS, sharing.end(rows) - k);
      const Left left = {s.d_gates + k * STRIDE, STRIDE, ROWS};
      for (long p = 0; p < s.inputs.panels(); p++)  // one by one: they all start from `zeros`
        multiply(count, &left, 1, s.inputs, 0, p, p + 1, out, padded, zeros - p * PANEL,
                 ahead);
      for (long r = 0; r < count; r++)
        for (long i = 0; i < IN; i++) a.d_x[row_of(first, k + r) * IN + i] = out[r * padded + i];
    }
  }

  // The groups' own sums into the first one's.
  void add_up(const BackwardScratch& s) const {
    const long count = gradient_floats(l);
    for (int other = 1; other < l.threads; other++)
      for (long i = member.begin(count); i < member.end(count); i++)
        s.gradient[i] += s.gradient[other * count + i];
    member.wait();
  }

  // From the columns' gradients to the packed weights' rows.
  void hand_out(const gatecore_arguments& a, const BackwardScratch& s) const {
    const Packed shape = {nullptr, 0, WIDTH};
    for (long p = member.begin(shape.panels()); p < member.end(shape.panels()); p++) {
      const long lanes = shape.vectors(p) * VL, count = least(lanes, WIDTH - p * PANEL);
      float* from = s.gradient + p * PANEL * rounded(features(), HEIGHT);
      if (T == 0 || B == 0) __builtin_memset(from, 0, features() * lanes * sizeof(float));
      for (long i = 0; i < count; i++) {
        const long column = p * PANEL + i;
        float* to = column < ROWS ? a.d_bias + l.input_rows[column] : a.d_bias_n + (column - ROWS);
        *to = from[H * lanes + i];
      }
      untranspose(from, H, l.state_rows, p * PANEL - l.state_offset, a.d_weight_hh, lanes, count);
      untranspose(from + (H + 1) * lanes, IN, l.input_rows, p * PANEL, a.d_weight_ih, lanes, count);
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
