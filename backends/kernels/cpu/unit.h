// The kernels of one instruction set: include with ISA and VL defined.
#pragma once

#include "kernels.h"
#include "sequence.h"

namespace ISA {

// Calls f with the Cell of the layer's fields.
template <class F> static void with_cell(const gatecore_layer& l, F f) {
  switch ((l.core * 3 + l.auxiliary) * 2 + l.activation) {
#define CASE(core, auxiliary, activation)           \
  case (core * 3 + auxiliary) * 2 + activation:     \
    f(Cell<core, auxiliary, activation>());         \
    break;
#define CASES(core)                                             \
  CASE(core, NONE, SIGMOID) CASE(core, NONE, CUMAX)             \
  CASE(core, REFINE, SIGMOID) CASE(core, REFINE, CUMAX)         \
  CASE(core, MASTER, SIGMOID) CASE(core, MASTER, CUMAX)
    CASES(LSTM) CASES(GRU) CASES(MINIMAL)
#undef CASES
#undef CASE
  }
}

static void run_forward(const gatecore_layer& l, const gatecore_forward& f, const Member& member,
                        bool by_columns) {
  with_cell(l, [&](auto cell) { Sequence<decltype(cell)>{l, member, by_columns}.forward(f); });
}

static void run_backward(const gatecore_layer& l, const gatecore_backward& b, const Member& member,
                         bool by_columns) {
  with_cell(l, [&](auto cell) { Sequence<decltype(cell)>{l, member, by_columns}.backward(b); });
}

typedef Sequence<Cell<LSTM, NONE, SIGMOID>> Any;  // scratch depends on sizes alone

static long forward_floats(const gatecore_layer& l) {
  Arena arena(nullptr);
  Any::ForwardScratch scratch(l, arena, l.threads);
  return arena.next - (float*)nullptr + LINE;
}

static long backward_floats(const gatecore_layer& l, bool wants_d_x) {
  Arena arena(nullptr);
  Any::BackwardScratch scratch(l, arena, l.threads, wants_d_x);
  return arena.next - (float*)nullptr + LINE;
}

static Kernels kernels() {
  return {stride_of, forward_floats, backward_floats, run_forward, run_backward};
}

}  // namespace ISA
