// The kernels' arguments. They lie in device memory and are uploaded for each call, so that one
// recorded graph serves any arrays of equal shapes. backends/cuda/steps.py has the same fields in
// the same order, 8 bytes each.
#pragma once

namespace gatecore {

template <typename T> struct Sequence {
    // sizes
    long long time;
    long long batch;
    long long hidden;
    long long width;          // of a row of logits
    long long ordered_width;  // of the logits that cumax activates
    long long downsize;       // units of a master gate
    long long rows;           // of the recurrent weights
    long long state_window;   // first column of the logits that the recurrent weights feed

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
    long long state_candidate;  // the GRU's U h + b_n

    // saved by the forward pass
    T* logits;        // (time, batch, width) in: of the input; out: complete
    T* ordered;       // (time, batch, 3, ordered_width) value, complement, softmax; null without cumax
    T* saved_hidden;  // (time + 1, batch, hidden) before each step
    T* saved_cell;    // (time + 1, batch, hidden) LSTM; else null

    // read by both passes
    const bool* resets;            // (time, batch): zeroes the state before each step; or null
    const T* zoneout_mask_cell;    // (time, batch, hidden) or null: the probability zoneout_cell
    const T* zoneout_mask_hidden;  // (time, batch, hidden) or null: zoneout_hidden
    double zoneout_cell;
    double zoneout_hidden;
    const T* bias_n;  // (hidden,) GRU

    // results of the forward pass
    T* output_hidden;  // (time, batch, hidden)
    T* output_cell;    // (time, batch, hidden) or null

    // between a step and the product with the recurrent weights W (rows, hidden)
    T* state;      // (batch, hidden) the hidden state that the product takes
    T* recurrent;  // (batch, rows) state Wᵀ

    // the backward pass
    const T* d_output_hidden;  // (time, batch, hidden) or null
    const T* d_output_cell;    // (time, batch, hidden) or null
    T* d_logits;               // (time, batch, width) result
    T* d_hidden;     // (batch, hidden) in: of the step's end, but for d_state; out: of its start
    T* d_cell;       // (batch, hidden) the same
    T* d_recurrent;  // (batch, rows) the step's d_logits in state_window
    T* d_state;      // (batch, hidden) d_recurrent W of the later step
    T* d_main;       // (batch, 2, hidden) scratch: of the main gates, unit by unit
};

}  // namespace gatecore
