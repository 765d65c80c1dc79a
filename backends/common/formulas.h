// The formulas of gates and cells in C++, written once for the CPU library and for CUDA: those of
// gatecore/algebra.py, vjp.py and cells.py, with the paper's equation numbers.
//
// T is a number (float, double) or a vector of floats. Before it includes this file, the includer
// defines GATECORE_NAMESPACE and GATECORE_FUNCTION, and in that namespace functions of T:
// exponential and hyperbolic_tangent; reciprocal; select(gate, small, large), which is `small` where
// the gate is below 1/2. The exponential is finite and not 0 for any finite argument.
#pragma once

namespace GATECORE_NAMESPACE {

enum Core { lstm, gru, minimal, mingru };
enum Activation { by_sigmoid, by_cumax };
enum Auxiliary { none, refined, mastered, untied };  // untied: a refine gate each

// Whether a mechanism has an input gate of its own, and whether its effective input gate is the
// complement of the effective forget gate: Mechanism.slots and Mechanism.ties_gates.
GATECORE_FUNCTION constexpr bool has_input(int core, int auxiliary) {
  return auxiliary == untied || (core == lstm && auxiliary != refined);
}
GATECORE_FUNCTION constexpr bool is_tied(int core, int auxiliary) {
  return auxiliary == refined || (auxiliary == none && core != lstm);
}

GATECORE_FUNCTION constexpr bool has_refine(int auxiliary) {
  return auxiliary == refined || auxiliary == untied;
}

template <typename T> struct Gate {
  T value;       // in [0, 1]
  T complement;  // 1 - value, accurate also where value is nearly 1
};

template <typename T> GATECORE_FUNCTION Gate<T> negate(Gate<T> a) {
  return {a.complement, a.value};
}

template <typename T> GATECORE_FUNCTION Gate<T> sigmoid(T logit) {
  const T e = exponential(-logit), value = reciprocal(1.0f + e);
  return {value, e * value};
}

// mix(r, either(f, f), both(f, f)) in closed form                          equations (12), (16)
template <typename T> GATECORE_FUNCTION Gate<T> refine(Gate<T> f, Gate<T> r) {
  return {f.value * (f.value + 2.0f * r.value * f.complement),
          f.complement * (f.complement + 2.0f * r.complement * f.value)};
}

// The effective forget gate f of master gates F and I: F (1 - I + f I)    equations (21)-(22).
// The effective input gate, equation (23), is the same function of I, F and i.
template <typename T> GATECORE_FUNCTION Gate<T> master(Gate<T> F, Gate<T> I, Gate<T> f) {
  return {F.value * (I.complement + f.value * I.value),
          F.complement + F.value * I.value * f.complement};
}

// One unit's gates as activated. Without an input gate of its own `input` is 1 - forget.
template <typename T> struct Gates {
  Gate<T> forget, input, refine, refine_input, master_forget, master_input;
};

// The gates from `slot(column)` and, of those that are activated row by row, from `row(k)`: the main
// gates, of the forget side and of the input side. An ordered input gate is 1 - cumax: (20), (29).
template <typename T, int core, int activation, int auxiliary, typename Slots, typename Slot, typename Row>
GATECORE_FUNCTION Gates<T> gates_of(const Slots& slots, Slot slot, Row row) {
  constexpr bool masters = auxiliary == mastered, row_main = activation == by_cumax && !masters;
  auto input_row = [&] { return activation == by_cumax ? negate(row(1)) : row(1); };
  Gates<T> g = {};
  g.forget = row_main ? row(0) : slot(slots.forget);
  if (!has_input(core, auxiliary)) g.input = negate(g.forget);
  else g.input = row_main ? input_row() : slot(slots.input);
  if (has_refine(auxiliary)) g.refine = slot(slots.refine);
  if (auxiliary == untied) g.refine_input = slot(slots.refine_input);
  if (masters) {
    g.master_forget = row(0);
    g.master_input = input_row();
  }
  return g;
}

// What the state update takes: the effective forget gate and the effective input gate's value.
template <typename T> struct Effective {
  Gate<T> forget;
  T write;
};

template <int core, int auxiliary, typename T>
GATECORE_FUNCTION Effective<T> effective(const Gates<T>& g) {
  if constexpr (auxiliary == mastered)
    return {master(g.master_forget, g.master_input, g.forget),
            master(g.master_input, g.master_forget, g.input).value};
  if (auxiliary == untied)
    return {refine(g.forget, g.refine), refine(g.input, g.refine_input).value};
  const Gate<T> forget = auxiliary == refined ? refine(g.forget, g.refine) : g.forget;
  return {forget, is_tied(core, auxiliary) ? forget.complement : g.input.value};
}

// What the step adds to the state: i u - (1 - f) c
template <bool tied, typename T>
GATECORE_FUNCTION T change(const Effective<T>& e, T candidate, T state) {
  const T forgotten = e.forget.complement;
  return tied ? forgotten * (candidate - state) : e.write * candidate - forgotten * state;
}

// The cell or hidden state after the step: f c + i u                    equations (1), (5), (13)
// From f = 1/2 on it is c + (i u - (1 - f) c), so that a long memory is not lost in roundings; below,
// that form would leave roundings of a large state behind which is forgotten.
template <bool tied, typename T>
GATECORE_FUNCTION T update(const Effective<T>& e, T candidate, T state) {
  return select(e.forget.value, e.forget.value * state + e.write * candidate,
                state + change<tied>(e, candidate, state));
}

// x + y; `rest` becomes what rounding takes from it (Dekker 1971), where |x| >= |y| exactly, else with
// an error of a rounding of y.
template <typename T> GATECORE_FUNCTION T sum(T x, T y, T& rest) {
  const T total = x + y;
  rest = y - (total - x);
  return total;
}

// The update of a state that is carried as state + rest, so that the roundings of thousands of steps do
// not add up. Below f = 1/2 the next steps forget them.
template <bool tied, typename T>
GATECORE_FUNCTION T update(const Effective<T>& e, T candidate, T state, T& rest) {
  const T total = sum(state, change<tied>(e, candidate, state) + rest, rest);
  rest = select(e.forget.value, T{}, rest);
  return select(e.forget.value, e.forget.value * state + e.write * candidate, total);
}

// The state before the step kept with this probability: zoneout (Krueger et al. 2016)
template <typename T> GATECORE_FUNCTION T zoneout(T probability, T before, T after) {
  return after + probability * (before - after);
}
// The same as gates
template <typename T>
GATECORE_FUNCTION Effective<T> zoneout(T probability, const Effective<T>& e) {
  const T replaced = 1.0f - probability;
  return {{e.forget.value + probability * e.forget.complement, replaced * e.forget.complement},
          replaced * e.write};
}

// ---- derivatives: cotangents of gates are those of their values

template <typename T> GATECORE_FUNCTION T slope(Gate<T> gate) {  // of the sigmoid
  return gate.value * gate.complement;
}

// Of the logit of a gate that multiplies x, from the product's cotangent v
template <typename T> GATECORE_FUNCTION T factor_vjp(Gate<T> gate, T x, T v) {
  return v * x * gate.value * gate.complement;
}

// Of x, from the cotangent v of y = tanh(x)
template <typename T> GATECORE_FUNCTION T tanh_vjp(T y, T v) {
  return v * (1.0f - y) * (1.0f + y);
}

template <typename T> struct UpdateCotangents {
  T state;          // of the state before the step
  T forget, write;  // of the effective gates
  T candidate;
};

template <bool tied, typename T>
GATECORE_FUNCTION UpdateCotangents<T> update_vjp(const Effective<T>& e, T candidate, T state, T v) {
  return {select(e.forget.value, v * e.forget.value, v - v * e.forget.complement),
          tied ? v * (state - candidate) : v * state, v * candidate, v * e.write};
}

// Of the state before the step, from that of the state after it, v + added; `rest` becomes what rounding
// takes from it
template <typename T> GATECORE_FUNCTION T state_vjp(Gate<T> forget, T v, T added, T& rest) {
  const T whole = v + added, total = sum(v, added - whole * forget.complement, rest);
  rest = select(forget.value, T{}, rest);
  return select(forget.value, whole * forget.value, total);
}

template <typename T> struct GatesCotangents {
  T forget, input, refine, refine_input, master_forget, master_input;
};

// From the cotangent v of refine(f, r) to those of f and r
template <typename T> GATECORE_FUNCTION void refine_vjp(Gate<T> f, Gate<T> r, T v, T& d_f, T& d_r) {
  const T doubled = v + v;
  d_r = doubled * slope(f);
  d_f = doubled * (r.value * f.complement + r.complement * f.value);
}

// From those of the effective forget gate, v, and of the effective input gate, w
template <int core, int auxiliary, typename T>
GATECORE_FUNCTION GatesCotangents<T> gates_vjp(const Gates<T>& g, T v, T w) {
  GatesCotangents<T> d = {};
  d.forget = v;
  d.input = w;
  if constexpr (has_refine(auxiliary)) {
    refine_vjp(g.forget, g.refine, v, d.forget, d.refine);
    if (auxiliary == untied) refine_vjp(g.input, g.refine_input, w, d.input, d.refine_input);
  } else if constexpr (auxiliary == mastered) {
    const Gate<T> f = g.forget, i = g.input, F = g.master_forget, I = g.master_input;
    d.master_forget = v * (I.complement + f.value * I.value) - w * I.value * i.complement;
    d.master_input = w * (F.complement + i.value * F.value) - v * F.value * f.complement;
    const T overlap = F.value * I.value;
    d.forget = v * overlap;
    d.input = w * overlap;
    if constexpr (!has_input(core, auxiliary)) d.forget = d.forget - d.input;
  }
  return d;
}

// Hands them on: to `slot(column, v)` those of logits, and to `row(k, v)` those of the values of gates
// that are activated row by row.
template <int core, int activation, int auxiliary, typename T, typename Slots, typename Slot, typename Row>
GATECORE_FUNCTION void to_slots(const Gates<T>& g, const GatesCotangents<T>& d, const Slots& slots,
                                Slot slot, Row row) {
  if (has_refine(auxiliary)) slot(slots.refine, d.refine * slope(g.refine));
  if (auxiliary == untied) slot(slots.refine_input, d.refine_input * slope(g.refine_input));
  if (auxiliary == mastered) {
    row(0, d.master_forget);
    row(1, d.master_input);
  }
  if (activation == by_cumax && auxiliary != mastered) {
    row(0, d.forget);
    if (has_input(core, auxiliary)) row(1, d.input);
  } else {
    slot(slots.forget, d.forget * slope(g.forget));
    if (has_input(core, auxiliary)) slot(slots.input, d.input * slope(g.input));
  }
}

}  // namespace GATECORE_NAMESPACE
