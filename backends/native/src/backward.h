// The backward pass. It forms the weights' gradients chunk by chunk of time steps: what these read was
// just written, and of small layers is still in the L2 cache.
#pragma once

#include "sequence.h"

namespace ISA {

INLINE long chunk_steps(const gatecore_layer& l) {
  const long rows = l.hidden_size >= 512 ? 1024 : l.hidden_size >= 128 ? 256 : 512;
  return most(1, least(rows / most(1, l.batch), l.time));
}

// Features of the weights' gradients are h, 1 for the bias, and x; their floats: columns by features.
INLINE long features_of(const gatecore_layer& l) { return l.hidden_size + 1 + l.input_size; }
INLINE long gradient_floats(const gatecore_layer& l) {
  return rounded(l.width, VL) * rounded(features_of(l), HEIGHT);
}
// Whether each thread sums the gradients over its own sequences, and so waits for no other: where the
// sums fit the cache once more, and all threads have about as many sequences.
INLINE bool separate_sums(const gatecore_layer& l) {
  return !is_short(l) && l.threads > 1 && l.split != 2 && l.batch >= 4 * l.threads && gradient_floats(l) <= 80 * 1024;
}

enum { X_ROWS = 96 };

// Straight products have no packed weights, and a short layer no features and no columns' gradients.
struct BackwardScratch {
  Packed recurrent;   // (rows, hidden): of the state's columns
  Packed inputs;      // (rows, input): of the input's columns, if there is d_x
  float* d_gates;     // (steps of a chunk, batch, stride)
  float *d_hidden, *d_cell;  // (batch, padded hidden)
  float* sums;        // the same, of straight products
  float* features;    // of a chunk, transposed in tiles: [tile][row][HEIGHT]
  float* gradient;    // the columns', [panel][feature][vectors][lane], for each thread that sums alone
  float* d_x;         // for each thread, X_ROWS rows of padded x
  float* buffers;
  BackwardScratch(const gatecore_layer& l, Arena& arena, bool wants_x) {
    const long H = l.hidden_size, B = l.batch, rows = chunk_steps(l) * B;
    recurrent = {nullptr, l.rows, H};
    if (!is_straight(l)) recurrent.data = arena.allocate(Packed::floats(l.rows, H));
    inputs = {nullptr, l.rows, l.input_size};
    if (wants_x && !is_short(l)) inputs.data = arena.allocate(Packed::floats(l.rows, l.input_size));
    d_gates = arena.allocate(rows * stride_of(l));
    d_hidden = arena.allocate(B * rounded(H, VL));
    d_cell = arena.allocate(B * rounded(H, VL));
    sums = arena.allocate(B * rounded(H, VL));
    buffers = arena.allocate(l.threads * BUFFERS * buffer_floats(l));
    features = gradient = d_x = nullptr;
    if (is_short(l)) return;
    features = arena.allocate(rounded(features_of(l), HEIGHT) * rows);
    gradient = arena.allocate(gradient_floats(l) * (separate_sums(l) ? l.threads : 1));
    if (wants_x) d_x = arena.allocate(l.threads * X_ROWS * rounded(l.input_size, VL));
  }
};

struct Backward : Sequence {
  const bool separate = false;  // whether this thread sums over its own sequences
  const bool straight = is_straight(l), in_short = is_short(l);
  const long FEATURES = features_of(l), CHUNK = chunk_steps(l);
  // the threads that form a chunk's gradients together, and the sequences that they sum over
  const Worker sharing = separate ? Worker{0, 1, nullptr} : worker;
  const long first_sequence = separate ? row_begin() : 0;
  const long sequences = separate ? row_end() - first_sequence : B;

  void run(CellStep cell_backward) const {
    Arena arena(a.scratch);
    const BackwardScratch s(l, arena, a.d_x);
    if (!straight) pack_rows(s.recurrent, a.weight_hh, l.state_rows);
    if (s.inputs.data) pack_rows(s.inputs, a.weight_ih, l.input_rows);
    copy_state(a.d_final_hidden, H, s.d_hidden, H_STRIDE);
    copy_state(a.d_final_cell, H, s.d_cell, H_STRIDE);
    worker.wait();
    if (separate_sums(l)) {
      // one group for each requested thread: sums do not depend on how many were granted
      for (int id = worker.begin(l.threads); id < worker.end(l.threads); id++)
        Backward{{l, a, {id, l.threads, nullptr}, false}, true}.steps(s, cell_backward);
      worker.wait();
      if (!a.d_logits) add_up(s);
    } else {
      steps(s, cell_backward);
    }
    copy_state(s.d_hidden, H_STRIDE, a.d_initial_hidden, H);
    copy_state(s.d_cell, H_STRIDE, a.d_initial_cell, H);
    if (!a.d_logits && !in_short) unpack_gradients(s);
  }

