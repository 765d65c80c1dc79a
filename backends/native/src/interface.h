// The library's C interface: plain structs of sizes and pointers, plain functions, error codes.
// All arrays are float32, C-contiguous unless a leading dimension is named, and belong to the
// caller. Columns: one step's logits stand in the order of backends/common/layout.py (candidate,
// gates, for the GRU the state's part of the candidate last), `width` of them.
#pragma once

#include <cstddef>
#include <cstdint>

#pragma GCC visibility push(default)
extern "C" {

enum Core { LSTM = 0, GRU = 1, MINIMAL = 2, MINGRU = 3 };
enum Auxiliary { NONE = 0, REFINE = 1, MASTER = 2, UNTIED = 3 };
enum Activation { SIGMOID = 0, CUMAX = 1 };
#if defined(__aarch64__)
enum InstructionSet { PORTABLE = 0, NEON = 1 };
#else
enum InstructionSet { PORTABLE = 0, AVX2 = 1, AVX512 = 2 };
#endif
enum { CHECKPOINT = 16 };  // MINGRU: steps from one saved state to the next
enum Status { OK = 0, NO_INSTRUCTION_SET = 1, BAD_SHAPE = 2 };

// What is computed, and over which sizes.
struct gatecore_layer {
  int32_t core, auxiliary, activation;
  int32_t linear_candidate;   // MINGRU: whether the candidate is its logit, not tanh of it
  int32_t downsize;           // units that share a master gate
  int32_t time, batch, input_size, hidden_size;
  int32_t width;              // columns of a step
  int32_t rows;               // rows of the packed weights: columns of the input's product
  int32_t state_offset;       // first column of the state's product; `rows` of them follow
  // first column of each slot, -1 where the cell lacks it
  int32_t candidate, forget, input, refine, refine_input, output, reset, master_forget, master_input;
  int32_t threads, instruction_set;  // at most so many threads
  int32_t split;              // 0: choose; 1: by sequences of the batch; 2: by columns
  int32_t saves;              // 0: no backward call follows
  const int32_t* input_rows;  // (rows,) weight row of each column of the input's product
  const int32_t* state_rows;  // (rows,) the same for the state's product
};

// The arguments of both calls. A pointer that a cell or a call does not need may be null.
struct gatecore_arguments {
  // read by both calls
  const float* x;                                // (time, batch, input)
  const float *weight_ih, *weight_hh;            // (rows, input), (rows, hidden)
  // (rows,) or null for zeros: summed, but for the GRU's candidate, which has (hidden,) bias_n instead of
  const float *bias, *bias_hh, *bias_n;  // bias_hh. The backward call reads MINGRU's alone
  const uint8_t* resets;                         // (time, batch) or null: zero the state before it
  const float *zoneout_mask_hidden, *zoneout_mask_cell;  // (time, batch, hidden), or null: these
  float zoneout_hidden, zoneout_cell;                    // probabilities
  // written by the forward call, read by the backward call; saves = 0 takes (1, ...) and (2, ...);
  // MINGRU has no gates, and states (time / CHECKPOINT rounded up, batch, hidden), with saves = 0 none
  float* saved_gates;                            // (time, batch, gatecore_stride(layer))
  float *saved_hidden, *saved_cell;              // (time + 1, batch, hidden); the cell's of an LSTM
  // the forward call
  const float *initial_hidden, *initial_cell;    // (batch, hidden) or null for zeros
  float *output_hidden, *output_cell;            // (time, batch, hidden) or null, but MINGRU's
  float *final_hidden, *final_cell;              // (batch, hidden) or null
  // the backward call: cotangents
  const float *d_output_hidden, *d_output_cell;  // (time, batch, hidden) or null for zeros
  const float *d_final_hidden, *d_final_cell;    // (batch, hidden) or null for zeros
  float *d_initial_hidden, *d_initial_cell;      // (batch, hidden) or null
  float* d_x;                                    // (time, batch, input) or null
  float *d_weight_ih, *d_weight_hh, *d_bias, *d_bias_n;  // GRU: d_bias_n
  // instead of these four, not of MINGRU: (time, batch, width), in the order of the weights' rows, then
  float* d_logits;  // the GRU's part of the candidate of the state; or null
  float* scratch;                                // gatecore_forward_scratch or _backward_scratch floats
};

int32_t gatecore_version();
int32_t gatecore_best_instruction_set();
// A loop of so many rounds of FMAs on registers; its floating-point operations. 0 where the processor
// lacks the instruction set.
double gatecore_multiply_adds(int32_t instruction_set, int64_t rounds);
size_t gatecore_stride(const gatecore_layer*);            // floats between two rows of gates
size_t gatecore_forward_scratch(const gatecore_layer*);   // floats
size_t gatecore_backward_scratch(const gatecore_layer*, int32_t wants_d_x);
int32_t gatecore_run_forward(const gatecore_layer*, const gatecore_arguments*);
int32_t gatecore_run_backward(const gatecore_layer*, const gatecore_arguments*);
// The host's OpenMP: its GOMP_parallel and omp_get_num_threads; null for the library's own pool.
void gatecore_use_openmp(void* parallel, void* num_threads);
}
#pragma GCC visibility pop
