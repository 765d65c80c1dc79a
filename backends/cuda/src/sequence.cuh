// The kernels' arguments, in two structs. backends/cuda/steps.py has the same fields in the same
// order, 8 bytes each.
#pragma once

#include "block.cuh"

namespace gatecore {

// What all calls of a shape share: a kernel parameter, which a recorded graph holds.
template <typename T> struct Shape {
    // sizes
    long long batch;
    long long hidden;
    long long rows;            // of the packed weights: the width of a row of logits
    long long downsize;        // units of a master gate
    long long master_width;    // hidden / downsize
    long long ordered_width;   // of the logits that cumax activates
    long long operand_width;   // of a row of the operand
    long long operand_hidden;  // its first column of the hidden state

    // first column of each slot in a row of logits; -1 where the mechanism has no such slot
    long long candidate;
    long long forget;
    long long input;
    long long refine;
    long long refine_input;
    long long output;
    long long reset;
    long long master_forget;
    long long master_input;

    // buffers that stay in place: the state, and what is between a step and the product with the
    // recurrent weights W (rows, hidden)
    T* state;      // (batch, hidden) in: before the step; out: after it, or 0 where the next resets
    T* cell;       // (batch, hidden) LSTM, the same
    T* recurrent;  // (batch, rows) state Wᵀ
    T* gates;      // (batch, 3, ordered_width) the ordered gates of a step that saves nothing
    T* d_hidden;     // (batch, hidden) in: of the step's end, but for d_state; out: of its start
    T* d_cell;       // (batch, hidden) the same
    T* d_recurrent;  // (batch, rows) of `recurrent`
    T* d_state;      // (batch, hidden) d_recurrent W of the later step
    T* d_main;       // (batch, 2, hidden) scratch: of the main gates, unit by unit
};

// What differs from call to call: in device memory, where it is uploaded, so that one recorded graph
// serves the arrays of any call.
template <typename T> struct Sequence {
    long long time;
    long long first;  // the step of launch 0

    // saved by the forward pass
    Global<T> logits;           // (time, batch, rows) in: of the input; out, if saved: complete
    Global<T> ordered;          // (time, batch, 3, ordered_width) value, complement, softmax; or null
    Global<T> operand;          // (time, batch, operand_width) the input | 1 | the state before each
                                // step, from operand_hidden on; null: nothing is saved
    Global<T> saved_cell;       // (time, batch, hidden) before each step: LSTM
    Global<T> state_candidate;  // (time, batch, hidden) U h + b_n: GRU

    // read by both passes
    Global<const bool> resets;            // (time, batch): zeroes the state before each step; or null
    Global<const T> zoneout_mask_cell;    // (time, batch, hidden) or null: the probability zoneout_cell
    Global<const T> zoneout_mask_hidden;  // (time, batch, hidden) or null: zoneout_hidden
    double zoneout_cell;
    double zoneout_hidden;
    Global<const T> bias_n;  // (hidden,) GRU

    // results of the forward pass
    Global<T> output_hidden;  // (time, batch, hidden)
    Global<T> output_cell;    // (time, batch, hidden) or null

    // the backward pass
    Global<const T> d_output_hidden;  // (time, batch, hidden) or null
    Global<const T> d_output_cell;    // (time, batch, hidden) or null
    Global<T> d_logits;               // (time, batch, rows) result
    Global<T> d_state_candidate;      // (time, batch, hidden) result: GRU
};

}  // namespace gatecore
