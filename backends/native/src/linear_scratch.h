// How the work of linear.h is divided, and its scratch arrays.
#pragma once

#include "sequence.h"

namespace ISA {

// Whether groups are of units: where few sequences do not divide evenly. A gate that is activated row by
// row needs all units.
INLINE bool by_units(const gatecore_layer& l) {
  if (l.threads == 1 || l.activation == CUMAX || l.auxiliary == MASTER) return false;
  const bool uneven = l.batch < 4 * l.threads && l.batch % l.threads;
  return l.split == 2 || (l.split == 0 && uneven && l.hidden_size >= l.threads * LINE);
}

INLINE long first_unit(const gatecore_layer& l, long group) {
  if (!by_units(l)) return 0;
  return least(rounded((l.hidden_size + l.threads - 1) / l.threads, LINE) * group, l.hidden_size);
}

// The layer of a group: its units alone, if groups are of units; then all slots are equally wide.
INLINE gatecore_layer layer_of(gatecore_layer l, long group) {
  if (!by_units(l)) return l;
  const int all = l.hidden_size, units = (int)(first_unit(l, group + 1) - first_unit(l, group));
  int32_t* const columns[] = {&l.candidate,    &l.forget, &l.input, &l.refine,
                              &l.refine_input, &l.rows,   &l.width};
  for (int32_t* column : columns)
    if (*column > 0) *column = *column / all * units;
  l.hidden_size = units;
  return l;
}

// What is computed at a time: at most `block` sequences by `steps` time steps.
struct Chunk {
  enum { FLOATS = 48 * 1024 };  // of logits and states
  long block, blocks, steps;

  explicit Chunk(const gatecore_layer& l) {
    const long groups = by_units(l) ? l.threads : 1, few = most(1, least(l.time, CHECKPOINT));
    const long sequences = groups > 1 ? l.batch : (l.batch + l.threads - 1) / l.threads;
    const long fitting = FLOATS * groups / (l.width + l.hidden_size);
    const long rows = least(256, most(CHECKPOINT, most(fitting, l.input_size)));
    block = most(1, least(sequences, rows / few));
    blocks = most(1, (sequences + block - 1) / block);
    steps = most(few, least(rows / block, l.time) / CHECKPOINT * CHECKPOINT);
  }
  long rows() const { return block * steps; }
};

// Features of the weights' gradients are x, and 1 for the bias.
INLINE long linear_features(const gatecore_layer& l) { return rounded(l.input_size + 1, HEIGHT); }

// The weights of all columns, or of those of a group of units.
struct LinearWeights {
  int32_t* rows;    // (width,): each column's row of the packed weights, for a group of units
  float* bias;      // (width,)
  Packed columns;   // (input, width)
  Packed inputs;    // (width, input), if there is d_x
  LinearWeights() = default;
  LinearWeights(const gatecore_layer& l, Arena& arena, bool wants_x) {
    const long width = l.width, inputs_size = l.input_size;
    rows = (int32_t*)arena.allocate(width);
    bias = arena.allocate(rounded(width, VL));
    columns = {arena.allocate(Packed::floats(inputs_size, width)), inputs_size, width};
    inputs = {nullptr, width, inputs_size};
    if (wants_x) inputs.data = arena.allocate(Packed::floats(width, inputs_size));
  }
};

// What a group has for itself.
struct LinearArrays {
  float* x;         // (rows, input) of a chunk
  float* logits;    // (rows, stride), then their cotangents
  float* buffers;   // BUFFERS rows
  float* rest;      // (block, padded hidden) of the state
  float *d_state, *d_rest;  // backward: (block, padded hidden)
  float* features;  // [tile][row][HEIGHT]
  float* gradient;  // [panel][feature][vectors][lane]
  float* d_x;       // (rows, padded input)
  LinearArrays() = default;
  LinearArrays(const gatecore_layer& l, const Chunk& chunk, Arena& arena, bool backward, bool wants_x) {
    x = arena.allocate(chunk.rows() * l.input_size);
    logits = arena.allocate(chunk.rows() * stride_of(l));
    buffers = arena.allocate(BUFFERS * buffer_floats(l));
    const long state = chunk.block * rounded(l.hidden_size, VL);
    rest = arena.allocate(state);
    if (!backward) return;
    d_state = arena.allocate(state);
    d_rest = arena.allocate(state);
    features = arena.allocate(chunk.rows() * linear_features(l));
    gradient = arena.allocate(rounded(l.width, VL) * linear_features(l));
    if (wants_x) d_x = arena.allocate(chunk.rows() * rounded(l.input_size, VL));
  }
};

// The arrays of one group. Groups of units share `states`, groups of sequences the weights.
struct LinearScratch {
  LinearWeights weights;
  LinearArrays arrays;
  float* states;    // (1, or steps + 1 backward; block, hidden): before, and backward after, each step
  LinearScratch(const gatecore_layer& l, Arena& arena, bool backward, bool wants_x, long group) {
    const Chunk chunk(l);
    const bool units = by_units(l);
    for (long g = 0; g < l.threads; g++) {
      const gatecore_layer own = layer_of(l, g);
      const LinearArrays its_arrays(own, chunk, arena, backward, wants_x);
      if (g == group) arrays = its_arrays;
      if (units || g == 0) {
        const LinearWeights its_weights(own, arena, wants_x);
        if (g == group || !units) weights = its_weights;
      }
      if (!units || g == 0) {
        const long steps = backward ? chunk.steps + 1 : 1;
        float* its_states = arena.allocate(steps * chunk.block * l.hidden_size);
        if (g == group || units) states = its_states + first_unit(l, group);
      }
    }
  }
};

}  // namespace ISA
