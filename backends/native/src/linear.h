// Layers whose gates do not depend on h (MinGRU). A chunk of time steps stays in the cache from its
// logits, one product, to its outputs. The forward pass saves the state before every CHECKPOINT-th step
// alone; the backward pass computes a chunk's logits and states again. State and cotangent are carried
// from step to step with what their roundings take; a saved state is rounded.
// The work is divided into as many groups as threads were requested, by sequences of the batch or by
// units: no sum depends on how many threads were granted.
#pragma once

#include "linear_scratch.h"

namespace ISA {

struct GroupLayer { gatecore_layer own; };

struct LinearGroup : GroupLayer, Sequence {
  const gatecore_layer& whole;
  const CellSteps& cell;
  const long id, UNIT = first_unit(whole, id), ALL = whole.hidden_size;
  const bool units = by_units(whole);
  const Chunk chunk{whole};
  LinearScratch s;

  LinearGroup(const gatecore_layer& l, const gatecore_arguments& a, const Worker& worker,
              const CellSteps& cell, bool backward, long id)
      : GroupLayer{layer_of(l, id)}, Sequence{own, a, worker, false}, whole(l), cell(cell), id(id),
        s(scratch(l, a, backward, id)) {
    if (units) own.input_rows = s.weights.rows;
  }
  static LinearScratch scratch(const gatecore_layer& l, const gatecore_arguments& a, bool backward,
                               long id) {
    Arena arena(a.scratch);
    return LinearScratch(l, arena, backward, backward && a.d_x, id);
  }

  // The sequences of the group's k-th block.
  long first_sequence(long k) const {
    const long begin = units ? 0 : B * id / l.threads, end = units ? B : B * (id + 1) / l.threads;
    return begin + (end - begin) * k / chunk.blocks;
  }
  long sequences(long k) const { return first_sequence(k + 1) - first_sequence(k); }
  // Where the block's rows of step t begin in an array (time, batch, hidden).
  long place(long k, long t) const { return (t * B + first_sequence(k)) * ALL + UNIT; }

  // ---- weights, which all threads pack and unpack together

  void number_rows() const {
    for (long column = 0; units && column < WIDTH; column++)
      s.weights.rows[column] = whole.input_rows[column / H * ALL + UNIT + column % H];
  }
  void pack() const {
    const Packed& w = s.weights.columns;
    for (long p = worker.begin(w.panels()); p < worker.end(w.panels()); p++) {
      const long lanes = w.vectors(p) * VL, first = p * PANEL;
      for (long column = first; column < first + lanes; column++)
        s.weights.bias[column] = column < WIDTH && a.bias ? a.bias[l.input_rows[column]] : 0.0f;
      transpose(a.weight_ih, IN, l.input_rows, first, w.panel(p), lanes);
    }
    if (s.weights.inputs.data) pack_rows(s.weights.inputs, a.weight_ih, l.input_rows);
  }
  Gradient gradient() const { return {s.arrays.gradient, linear_features(l), WIDTH}; }
  void unpack_gradient() const {
    const Gradient columns = gradient();
    for (long p = worker.begin(columns.panels()); p < worker.end(columns.panels()); p++) {
      const long lanes = columns.vectors(p) * VL, first = p * Gradient::WIDTH;
      const long count = least(lanes, WIDTH - first);
      const float* from = columns.panel(p);
      for (long i = 0; i < count; i++) a.d_bias[l.input_rows[first + i]] = from[IN * lanes + i];
      untranspose(from, IN, l.input_rows, first, a.d_weight_ih, lanes, count);
    }
  }

  // ---- one block over `count` steps from t on

  // The rows of x.
  const float* inputs(long k, long t, long count) const {
    const long n = sequences(k);
    const float* x = a.x + (t * B + first_sequence(k)) * IN;
    if (n == B) return x;
    for (long i = 0; i < count; i++)
      __builtin_memcpy(s.arrays.x + i * n * IN, x + i * B * IN, n * IN * sizeof(float));
    return s.arrays.x;
  }

  void form_logits(const float* x, long rows) const {
    const Packed& w = s.weights.columns;
    const Left left = {x, IN, IN};
    Prefetcher prefetcher;
    multiply(rows, &left, 1, w, 0, 0, w.panels(), s.arrays.logits, STRIDE, s.weights.bias, prefetcher);
  }

