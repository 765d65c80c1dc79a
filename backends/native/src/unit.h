// The kernels of one instruction set: include with ISA and VL defined.
#pragma once

#include "backward.h"
#include "forward.h"
#include "kernels.h"
#include "linear.h"

namespace ISA {

// The steps of the layer's cell.
static CellSteps steps_of(const gatecore_layer& l) {
#define CASE(core, auxiliary, activation)                                                     \
  case (core * 4 + auxiliary) * 2 + activation: return {                                      \
    Cell<core, auxiliary, activation>::forward, Cell<core, auxiliary, activation>::backward};
#define BOTH(core, auxiliary) CASE(core, auxiliary, SIGMOID) CASE(core, auxiliary, CUMAX)
#define CASES(core) BOTH(core, NONE) BOTH(core, REFINE) BOTH(core, MASTER) BOTH(core, UNTIED)
  switch ((l.core * 4 + l.auxiliary) * 2 + l.activation) {
    CASES(LSTM) CASES(GRU) CASES(MINIMAL) CASES(MINGRU)
  }
#undef CASES
#undef BOTH
#undef CASE
  return {};  // not reached: library.cpp checks the fields
}

static void forward(const gatecore_layer& l, const gatecore_arguments& a, const Worker& worker,
                    bool by_columns) {
  if (l.core == MINGRU) return Linear{l, a, worker, steps_of(l), false}.forward();
  Forward{{l, a, worker, by_columns}}.run(steps_of(l).forward);
}
static void backward(const gatecore_layer& l, const gatecore_arguments& a, const Worker& worker,
                     bool by_columns) {
  if (l.core == MINGRU) return Linear{l, a, worker, steps_of(l), true}.backward();
  Backward{{l, a, worker, by_columns}}.run(steps_of(l).backward);
}

template <class F> static long floats_of(F allocate) {
  Arena arena(nullptr);
  allocate(arena);
  return arena.used + LINE;
}
static long forward_scratch(const gatecore_layer& l) {
  return floats_of([&](Arena& arena) {
    if (l.core == MINGRU) LinearScratch(l, arena, false, false, 0);
    else ForwardScratch(l, arena);
  });
}
static long backward_scratch(const gatecore_layer& l, bool wants_x) {
  return floats_of([&](Arena& arena) {
    if (l.core == MINGRU) LinearScratch(l, arena, true, wants_x, 0);
    else BackwardScratch(l, arena, wants_x);
  });
}

// The rate of this loop is the most that products can reach. No sum overflows or is denormal.
static double multiply_adds(int64_t rounds) {
  V sum[12];
  for (int i = 0; i < 12; i++) sum[i] = all(1.0f + i);
  const V half = all(0.5f), one = all(1.0f);
  for (int64_t k = 0; k < rounds; k++)
    UNROLL(12) for (int i = 0; i < 12; i++) sum[i] = sum[i] * half + one;
  V total = {};
  for (int i = 0; i < 12; i++) total += sum[i];
  volatile float used = total[0];  // else the loop would be left out
  (void)used;
  return 2.0 * 12 * VL * rounds;
}

static Kernels kernels() {
  return {stride_of, forward_scratch, backward_scratch, forward, backward, multiply_adds};
}

}  // namespace ISA
