// The forward pass.
#pragma once

#include "sequence.h"

namespace ISA {

struct ForwardScratch {
  Packed weights;     // (input + hidden, width): the columns' weights of x, then of h
  float* bias;        // (width,)
  float* buffers;     // BUFFERS rows for each thread
  ForwardScratch(const gatecore_layer& l, Arena& arena) {
    weights = {nullptr, (long)l.input_size + l.hidden_size, l.width};
    weights.data = arena.allocate(Packed::floats(weights.depth, weights.columns));
    bias = arena.allocate(rounded(l.width, VL));
    buffers = arena.allocate(l.threads * BUFFERS * buffer_floats(l));
  }
};

struct Forward : Sequence {
  void run(CellStep cell_forward) const {
    Arena arena(a.scratch);
    const ForwardScratch s(l, arena);
    pack(s);
    copy_state(a.initial_hidden, H, a.saved_hidden, H);
    copy_state(a.initial_cell, H, a.saved_cell, H);
    worker.wait();
    for (long t = 0; t < T; t++) {
      const Step step = step_at(t, s.buffers);
      reset(t, (float*)step.hidden_before, (float*)step.cell_before, H);
      step_barrier();
      form_logits(s, t, step);
      step_barrier();
      clear_padding(step.gates);
      cell_forward(step, row_begin(), row_end());
    }
    const long last = (l.saves ? T : T % 2) * B * H;
    copy_state(a.saved_hidden + last, H, a.final_hidden, H);
    if (a.saved_cell) copy_state(a.saved_cell + last, H, a.final_cell, H);
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
    const long written = rounded(WIDTH, VL);
    for (long r = row_begin(); r < row_end(); r++)
      __builtin_memset(gates + r * STRIDE + written, 0, (STRIDE - written) * sizeof(float));
  }

  void pack(const ForwardScratch& s) const {
    const Packed& w = s.weights;
    for (long p = worker.begin(w.panels()); p < worker.end(w.panels()); p++) {
      const long lanes = w.vectors(p) * VL, first = p * PANEL;
      for (long column = first; column < first + lanes; column++)
        s.bias[column] = column < ROWS ? a.bias[l.input_rows[column]]
                       : column < WIDTH ? a.bias_n[column - ROWS] : 0.0f;
      transpose(a.weight_ih, IN, l.input_rows, first, w.panel(p), lanes);
      transpose(a.weight_hh, H, l.state_rows, first - l.state_offset, w.panel(p) + IN * lanes, lanes);
    }
  }
};

}  // namespace ISA