  // All steps from the last to the first, and with them the columns' gradients and d_x.
  void steps(BackwardScratch s, CellStep cell_backward) const {
    s.d_gates += first_sequence * CHUNK * STRIDE;
    s.features += first_sequence * CHUNK * rounded(FEATURES, HEIGHT);
    if (separate) s.gradient += worker.id * gradient_floats(l);
    for (long last = T; last > 0;) {
      const long first = (last - 1) / CHUNK * CHUNK;
      for (long t = last - 1; t >= first; t--) step(s, t, first, cell_backward);
      sharing.wait();
      if (a.d_logits) emit_logits(s, first, last);
      else if (in_short) form_gradients(s);
      else accumulate(s, (last - first) * sequences, last == T);
      if (a.d_x && in_short) straight_input_cotangents(s);
      else if (a.d_x) input_cotangents(s, first, last);
      sharing.wait();
      last = first;
    }
  }

  void step(const BackwardScratch& s, long t, long first, CellStep cell_backward) const {
    float* d_gates = s.d_gates + ((t - first) * sequences - first_sequence) * STRIDE;
    Step step = step_at(t, s.buffers);
    step.d_gates = d_gates;
    step.d_hidden = s.d_hidden;
    step.d_cell = s.d_cell;
    step.d_stride = H_STRIDE;
    Prefetcher prefetcher;
    if (t > 0) {
      prefetch_rows(prefetcher, t > first ? d_gates - sequences * STRIDE : nullptr, STRIDE);
      prefetch_rows(prefetcher, step.gates - B * STRIDE, STRIDE);
      prefetch_rows(prefetcher, step.cell ? step.cell_before - B * H : nullptr, H);
      prefetch_rows(prefetcher, step.hidden_before - B * H, H);
      prefetch_rows(prefetcher, a.x + (t - 1) * B * IN, IN);
      prefetch_rows(prefetcher, step.d_output ? step.d_output - B * H : nullptr, H);
      prefetch_rows(prefetcher, step.d_output_cell ? step.d_output_cell - B * H : nullptr, H);
    }
    cell_backward(step, cell_row_begin(), cell_row_end());
    if (!a.d_logits && !in_short) gather_features(s, t, first);
    step_barrier();
    if (straight) add_straight_product(s, t, d_gates);
    else add_product(s, d_gates, prefetcher);
    if (!split_units) step_barrier();
    reset(t, s.d_hidden, s.d_cell, H_STRIDE);
  }

  // The cotangents of h by those of the logits, to what is there.
  void add_product(const BackwardScratch& s, const float* d_gates, Prefetcher& prefetcher) const {
    const Packed& w = s.recurrent;
    const long r0 = first_row(), rows = last_row() - r0, begin = first_panel(w), end = last_panel(w);
    prefetcher.expect(tiles_of(rows) * (end - begin) * ROWS);
    const Left left = {d_gates + r0 * STRIDE + l.state_offset, STRIDE, ROWS};
    multiply(rows, &left, 1, w, 0, begin, end, s.d_hidden + r0 * H_STRIDE, H_STRIDE, nullptr,
             prefetcher);
  }
  void add_straight_product(const BackwardScratch& s, long t, const float* d_gates) const {
    const long r0 = split_units ? 0 : first_row(), rows = split_units ? B : last_row() - r0;
    const long first = column_begin(H), count = column_end(H) - first;
    const Left left = {d_gates + r0 * STRIDE + l.state_offset, STRIDE, ROWS};
    float *sums = s.sums + r0 * H_STRIDE + first, *to = s.d_hidden + r0 * H_STRIDE + first;
    for (long r = 0; r < rows; r++) __builtin_memset(sums + r * H_STRIDE, 0, count * sizeof(float));
    // every other step begins with the weights that were read last: they may be in the cache
    add_weighted_rows(rows, left, state_weights(), first, sums, H_STRIDE, count, t % 2);
    for (long r = 0; r < rows; r++)
      for (long j = 0; j < count; j++) to[r * H_STRIDE + j] += sums[r * H_STRIDE + j];
  }

  // The features of this thread's rows at step t, [h of the step before, 1, x], to those of the chunk
  // from step `first` on, with time and batch as the inner index.
  void gather_features(const BackwardScratch& s, long t, long first) const {
    const long depth = CHUNK * sequences;
    for (long r = row_begin(); r < row_end(); r++) {
      const float *h = a.saved_hidden + (t * B + r) * H, *x = a.x + (t * B + r) * IN;
      float* to = s.features + ((t - first) * sequences + r - first_sequence) * HEIGHT;
      long m = 0;
      auto tiles = [&](const float* from, long offset, long end) ALWAYS_INLINE {
        for (; m + HEIGHT <= end; m += HEIGHT, to += HEIGHT * depth)
          __builtin_memcpy(to, from + (m - offset), HEIGHT * sizeof(float));
      };
      auto mixed = [&] {
        for (long i = m; i < m + HEIGHT; i++)
          to[i - m] = i < H ? h[i] : i == H ? 1.0f : i < FEATURES ? x[i - H - 1] : 0.0f;
        m += HEIGHT;
        to += HEIGHT * depth;
      };
      tiles(h, 0, H);
      while (m <= H) mixed();
      tiles(x, H + 1, FEATURES);
      if (m < FEATURES) mixed();
    }
  }

