// The forward pass.
#pragma once

#include "sequence.h"

namespace ISA {

struct ForwardScratch {
  // (input + hidden, width): the columns' weights of x, then of h; (input, rows) of straight products;
  Packed weights;           // of a short layer none
  float* bias;              // (width,)
  float* logits = nullptr;  // (STEPS_AHEAD, batch, stride) of x alone, where they cannot be saved
  float* buffers;           // BUFFERS rows for each thread
  ForwardScratch(const gatecore_layer& l, Arena& arena) {
    if (is_straight(l)) weights = {nullptr, is_short(l) ? 0 : (long)l.input_size, l.rows};
    else weights = {nullptr, (long)l.input_size + l.hidden_size, l.width};
    weights.data = arena.allocate(Packed::floats(weights.depth, weights.columns));
    bias = arena.allocate(rounded(l.width, VL));
    if (is_straight(l) && !is_short(l) && !l.saves)
      logits = arena.allocate((long)STEPS_AHEAD * l.batch * stride_of(l));
    buffers = arena.allocate(l.threads * BUFFERS * buffer_floats(l));
  }
};

struct Forward : Sequence {
  const bool straight = is_straight(l), in_short = is_short(l);

  void run(CellStep cell_forward) const {
    Arena arena(a.scratch);
    const ForwardScratch s(l, arena);
    if (straight) form_bias(s);
    if (straight && !in_short) pack_inputs(s);
    if (!straight) pack(s);
    copy_state(a.initial_hidden, H, a.saved_hidden, H);
    copy_state(a.initial_cell, H, a.saved_cell, H);
    worker.wait();
    for (long t = 0; t < T; t++) {
      Step step = step_at(t, s.buffers);
      if (s.logits) step.gates = s.logits + t % STEPS_AHEAD * B * STRIDE;
      reset(t, (float*)step.hidden_before, (float*)step.cell_before, H);
      step_barrier();
      if (straight) form_straight_logits(s, t, step);
      else form_logits(s, t, step);
      if (!split_units) step_barrier();
      clear_padding(step.gates);
      cell_forward(step, cell_row_begin(), cell_row_end());
    }
    if (split_units) worker.wait();
    const long last = (l.saves ? T : T % 2) * B * H;
    copy_state(a.saved_hidden + last, H, a.final_hidden, H);
    if (a.saved_cell) copy_state(a.saved_cell + last, H, a.final_cell, H);
  }

  // By weights as they lie; those of x ahead, in one product for several steps, unless there are few.
  void form_straight_logits(const ForwardScratch& s, long t, const Step& step) const {
    if (!in_short && t % STEPS_AHEAD == 0) {
      form_input_logits(s, t, least(STEPS_AHEAD, T - t), step.gates);
      step_barrier();
    }
    const bool backwards = t % 2;  // begins with the weights that were read last: they may be in the cache
    if (!split_units) return multiply_straight(s, t, step, column_begin(WIDTH), column_end(WIDTH), backwards);
    for (long i = 0, slots = WIDTH / H; i < slots; i++) {
      const long first = (backwards ? slots - 1 - i : i) * H;
      multiply_straight(s, t, step, first + unit_begin(), first + unit_end(), backwards);
    }
  }

  void multiply_straight(const ForwardScratch& s, long t, const Step& step, long begin, long end,
                         bool backwards) const {
    const long r0 = split_units ? 0 : first_row(), rows = split_units ? B : last_row() - r0;
    const Left parts[] = {{a.x + (t * B + r0) * IN, IN, IN}, {step.hidden_before + r0 * H, H, H}};
    const Rows weights[] = {input_weights(), state_weights().from(l.state_offset)};
    const Target fresh = {step.gates + r0 * STRIDE, STRIDE, s.bias}, more = {fresh.out, STRIDE, nullptr};
    auto product = [&](int part, int count, long from, long to, const Target& target) {
      multiply_by_rows(rows, parts + part, weights + part, count, most(begin, from), least(end, to), target,
                       backwards);
    };
    const bool both = in_short;
    if (both) product(0, 1, 0, l.state_offset, fresh);
    product(both ? 0 : 1, both ? 2 : 1, l.state_offset, ROWS, both ? fresh : more);
    product(1, 1, ROWS, WIDTH, fresh);
  }