  // Step t, the i-th of a chunk, between two of `states`.
  Step step_at(long k, long t, long i, long before, long after) const {
    auto at = [&](auto* array) { return array ? array + place(k, t) : array; };
    const long n = sequences(k), size = chunk.block * ALL;
    Step step = {};
    step.layer = &l;
    step.stride = STRIDE;
    step.hidden_stride = ALL;
    step.last_unit = H;
    step.buffers = s.arrays.buffers;
    step.gates = step.d_gates = s.arrays.logits + i * n * STRIDE;
    step.hidden_before = s.states + before * size;
    step.hidden = s.states + after * size;
    step.rest = s.arrays.rest;
    step.d_stride = H_STRIDE;
    step.zoneout_hidden = {at(a.zoneout_mask_hidden), a.zoneout_hidden};
    return step;
  }

  // Whether any of the block's rows is reset before step t.
  bool resets(long k, long t) const {
    bool any = false;
    for (long r = 0; a.resets && r < sequences(k); r++) any |= a.resets[t * B + first_sequence(k) + r];
    return any;
  }
  // Zeroes the block's rows of an array (sequences, hidden) that are reset before step t.
  void reset_rows(long k, long t, const float* rows, long stride) const {
    for (long r = 0; a.resets && r < sequences(k); r++)
      if (a.resets[t * B + first_sequence(k) + r])
        __builtin_memset((float*)rows + r * stride, 0, H * sizeof(float));
  }
  void reset_state(long k, long t, const float* state) const {
    reset_rows(k, t, state, ALL);
    reset_rows(k, t, s.arrays.rest, H_STRIDE);
  }
  // Rows of the block: zeros from null, nothing to null.
  void copy_rows(long k, const float* from, long from_stride, float* to, long to_stride) const {
    for (long r = 0; to && r < sequences(k); r++)
      for (long j = 0; j < H; j++) to[r * to_stride + j] = from ? from[r * from_stride + j] : 0.0f;
  }
  void clear(float* rows) const { __builtin_memset(rows, 0, chunk.block * H_STRIDE * sizeof(float)); }
  template <class T> T* of_block(T* array, long k) const { return array ? array + place(k, 0) : array; }

  void begin(long k) const {
    copy_rows(k, of_block(a.initial_hidden, k), ALL, s.states, ALL);
    clear(s.arrays.rest);
  }
  // The state before step t: an output, or the initial state.
  const float* state_before(long k, long t) const {
    return t ? a.output_hidden + place(k, t - 1) : s.states;
  }
  void end(long k) const {
    copy_rows(k, state_before(k, T), ALL, of_block(a.final_hidden, k), ALL);
  }
  void forward(long k, long first, long count) const {
    form_logits(inputs(k, first, count), count * sequences(k));
    for (long t = first; t < first + count; t++) {
      Step step = step_at(k, t, t - first, 0, 0);
      step.hidden_before = state_before(k, t);
      step.hidden = a.output_hidden + place(k, t);
      if (l.saves && t % CHECKPOINT == 0)
        copy_rows(k, step.hidden_before, ALL, a.saved_hidden + place(k, t / CHECKPOINT), ALL);
      if (resets(k, t)) {
        copy_rows(k, step.hidden_before, ALL, s.states, ALL);
        step.hidden_before = s.states;
        reset_state(k, t, s.states);
      }
      cell.forward(step, 0, sequences(k));
    }
  }

  void begin_backward(long k) const {
    copy_rows(k, of_block(a.d_final_hidden, k), ALL, s.arrays.d_state, H_STRIDE);
    clear(s.arrays.d_rest);
    if (k == 0)
      __builtin_memset(s.arrays.gradient, 0, rounded(WIDTH, VL) * linear_features(l) * sizeof(float));
  }
  void end_backward(long k) const {
    copy_rows(k, s.arrays.d_state, H_STRIDE, of_block(a.d_initial_hidden, k), ALL);
  }
  void backward(long k, long first, long count) const {
    const long rows = count * sequences(k);
    const float* x = inputs(k, first, count);
    form_logits(x, rows);
    copy_rows(k, a.saved_hidden + place(k, first / CHECKPOINT), ALL, s.states, ALL);
    clear(s.arrays.rest);
    for (long i = 0; i < count; i++) {
      const Step step = step_at(k, first + i, i, i, i + 1);
      reset_state(k, first + i, step.hidden_before);
      cell.forward(step, 0, sequences(k));
    }
    for (long i = count - 1; i >= 0; i--) {
      Step step = step_at(k, first + i, i, i, i + 1);
      if (a.d_output_hidden) step.d_output = a.d_output_hidden + place(k, first + i);
      step.d_hidden = s.arrays.d_state;
      step.rest = s.arrays.d_rest;
      cell.backward(step, 0, sequences(k));
      reset_rows(k, first + i, s.arrays.d_state, H_STRIDE);
      reset_rows(k, first + i, s.arrays.d_rest, H_STRIDE);
    }
    add_gradient(x, rows);
    const Left left = {s.arrays.logits, STRIDE, ROWS};
    if (a.d_x) product(rows, left, s.weights.inputs, s.arrays.d_x, rounded(IN, VL));
  }

