// The library's C interface: plain structs of sizes and pointers, plain functions, error codes.
//
// All arrays are float32, C-contiguous unless a leading dimension is named, and belong to the
// caller. Columns: one step's logits stand in the order of backends/common/layout.py (candidate,
// gates, for the GRU the state's part of the candidate last), `width` of them.
#pragma once

#include <cstddef>
#include <cstdint>

#pragma GCC visibility push(default)
extern "C" {

enum Core { LSTM = 0, GRU = 1, MINIMAL = 2 };
enum Auxiliary { NONE = 0, REFINE = 1, MASTER = 2, UNTIED = 3 };
enum Activation { SIGMOID = 0, CUMAX = 1 };
enum InstructionSet { PORTABLE = 0, AVX2 = 1, AVX512 = 2 };

enum Status { OK = 0, NO_INSTRUCTION_SET = 1, BAD_SHAPE = 2 };

// What is computed, and over which sizes.
struct gatecore_layer {
  int32_t core, auxiliary, activation;
  int32_t downsize;           // units that share a master gate
  int32_t time, batch, input_size, hidden_size;
  int32_t width;              // columns of a step
  int32_t rows;               // rows of the packed weights: columns of the input's product
  int32_t state_offset;       // first column of the state's product; `rows` of them follow
  // first column of each slot, -1 where the cell lacks it
  int32_t candidate, forget, input, refine, refine_input, output, reset, master_forget, master_input;
  int32_t threads;            // at most so many
  int32_t instruction_set;
  int32_t split;              // 0: choose; 1: by sequences of the batch; 2: by columns
  int32_t saves;              // 0: no backward call follows
  const int32_t* input_rows;  // (rows,) weight row of each column of the input's product
  const int32_t* state_rows;  // (rows,) the same for the state's product
};

// The arguments of both calls. A pointer that a cell or a call does not need may be null.
struct gatecore_arguments {
  // read by both calls
  const float* x;                    // (time, batch, input)
  const float* weight_ih;            // (rows, input)
  const float* weight_hh;            // (rows, hidden)
  const float* bias;                 // (rows,)
  const float* bias_n;               // (hidden,), GRU
  const uint8_t* resets;             // (time, batch) or null: zero the state before the step
  const float* zoneout_mask_hidden;  // (time, batch, hidden), or null for the probability below
  const float* zoneout_mask_cell;
  float zoneout_hidden, zoneout_cell;
  // written by the forward call, read by the backward call; saves = 0 takes (1, ...) and (2, ...)
  float* saved_gates;                // (time, batch, gatecore_stride(layer))
  float* saved_hidden;               // (time + 1, batch, hidden)
  float* saved_cell;                 // the same, LSTM
  // the forward call
  const float* initial_hidden;       // (batch, hidden) or null for zeros
  const float* initial_cell;
  float* output_hidden;              // (time, batch, hidden)
  float* output_cell;                // the same, or null
  float* final_hidden;               // (batch, hidden) or null
  float* final_cell;
  // the backward call: cotangents
  const float* d_output_hidden;      // (time, batch, hidden) or null for zeros
  const float* d_output_cell;
  const float* d_final_hidden;       // (batch, hidden) or null for zeros
  const float* d_final_cell;
  float* d_initial_hidden;           // (batch, hidden) or null
  float* d_initial_cell;
  float* d_x;                        // (time, batch, input) or null
  float* d_weight_ih;
  float* d_weight_hh;
  float* d_bias;
  float* d_bias_n;                   // GRU
  float* scratch;                    // gatecore_forward_scratch or _backward_scratch floats
};

int32_t gatecore_version();
int32_t gatecore_best_instruction_set();
size_t gatecore_stride(const gatecore_layer*);            // floats between two rows of gates
size_t gatecore_forward_scratch(const gatecore_layer*);   // floats
size_t gatecore_backward_scratch(const gatecore_layer*, int32_t wants_d_x);
int32_t gatecore_run_forward(const gatecore_layer*, const gatecore_arguments*);
int32_t gatecore_run_backward(const gatecore_layer*, const gatecore_arguments*);
// The host's OpenMP: its GOMP_parallel and omp_get_num_threads; null for the library's own pool.
void gatecore_use_openmp(void* parallel, void* num_threads);
}
#pragma GCC visibility pop