  Gradient gradient_of(const BackwardScratch& s) const {
    return {s.gradient, rounded(FEATURES, HEIGHT), WIDTH};
  }

  void accumulate(const BackwardScratch& s, long rows, bool fresh) const {
    const Gradient columns = gradient_of(s);
    for (long p = sharing.begin(columns.panels()); p < sharing.end(columns.panels()); p++) {
      const long column = p * Gradient::WIDTH;
      const bool input_only = column + Gradient::WIDTH <= l.state_offset, state_only = column >= ROWS;
      const long from = input_only ? H / HEIGHT : 0;
      const long to = ((state_only ? H + 1 : FEATURES) + HEIGHT - 1) / HEIGHT;
      outer(s.features, CHUNK * sequences, from, to, FEATURES, s.d_gates + column, STRIDE, rows,
            columns.vectors(p), columns.panel(p), fresh);
    }
  }

  // Gradients of a short layer's parameters, where the caller wants them.
  void form_gradients(const BackwardScratch& s) const {
    const long begin = share(WIDTH, 0), end = share(WIDTH, 1), depth = T * B, offset = l.state_offset;
    form_rows(depth, s.d_gates, STRIDE, a.x, input_weights(), a.d_weight_ih, begin, least(end, ROWS));
    form_rows(depth, s.d_gates, STRIDE, a.saved_hidden, state_weights().from(offset), a.d_weight_hh,
              most(begin, offset), end);
    for (long column = begin; column < end; column++) {
      float sum = 0.0f;
      for (long k = 0; k < depth; k++) sum += s.d_gates[k * STRIDE + column];
      (column < ROWS ? a.d_bias[l.input_rows[column]] : a.d_bias_n[column - ROWS]) = sum;
    }
  }

  void straight_input_cotangents(const BackwardScratch& s) const {
    const long first = share(IN, 0), count = share(IN, 1) - first, depth = T * B;
    float* to = a.d_x + first;
    for (long r = 0; r < depth; r++) __builtin_memset(to + r * IN, 0, count * sizeof(float));
    add_weighted_rows(depth, {s.d_gates, STRIDE, ROWS}, input_weights(), first, to, IN, count, false);
  }

  void input_cotangents(const BackwardScratch& s, long first, long last) const {
    const long rows = (last - first) * sequences, padded = rounded(IN, VL);
    float* out = s.d_x + worker.id * X_ROWS * padded;
    for (long k = sharing.begin(rows); k < sharing.end(rows); k += X_ROWS) {
      const long count = least(X_ROWS, sharing.end(rows) - k);
      const Left left = {s.d_gates + k * STRIDE, STRIDE, ROWS};
      product(count, left, s.inputs, out, padded);
      for (long r = 0; r < count; r++) {
        float* to = a.d_x + row_of(first, k + r) * IN;
        for (long i = 0; i < IN; i++) to[i] = out[r * padded + i];
      }
    }
  }

  // The row of an array (time, batch, ...) that row k of the chunk from step `first` on belongs to.
  long row_of(long first, long k) const {
    return (first + k / sequences) * B + first_sequence + k % sequences;
  }

  // The columns in the order of the packed weights' rows, then those of the state alone.
  void emit_logits(const BackwardScratch& s, long first, long last) const {
    const long rows = (last - first) * sequences;
    for (long k = sharing.begin(rows); k < sharing.end(rows); k++) {
      const float* from = s.d_gates + k * STRIDE;
      float* to = a.d_logits + row_of(first, k) * WIDTH;
      for (long i = 0; i < WIDTH; i++) to[i < ROWS ? l.input_rows[i] : i] = from[i];
    }
  }

  // The threads' own sums into the first one's.
  void add_up(const BackwardScratch& s) const {
    const long count = gradient_floats(l);
    for (int other = 1; other < l.threads; other++)
      for (long i = worker.begin(count); i < worker.end(count); i++)
        s.gradient[i] += s.gradient[other * count + i];
    worker.wait();
  }

  // From the columns' gradients to the packed weights' rows.
  void unpack_gradients(const BackwardScratch& s) const {
    const Gradient columns = gradient_of(s);
    for (long p = worker.begin(columns.panels()); p < worker.end(columns.panels()); p++) {
      const long lanes = columns.vectors(p) * VL, first = p * Gradient::WIDTH;
      const long count = least(lanes, WIDTH - first);
      float* from = columns.panel(p);
      if (T == 0 || B == 0) __builtin_memset(from, 0, FEATURES * lanes * sizeof(float));
      for (long i = 0; i < count; i++) {
        float* to = first + i < ROWS ? a.d_bias + l.input_rows[first + i]
                                     : a.d_bias_n + (first + i - ROWS);
        *to = from[H * lanes + i];
      }
      untranspose(from, H, l.state_rows, first - l.state_offset, a.d_weight_hh, lanes, count);
      untranspose(from + (H + 1) * lanes, IN, l.input_rows, first, a.d_weight_ih, lanes, count);
    }
  }
};

}  // namespace ISA
