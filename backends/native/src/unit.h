// The kernels of one instruction set: include with ISA and VL defined.
#pragma once

#include "backward.h"
#include "forward.h"
#include "kernels.h"

namespace ISA {

struct CellSteps { CellStep forward, backward; };

// The steps of the layer's cell.
static CellSteps steps_of(const gatecore_layer& l) {
#define CASE(core, auxiliary, activation)                                                     \
  case (core * 4 + auxiliary) * 2 + activation: return {                                      \
    Cell<core, auxiliary, activation>::forward, Cell<core, auxiliary, activation>::backward};
#define BOTH(core, auxiliary) CASE(core, auxiliary, SIGMOID) CASE(core, auxiliary, CUMAX)
#define CASES(core) BOTH(core, NONE) BOTH(core, REFINE) BOTH(core, MASTER) BOTH(core, UNTIED)
  switch ((l.core * 4 + l.auxiliary) * 2 + l.activation) { CASES(LSTM) CASES(GRU) CASES(MINIMAL) }
#undef CASES
#undef BOTH
#undef CASE
  return {};  // not reached: library.cpp checks the fields
}

template <class Pass, CellStep CellSteps::*step>
static void run(const gatecore_layer& l, const gatecore_arguments& a, const Worker& worker,
                bool by_columns) {
  Pass{{l, a, worker, by_columns}}.run(steps_of(l).*step);
}

template <class Scratch, class... Wanted> static long floats_of(const gatecore_layer& l, Wanted... w) {
  Arena arena(nullptr);
  Scratch(l, arena, w...);
  return arena.next - (float*)nullptr + LINE;
}

static Kernels kernels() {
  return {stride_of, floats_of<ForwardScratch>, floats_of<BackwardScratch, bool>,
          run<Forward, &CellSteps::forward>, run<Backward, &CellSteps::backward>};
}

}  // namespace ISA
