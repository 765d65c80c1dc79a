// The kernels of one instruction set: include with ISA and VL defined.
#pragma once

#include "backward.h"
#include "forward.h"
#include "kernels.h"

namespace ISA {

struct CellSteps { CellStep forward, backward; };

// The steps of the layer's cell.
static CellSteps steps_of(const gatecore_layer& l) {
#define CASE(core, auxiliary, activation)                                   \
  case (core * 4 + auxiliary) * 2 + activation:                             \
    return {Cell<core, auxiliary, activation>::forward,                     \
            Cell<core, auxiliary, activation>::backward};
#define CASES(core)                                             \
  CASE(core, NONE, SIGMOID) CASE(core, NONE, CUMAX)             \
  CASE(core, REFINE, SIGMOID) CASE(core, REFINE, CUMAX)         \
  CASE(core, MASTER, SIGMOID) CASE(core, MASTER, CUMAX)         \
  CASE(core, UNTIED, SIGMOID) CASE(core, UNTIED, CUMAX)
  switch ((l.core * 4 + l.auxiliary) * 2 + l.activation) {
    CASES(LSTM) CASES(GRU) CASES(MINIMAL)
  }
#undef CASES
#undef CASE
  return {};  // not reached: library.cpp checks the fields
}

static void run_forward(const gatecore_layer& l, const gatecore_arguments& a, const Worker& worker,
                        bool by_columns) {
  Forward{{l, a, worker, by_columns}}.run(steps_of(l).forward);
}

static void run_backward(const gatecore_layer& l, const gatecore_arguments& a, const Worker& worker,
                         bool by_columns) {
  Backward{{l, a, worker, by_columns}}.run(steps_of(l).backward);
}

static long forward_floats(const gatecore_layer& l) {
  Arena arena(nullptr);
  ForwardScratch(l, arena);
  return arena.next - (float*)nullptr + LINE;
}

static long backward_floats(const gatecore_layer& l, bool wants_d_x) {
  Arena arena(nullptr);
  BackwardScratch(l, arena, wants_d_x);
  return arena.next - (float*)nullptr + LINE;
}

static Kernels kernels() {
  return {stride_of, forward_floats, backward_floats, run_forward, run_backward};
}

}  // namespace ISA