  void add_gradient(const float* x, long rows) const {
    const long depth = chunk.rows();
    for (long r = 0; r < rows; r++, x += IN) {
      float* to = s.arrays.features + r * HEIGHT;
      for (long m = 0; m <= IN; m += HEIGHT, to += depth * HEIGHT) {
        if (m + HEIGHT <= IN) __builtin_memcpy(to, x + m, HEIGHT * sizeof(float));
        else for (long i = m; i < m + HEIGHT; i++) to[i - m] = i < IN ? x[i] : i == IN ? 1.0f : 0.0f;
      }
    }
    const Gradient columns = gradient();
    for (long p = 0; p < columns.panels(); p++)
      outer(s.arrays.features, depth, 0, columns.depth / HEIGHT, IN + 1,
            s.arrays.logits + p * Gradient::WIDTH, STRIDE, rows, columns.vectors(p), columns.panel(p),
            false);
  }

  // Rows begin .. end of a chunk of d_x, from the group's part of them: the first part, or one more.
  void emit_d_x(long k, long first, long begin, long end, bool more) const {
    for (long r = begin; r < end; r++) {
      const long n = sequences(k);
      const float* from = s.arrays.d_x + r * rounded(IN, VL);
      float* to = a.d_x + ((first + r / n) * B + first_sequence(k) + r % n) * IN;
      for (long i = 0; i < IN; i++) to[i] = more ? to[i] + from[i] : from[i];
    }
  }
};

// Both passes, as each thread runs them.
struct Linear {
  const gatecore_layer& l;
  const gatecore_arguments& a;
  const Worker& worker;
  const CellSteps cell;
  const bool is_backward;
  const Chunk chunk{l};
  const long T = l.time;
  const bool units = by_units(l);

  template <class F> void each_group(long first, long last, F f) const {
    for (long id = first; id < last; id++) {
      const LinearGroup group(l, a, worker, cell, is_backward, id);
      if (group.H) f(group);
    }
  }
  template <class F> void own_groups(F f) const {
    each_group(worker.begin(l.threads), worker.end(l.threads), f);
  }
  template <class F> void weights(F f) const { each_group(0, units ? l.threads : 1, f); }

  void pack() const {
    if (worker.id == 0) weights([](const LinearGroup& g) { g.number_rows(); });
    worker.wait();
    weights([](const LinearGroup& g) { g.pack(); });
    worker.wait();
  }

  void forward() const {
    pack();
    for (long k = 0; k < chunk.blocks; k++)
      own_groups([&](const LinearGroup& g) {
        g.begin(k);
        for (long t = 0; t < T; t += chunk.steps) g.forward(k, t, least(chunk.steps, T - t));
        g.end(k);
      });
  }

  void backward() const {
    pack();
    for (long k = 0; k < chunk.blocks; k++) {
      own_groups([&](const LinearGroup& g) { g.begin_backward(k); });
      for (long t = (T - 1) / chunk.steps * chunk.steps; t >= 0 && T; t -= chunk.steps) {
        const long count = least(chunk.steps, T - t);
        own_groups([&](const LinearGroup& g) {
          g.backward(k, t, count);
          if (a.d_x && !units) g.emit_d_x(k, t, 0, count * g.sequences(k), false);
        });
        if (a.d_x && units) add_d_x(k, t, count);
      }
      own_groups([&](const LinearGroup& g) { g.end_backward(k); });
    }
    worker.wait();
    if (!units) add_gradients();
    weights([](const LinearGroup& g) { g.unpack_gradient(); });
  }

  // The sum of the groups' parts of d_x.
  void add_d_x(long k, long t, long count) const {
    worker.wait();
    each_group(0, l.threads, [&](const LinearGroup& g) {
      const long rows = count * g.sequences(k);
      g.emit_d_x(k, t, worker.begin(rows), worker.end(rows), g.id > 0);
    });
    worker.wait();
  }

  // The groups' sums into the first one's.
  void add_gradients() const {
    const long count = rounded(l.width, VL) * linear_features(l);
    float* sum = nullptr;
    each_group(0, l.threads, [&](const LinearGroup& g) {
      if (g.id == 0) sum = g.s.arrays.gradient;
      else
        for (long i = worker.begin(count); i < worker.end(count); i++) sum[i] += g.s.arrays.gradient[i];
    });
    worker.wait();
  }
};

}  // namespace ISA
