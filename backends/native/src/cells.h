// One step of each cell on rows (sequences of the batch), forward and backward, for every mechanism.
// Forward overwrites a row of logits by what backward reads: tanh of the candidate; a gate and its
// complement as one float (`encoded`); the softmax of an ordered gate; the value of an output or reset
// gate; the GRU's recurrent part of the candidate as it is.
#pragma once

#include "gates.h"
#include "interface.h"

namespace ISA {

struct Zoneout {
  const float* mask;   // (batch, hidden), or null for the probability
  float probability;

  bool active() const { return mask || probability != 0; }
  V at(long offset, int n) const { return mask ? load(mask + offset, n) : all(probability); }
  // The part of a cotangent that goes to the old state; the cotangent becomes the rest.
  V split(V& cotangent, long offset, int n) const {
    V kept = cotangent * at(offset, n);
    cotangent = cotangent - kept;
    return kept;
  }
};

// The arrays of one step: pointers to its first row, strides between rows.
struct Step {
  const gatecore_layer* layer;
  float* gates;                            // (batch, stride)
  long stride;
  long hidden_stride;                      // of arrays (batch, hidden)
  const float *cell_before, *hidden_before;   // (batch, hidden)
  Zoneout zoneout_cell, zoneout_hidden;
  float *cell, *hidden, *output, *output_cell;   // forward: (batch, hidden); outputs may be null
  float* d_gates;                          // backward: (batch, stride)
  const float *d_output, *d_output_cell;   // (batch, hidden) or null
  float *d_hidden, *d_cell;                // backward, in place: (batch, d_stride)
  float* rest;                             // MINGRU: of the state or of d_hidden, in place, likewise
  long d_stride;
  long first_unit, last_unit;              // of these, from a multiple of a vector on
  float* buffers;                          // scratch of one thread: BUFFERS rows

