// One step of each cell on rows (sequences of the batch), forward and backward: what
// gatecore/cells.py says, for every way to form the gates. Slots are found by their columns.
//
// Forward overwrites a row of logits by what backward reads: tanh of the candidate; a gate that
// carries its complement as one float (`encoded`); the softmax of an ordered gate; the value of an
// output or reset gate; the GRU's recurrent part of the candidate as it is.
#pragma once

#include "gates.h"
#include "interface.h"

namespace ISA {

// What one step reads and writes; pointers to the step's first row, strides between rows.
struct Step {
  const gatecore_layer* layer;
  float* gates;                            // (batch, stride)
  long stride;
  const float *cell_before, *hidden_before;   // (batch, hidden)
  const float *keep_cell, *keep_hidden;       // zoneout draws (batch, hidden), or null
  float kept_cell, kept_hidden;               // else these amounts
  float *cell, *hidden, *output, *output_cell;   // forward: (batch, hidden); output_cell or null
  float* d_gates;                          // backward: (batch, stride)
  const float *d_output, *d_output_cell;   // (batch, hidden) or null: cotangents that come here
  float *d_hidden, *d_cell;                // backward, in place: (batch, d_stride)
  long d_stride;
  float* buffers;                          // scratch of one thread: BUFFERS rows
};

// f(j, n) for each vector of n lanes; n is a constant, VL, for all but the last.
template <class F> INLINE void for_units(long count, F f) {
  long j = 0;
  for (; j + VL <= count; j += VL) f(j, VL);
  if (j < count) f(j, (int)(count - j));
}

enum { BUFFERS = 12 };
INLINE long buffer_floats(const gatecore_layer& l) { return rounded(l.hidden_size, VL) + VL; }

INLINE void spread(const float* groups, float* units, long n, long times) {
  for (long g = 0; g < n; g++)
    for (long i = 0; i < times; i++) units[g * times + i] = groups[g];
}
INLINE void gathered(const float* units, float* groups, long n, long times) {
  for (long g = 0; g < n; g++) {
    float sum = 0.0f;
    for (long i = 0; i < times; i++) sum += units[g * times + i];
    groups[g] = sum;
  }
}

// A gate that is formed row by row: an ordered one, or a master gate, which may serve many units.
struct RowGate {
  float *value, *complement;               // (n,) as activated
  float *unit_value, *unit_complement;     // (hidden,), of the gate that the cell uses
  float* cotangent;                        // (hidden,) of unit_value
};

template <int CORE, int AUXILIARY, int ACTIVATION> struct Cell {
  enum {
    ORDERED = ACTIVATION == CUMAX,
    OUTER = ORDERED || AUXILIARY == MASTER,        // some gates are formed row by row
    OWN_INPUT = has_input(CORE, AUXILIARY),
    TIED = is_tied(CORE, AUXILIARY),
    PAIR = AUXILIARY == MASTER || (AUXILIARY == NONE && OWN_INPUT),  // of row gates
  };

  static RowGate row_gate(const Step& s, int k) {
    const long n = buffer_floats(*s.layer);
    float* b = s.buffers + k * 5 * n;
    const bool shared = AUXILIARY == MASTER && s.layer->downsize > 1;
    RowGate g = {b, b + n, shared ? b + 2 * n : b, shared ? b + 3 * n : b + n, b + 4 * n};
    if (ORDERED && k == 1) {  // an ordered input gate is 1 - cumax     equations (20), (29)
      float* swapped = g.unit_value;
      g.unit_value = g.unit_complement;
      g.unit_complement = swapped;
    }
    return g;
  }
  static long row_gate_size(const gatecore_layer& l) {
    return AUXILIARY == MASTER ? l.hidden_size / l.downsize : l.hidden_size;
  }
  static int row_gate_column(const gatecore_layer& l, int k) {
    if (AUXILIARY == MASTER) return k ? l.master_input : l.master_forget;
    return k ? l.input : l.forget;
  }

  // Activates a row gate: forward from its logits, backward from what forward left.
  static void form(const Step& s, RowGate g, float* row, bool forward) {
    const long n = row_gate_size(*s.layer), times = s.layer->hidden_size / n;
    if (ORDERED) {
      if (forward) softmax(row, n);
      cumax(row, g.value, g.complement, n);
    } else {
      for (long j = 0; j < n; j += VL) {
        const int lanes = n - j < VL ? (int)(n - j) : VL;
        V x = load(row + j, lanes);
        Gate<V> gate = forward ? sigmoid(x) : decoded(x);
        store(g.value + j, gate.value);
        store(g.complement + j, gate.complement);
        if (forward) store(row + j, encoded(gate), lanes);
      }
    }
    if (times > 1) {
      const bool swapped = g.unit_value > g.unit_complement;
      spread(g.value, swapped ? g.unit_complement : g.unit_value, n, times);
      spread(g.complement, swapped ? g.unit_value : g.unit_complement, n, times);
    }
  }

  // The gates of a vector of units, from logits (forward) or from what forward left.
  INLINE Gates<V> formed(const Step& s, float* row, const RowGate* outer, long j, int n,
                      bool forward) {
    const gatecore_layer& l = *s.layer;
    auto own = [&](int column) {
      V x = load(row + column + j, n);
      if (!forward) return decoded(x);
      Gate<V> g = sigmoid(x);
      store(row + column + j, encoded(g), n);
      return g;
    };
    auto from = [&](int k) {
      return Gate<V>{load(outer[k].unit_value + j), load(outer[k].unit_complement + j)};
    };
    Gates<V> g = {};
    const bool row_main = ORDERED && AUXILIARY != MASTER;
    g.forget = row_main ? from(0) : own(l.forget);
    if (OWN_INPUT) g.input = row_main ? from(1) : own(l.input);
    else g.input = negate(g.forget);
    if (AUXILIARY == REFINE) g.refine = own(l.refine);
    if (AUXILIARY == MASTER) {
      g.master_forget = from(0);
      g.master_input = from(1);
    }
    return g;
  }

  INLINE V amount(const float* draws, float number, long at, int n) {
    return draws ? load(draws + at, n) : all(number);
  }

  static void forward(const Step& s, long first, long last) {
    const gatecore_layer& l = *s.layer;
    const long H = l.hidden_size;
    RowGate outer[2] = {row_gate(s, 0), row_gate(s, 1)};
    const bool zones = s.keep_cell || s.keep_hidden || s.kept_cell != 0 || s.kept_hidden != 0;
    for (long r = first; r < last; r++) {
      float* row = s.gates + r * s.stride;
      if (OUTER)
        for (int k = 0; k < 1 + PAIR; k++) form(s, outer[k], row + row_gate_column(l, k), true);
      for_units(H, [&](long j, int n) ALWAYS_INLINE {
        const long at = r * H + j;
        const Effective<V> e = effective<CORE, AUXILIARY>(formed(s, row, outer, j, n, true));
        V u = load(row + l.candidate + j, n);
        if (CORE == GRU) {
          V reset = sigmoid(load(row + l.reset + j, n)).value;
          store(row + l.reset + j, reset, n);
          u = u + reset * load(row + l.rows + j, n);
        }
        u = tanh(u);
        store(row + l.candidate + j, u, n);
        V old_hidden = load(s.hidden_before + at, n), hidden;
        if (CORE == LSTM) {
          V old = load(s.cell_before + at, n), cell = update<TIED>(e, u, old);
          V output = sigmoid(load(row + l.output + j, n)).value;
          store(row + l.output + j, output, n);
          hidden = output * tanh(cell);
          if (zones) cell = zoneout(amount(s.keep_cell, s.kept_cell, at, n), old, cell);
          store(s.cell + at, cell, n);
          if (s.output_cell) store(s.output_cell + at, cell, n);
        } else {
          hidden = update<TIED>(e, u, old_hidden);
        }
        if (zones)
          hidden = zoneout(amount(s.keep_hidden, s.kept_hidden, at, n), old_hidden, hidden);
        store(s.hidden + at, hidden, n);
        store(s.output + at, hidden, n);
      });
    }
  }

  // Stores the cotangents of the gates' logits; of row gates those of their values, for `finish`.
  INLINE void store_gates(const Step& s, const Gates<V>& g, const GatesCotangents<V>& d,
                          const RowGate* outer, float* d_row, long j, int n) {
    const gatecore_layer& l = *s.layer;
    if (AUXILIARY == REFINE) store(d_row + l.refine + j, d.refine * slope(g.refine), n);
    if (AUXILIARY == MASTER) {
      store(outer[0].cotangent + j, d.master_forget);
      store(outer[1].cotangent + j, d.master_input);
    }
    if (ORDERED && AUXILIARY != MASTER) {
      store(outer[0].cotangent + j, d.forget);
      if (PAIR) store(outer[1].cotangent + j, d.input);
    } else {
      store(d_row + l.forget + j, d.forget * slope(g.forget), n);
      if (OWN_INPUT) store(d_row + l.input + j, d.input * slope(g.input), n);
    }
  }

  // The logits' cotangents of one row gate.
  static void finish(const Step& s, const RowGate& g, int k, const float* row, float* d_row) {
    const gatecore_layer& l = *s.layer;
    const long n = row_gate_size(l), times = l.hidden_size / n, room = buffer_floats(l);
    float* scratch = s.buffers + 10 * room;
    if (times > 1) gathered(g.cotangent, g.cotangent, n, times);
    const int column = row_gate_column(l, k);
    if (ORDERED) {
      cumax_backward(row + column, g.value, g.complement, g.cotangent, scratch, scratch + room,
                     k ? -1.0f : 1.0f, d_row + column, n);
      return;
    }
    for (long j = 0; j < n; j += VL) {
      const int lanes = n - j < VL ? (int)(n - j) : VL;
      V d = load(g.cotangent + j) * load(g.value + j) * load(g.complement + j);
      store(d_row + column + j, d, lanes);
    }
  }

  static void backward(const Step& s, long first, long last) {
    const gatecore_layer& l = *s.layer;
    const long H = l.hidden_size;
    RowGate outer[2] = {row_gate(s, 0), row_gate(s, 1)};
    const bool zones = s.keep_cell || s.keep_hidden || s.kept_cell != 0 || s.kept_hidden != 0;
    for (long r = first; r < last; r++) {
      float *row = s.gates + r * s.stride, *d_row = s.d_gates + r * s.stride;
      float* d_hidden = s.d_hidden + r * s.d_stride;
      float* d_cell = CORE == LSTM ? s.d_cell + r * s.d_stride : nullptr;
      if (OUTER)
        for (int k = 0; k < 1 + PAIR; k++) form(s, outer[k], row + row_gate_column(l, k), false);
      for_units(H, [&](long j, int n) ALWAYS_INLINE {
        const long at = r * H + j;
        const Gates<V> g = formed(s, row, outer, j, n, false);
        const Effective<V> e = effective<CORE, AUXILIARY>(g);
        const V u = load(row + l.candidate + j, n);
        V old = load((CORE == LSTM ? s.cell_before : s.hidden_before) + at, n);
        V d_state = load(d_hidden + j), kept_state = {}, kept_hidden = {};
        if (s.d_output) d_state = d_state + load(s.d_output + at, n);
        if (zones) {
          kept_hidden = d_state * amount(s.keep_hidden, s.kept_hidden, at, n);
          d_state = d_state - kept_hidden;
        }
        if (CORE == LSTM) {
          V output = load(row + l.output + j, n), squashed = tanh(update<TIED>(e, u, old));
          V d_cell_next = load(d_cell + j), d_output = d_state;
          if (s.d_output_cell) d_cell_next = d_cell_next + load(s.d_output_cell + at, n);
          if (zones) {
            kept_state = d_cell_next * amount(s.keep_cell, s.kept_cell, at, n);
            d_cell_next = d_cell_next - kept_state;
          }
          store(d_row + l.output + j, factor_vjp({output, 1.0f - output}, squashed, d_output), n);
          d_state = d_cell_next + tanh_vjp(squashed, d_output * output);
        }
        const UpdateCotangents<V> d = update_vjp<TIED>(e, u, old, d_state);
        store(d_row + l.candidate + j, d.candidate, n);
        if (CORE == GRU) {
          V reset = load(row + l.reset + j, n), part = load(row + l.rows + j, n);
          store(d_row + l.rows + j, d.candidate * reset, n);
          store(d_row + l.reset + j, factor_vjp({reset, 1.0f - reset}, part, d.candidate), n);
        }
        store_gates(s, g, gates_vjp<CORE, AUXILIARY>(g, d.forget, d.write), outer, d_row, j, n);
        if (CORE == LSTM) {
          store(d_cell + j, d.state + kept_state);
          store(d_hidden + j, kept_hidden);
        } else {
          store(d_hidden + j, d.state + kept_hidden);
        }
      });
      if (OUTER)
        for (int k = 0; k < 1 + PAIR; k++) finish(s, outer[k], k, row, d_row);
    }
  }
};

}  // namespace ISA