  // Logits of x alone, of `steps` steps from t on.
  void form_input_logits(const ForwardScratch& s, long t, long steps, float* gates) const {
    const Packed& w = s.weights;
    const long r0 = first_row(), rows = last_row() - r0, whole = rows == B;
    for (long i = 0; i < (whole ? 1 : steps); i++) {
      const Left left = {a.x + ((t + i) * B + r0) * IN, IN, IN};
      Prefetcher prefetcher;
      multiply(whole ? steps * B : rows, &left, 1, w, 0, first_panel(w), last_panel(w),
               gates + (i * B + r0) * STRIDE, STRIDE, s.bias, prefetcher);
    }
  }

  void form_logits(const ForwardScratch& s, long t, const Step& step) const {
    const Packed& w = s.weights;
    const long r0 = first_row(), rows = last_row() - r0, begin = first_panel(w), end = last_panel(w);
    // panels with columns of the state's product, and of the input's
    const long first_state = l.state_offset / PANEL, last_input = (ROWS + PANEL - 1) / PANEL;
    const Left parts[] = {{a.x + (t * B + r0) * IN, IN, IN}, {step.hidden_before + r0 * H, H, H}};
    Prefetcher prefetcher;
    if (l.saves && t + 1 < T) {
      prefetch_rows(prefetcher, step.gates + B * STRIDE, STRIDE);
      prefetch_rows(prefetcher, step.hidden + B * H, H);
      prefetch_rows(prefetcher, step.cell ? step.cell + B * H : nullptr, H);
      prefetch_rows(prefetcher, step.output + B * H, H);
    }
    prefetcher.expect(tiles_of(rows) * (IN * most(0, least(end, last_input) - begin) +
                                             H * most(0, end - most(begin, first_state))));
    auto product = [&](int part, int count, long from, long first, long last) {
      if (first < last)
        multiply(rows, parts + part, count, w, from, first, last, step.gates + r0 * STRIDE, STRIDE,
                 s.bias, prefetcher);
    };
    // the GRU's candidate has two panels' worth of columns that only one of the parts reaches
    product(0, 1, 0, begin, least(end, first_state));
    product(0, 2, 0, most(begin, first_state), least(end, last_input));
    product(1, 1, IN, most(begin, last_input), end);
  }

  // What is saved is written to the last float: equal calls leave equal memory.
  void clear_padding(float* gates) const {
    if (unit_end() < H) return;  // another worker does it
    const long written = rounded(WIDTH, VL);
    for (long r = cell_row_begin(); r < cell_row_end(); r++)
      __builtin_memset(gates + r * STRIDE + written, 0, (STRIDE - written) * sizeof(float));
  }

  void form_bias(const ForwardScratch& s, long first, long last) const {
    auto at = [](const float* biases, long row) { return biases ? biases[row] : 0.0f; };
    for (long column = first; column < last; column++) {
      float bias = 0.0f;
      if (column < ROWS) bias = at(a.bias, l.input_rows[column]);
      if (column < ROWS && column >= l.state_offset) bias += at(a.bias_hh, l.input_rows[column]);
      if (column >= ROWS && column < WIDTH) bias = at(a.bias_n, column - ROWS);
      s.bias[column] = bias;
    }
  }
  void form_bias(const ForwardScratch& s) const {
    const long padded = rounded(WIDTH, VL);
    form_bias(s, share(padded, 0), share(padded, 1));
  }

  void pack_inputs(const ForwardScratch& s) const {
    const Packed& w = s.weights;
    for (long p = worker.begin(w.panels()); p < worker.end(w.panels()); p++)
      transpose(a.weight_ih, IN, l.input_rows, p * PANEL, w.panel(p), w.vectors(p) * VL);
  }

  void pack(const ForwardScratch& s) const {
    const Packed& w = s.weights;
    for (long p = worker.begin(w.panels()); p < worker.end(w.panels()); p++) {
      const long lanes = w.vectors(p) * VL, first = p * PANEL;
      form_bias(s, first, first + lanes);
      transpose(a.weight_ih, IN, l.input_rows, first, w.panel(p), lanes);
      transpose(a.weight_hh, H, l.state_rows, first - l.state_offset, w.panel(p) + IN * lanes, lanes);
    }
  }
};

}  // namespace ISA