  bool zoneout() const { return zoneout_cell.active() || zoneout_hidden.active(); }
};

enum { BUFFERS = 12 };
INLINE long buffer_floats(const gatecore_layer& l) { return rounded(l.hidden_size, VL) + VL; }

// A gate that is activated row by row: an ordered one, or a master gate, which may serve many units.
struct RowGate {
  float *value, *complement;               // (n,) as activated
  float *unit_value, *unit_complement;     // (hidden,): repeated for each unit
  float* cotangent;                        // (hidden,) of the cell's gate
};

template <int CORE, int AUXILIARY, int ACTIVATION> struct Cell {
  enum {
    ORDERED = ACTIVATION == CUMAX,
    MASTERS = AUXILIARY == MASTER,
    TIED = is_tied(CORE, AUXILIARY),
    ROW_GATES = MASTERS ? 2 : ORDERED ? 1 + has_input(CORE, AUXILIARY) : 0,
  };

  static RowGate row_gate(const Step& s, int k) {
    const long n = buffer_floats(*s.layer);
    float* b = s.buffers + k * 5 * n;
    const bool shared = MASTERS && s.layer->downsize > 1;
    return {b, b + n, shared ? b + 2 * n : b, shared ? b + 3 * n : b + n, b + 4 * n};
  }
  static long row_gate_size(const gatecore_layer& l) {
    return MASTERS ? l.hidden_size / l.downsize : l.hidden_size;
  }
  static int row_gate_column(const gatecore_layer& l, int k) {
    if (MASTERS) return k ? l.master_input : l.master_forget;
    return k ? l.input : l.forget;
  }

  // Forward from a row gate's logits, backward from what forward left.
  static void activate_row(const Step& s, const RowGate& g, float* row, bool forward) {
    const long n = row_gate_size(*s.layer), times = s.layer->hidden_size / n;
    if (ORDERED) {
      if (forward) softmax(row, n);
      cumax(row, g.value, g.complement, n);
    } else {
      for_vectors(n, [&](long j, int lanes) ALWAYS_INLINE {
        V x = load(row + j, lanes);
        Gate<V> gate = forward ? sigmoid(x) : decoded(x);
        store(g.value + j, gate.value);
        store(g.complement + j, gate.complement);
        if (forward) store(row + j, encoded(gate), lanes);
      });
    }
    if (times == 1) return;
    for (long j = 0; j < n; j++)
      for (long i = j * times; i < (j + 1) * times; i++) {
        g.unit_value[i] = g.value[j];
        g.unit_complement[i] = g.complement[j];
      }
  }

  // The gates of a vector of units, from logits (forward) or from what forward left.
  INLINE Gates<V> activate(const Step& s, float* row, const RowGate* row_gates, long j, int n,
                           bool forward) {
    auto slot = [&](int column) ALWAYS_INLINE {
      V x = load(row + column + j, n);
      if (!forward) return decoded(x);
      Gate<V> g = sigmoid(x);
      store(row + column + j, encoded(g), n);
      return g;
    };
    auto of_row = [&](int k) ALWAYS_INLINE {
      return Gate<V>{load(row_gates[k].unit_value + j), load(row_gates[k].unit_complement + j)};
    };
    return gates_of<V, CORE, ACTIVATION, AUXILIARY>(*s.layer, slot, of_row);
  }

  static void forward(const Step& s, long first, long last) {
    const gatecore_layer& l = *s.layer;
    const RowGate row_gates[2] = {row_gate(s, 0), row_gate(s, 1)};
    const bool zoned = s.zoneout(), linear = CORE == MINGRU && l.linear_candidate;
    for (long r = first; r < last; r++) {
      float* row = s.gates + r * s.stride;
      for (int k = 0; k < ROW_GATES; k++)
        activate_row(s, row_gates[k], row + row_gate_column(l, k), true);
      // in two loops: a processor looks ahead far enough to overlap the units of either
      for_vectors(s.first_unit, s.last_unit, [&](long j, int n) ALWAYS_INLINE {
        activate(s, row, row_gates, j, n, true);
        V u = load(row + l.candidate + j, n);
        if (CORE == GRU) {
          V reset = sigmoid(load(row + l.reset + j, n)).value;
          store(row + l.reset + j, reset, n);
          u = u + reset * load(row + l.rows + j, n);
        }
        if (!linear) store(row + l.candidate + j, tanh(u), n);
        if (CORE == LSTM) {
          V output = sigmoid(load(row + l.output + j, n)).value;
          store(row + l.output + j, output, n);
        }
      });
      for_vectors(s.first_unit, s.last_unit, [&](long j, int n) ALWAYS_INLINE {
        const long at = r * s.hidden_stride + j;
        const Effective<V> e = effective<CORE, AUXILIARY>(activate(s, row, row_gates, j, n, false));
        const V u = load(row + l.candidate + j, n);
        V old_hidden = load(s.hidden_before + at, n), hidden;
        if (CORE == LSTM) {
          V old = load(s.cell_before + at, n), cell = update<TIED>(e, u, old);
          hidden = load(row + l.output + j, n) * tanh(cell);
          if (zoned) cell = zoneout(s.zoneout_cell.at(at, n), old, cell);
          store(s.cell + at, cell, n);
          if (s.output_cell) store(s.output_cell + at, cell, n);
        } else if (CORE == MINGRU) {
          V lost = load(s.rest + r * s.d_stride + j);
          const Effective<V> whole = zoned ? zoneout(s.zoneout_hidden.at(at, n), e) : e;
          hidden = update<TIED>(whole, u, old_hidden, lost);
          store(s.rest + r * s.d_stride + j, lost);
        } else {
          hidden = update<TIED>(e, u, old_hidden);
        }
        if (zoned && CORE != MINGRU) hidden = zoneout(s.zoneout_hidden.at(at, n), old_hidden, hidden);
        store(s.hidden + at, hidden, n);
        if (s.output) store(s.output + at, hidden, n);
      });
    }
  }

  // The cotangents of a row gate's logits.
  static void row_gate_vjp(const Step& s, const RowGate& g, int k, const float* row, float* d_row) {
    const gatecore_layer& l = *s.layer;
    const long n = row_gate_size(l), times = l.hidden_size / n, size = buffer_floats(l);
    float *d = g.cotangent, *scratch = s.buffers + 10 * size;
    const int column = row_gate_column(l, k);
    for (long j = 0; times > 1 && j < n; j++) {
      float sum = 0.0f;
      for (long i = 0; i < times; i++) sum += d[j * times + i];
      d[j] = sum;
    }
    if (ORDERED)
      return cumax_backward(row + column, g.value, g.complement, d, scratch, scratch + size,
                            k ? -1.0f : 1.0f, d_row + column, n);
    for_vectors(n, [&](long j, int lanes) ALWAYS_INLINE {
      store(d_row + column + j, load(d + j) * load(g.value + j) * load(g.complement + j), lanes);
    });
  }

  static void backward(const Step& s, long first, long last) {
    const gatecore_layer& l = *s.layer;
    const RowGate row_gates[2] = {row_gate(s, 0), row_gate(s, 1)};
    const bool zoned = s.zoneout(), linear = CORE == MINGRU && l.linear_candidate;
    for (long r = first; r < last; r++) {
      float *row = s.gates + r * s.stride, *d_row = s.d_gates + r * s.stride;
      float* d_hidden = s.d_hidden + r * s.d_stride;
      float* d_cell = CORE == LSTM ? s.d_cell + r * s.d_stride : nullptr;
      for (int k = 0; k < ROW_GATES; k++)
        activate_row(s, row_gates[k], row + row_gate_column(l, k), false);
      for_vectors(s.first_unit, s.last_unit, [&](long j, int n) ALWAYS_INLINE {
        const long at = r * s.hidden_stride + j;
        const Gates<V> g = activate(s, row, row_gates, j, n, false);
        const Effective<V> e = effective<CORE, AUXILIARY>(g);
        const V u = load(row + l.candidate + j, n);
        V old = load((CORE == LSTM ? s.cell_before : s.hidden_before) + at, n);
        V d_state = load(d_hidden + j), d_old = {}, kept_cell = {}, kept_hidden = {};
        V added = s.d_output ? load(s.d_output + at, n) : V{};
        if (CORE == MINGRU) {
          V lost = load(s.rest + r * s.d_stride + j);
          const Effective<V> whole = zoned ? zoneout(s.zoneout_hidden.at(at, n), e) : e;
          added = added + lost;
          d_old = state_vjp(whole.forget, d_state, added, lost);
          store(s.rest + r * s.d_stride + j, lost);
        }
        d_state = d_state + added;
        if (zoned) kept_hidden = s.zoneout_hidden.split(d_state, at, n);
        if (CORE == LSTM) {
          V output = load(row + l.output + j, n), squashed = tanh(update<TIED>(e, u, old));
          V d_cell_next = load(d_cell + j), d_output = d_state;
          if (s.d_output_cell) d_cell_next = d_cell_next + load(s.d_output_cell + at, n);
          if (zoned) kept_cell = s.zoneout_cell.split(d_cell_next, at, n);
          store(d_row + l.output + j, factor_vjp({output, 1.0f - output}, squashed, d_output), n);
          d_state = d_cell_next + tanh_vjp(squashed, d_output * output);
        }
        const UpdateCotangents<V> d = update_vjp<TIED>(e, u, old, d_state);
        const V d_candidate = linear ? d.candidate : tanh_vjp(u, d.candidate);
        store(d_row + l.candidate + j, d_candidate, n);
        if (CORE == GRU) {
          V reset = load(row + l.reset + j, n), part = load(row + l.rows + j, n);
          store(d_row + l.rows + j, d_candidate * reset, n);
          store(d_row + l.reset + j, factor_vjp({reset, 1.0f - reset}, part, d_candidate), n);
        }
        to_slots<CORE, ACTIVATION, AUXILIARY>(
            g, gates_vjp<CORE, AUXILIARY>(g, d.forget, d.write), l,
            [&](int column, V v) ALWAYS_INLINE { store(d_row + column + j, v, n); },
            [&](int k, V v) ALWAYS_INLINE { store(row_gates[k].cotangent + j, v); });
        if (CORE == LSTM) store(d_cell + j, d.state + kept_cell);
        if (CORE != MINGRU) d_old = CORE == LSTM ? kept_hidden : d.state + kept_hidden;
        store(d_hidden + j, d_old);
      });
      for (int k = 0; k < ROW_GATES; k++) row_gate_vjp(s, row_gates[k], k, row, d_row);
    }
  }
};

}  // namespace ISA
