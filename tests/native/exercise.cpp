// Runs every cell with every way to form its gates through the C interface, on buffers of exactly
// the sizes that interface.h says, all on the heap, so that a sanitizer or valgrind sees each access
// beyond them. Ends with status 0 if every result is finite, a second call gives the same bits, and
// threads and splits change nothing but the rounding of the weights' gradients.
//
//     exercise [instruction set] [quick]
#include "interface.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

typedef std::unique_ptr<float[]> Buffer;

static uint32_t state = 1;
static float random_float() {  // in -1 .. 1
  state = state * 1664525u + 1013904223u;
  return (float)(state >> 8) / (1 << 23) - 1.0f;
}
static Buffer random_buffer(size_t n) {
  Buffer b(new float[n]);
  for (size_t i = 0; i < n; i++) b[i] = random_float();
  return b;
}
static Buffer plain_buffer(size_t n) { return Buffer(new float[n]); }  // to be written by the library

// Columns as the explicit driver's plan orders them, and the packed rows that they come from.
struct Layout {
  gatecore_layer layer = {};
  std::vector<int32_t> input_rows, state_rows;

  Layout(int core, int auxiliary, int activation, int downsize, int hidden) {
    gatecore_layer& l = layer;
    l.core = core;
    l.auxiliary = auxiliary;
    l.activation = activation;
    l.downsize = downsize;
    l.hidden_size = hidden;
    int next = 0;
    auto slot = [&](bool there, int width) {
      const int first = next;
      if (there) next += width;
      return there ? first : -1;
    };
    const bool untied = auxiliary == UNTIED, refine = auxiliary == REFINE || untied;
    const bool master = auxiliary == MASTER;
    l.candidate = slot(true, hidden);
    l.forget = slot(true, hidden);
    l.input = slot((core == LSTM && !refine) || untied, hidden);
    l.refine = slot(refine, hidden);
    l.refine_input = slot(untied, hidden);
    l.output = slot(core == LSTM, hidden);
    l.reset = slot(core == GRU, hidden);
    l.master_forget = slot(master, hidden / downsize);
    l.master_input = slot(master, hidden / downsize);
    l.rows = next;
    l.state_offset = core == GRU ? hidden : 0;
    l.width = next + l.state_offset;
    for (int i = 0; i < l.rows; i++) {
      input_rows.push_back(i);
      state_rows.push_back((i + l.state_offset) % l.rows);  // the GRU's candidate comes last
    }
    l.input_rows = input_rows.data();
    l.state_rows = state_rows.data();
  }
};

struct Results {
  std::vector<float> all;
  size_t sums = 0;  // the weights' gradients start here, and MINGRU's d_x: sums that threads share
  void add(const Buffer& b, size_t n) { all.insert(all.end(), b.get(), b.get() + n); }
};

static void check(int status) {
  if (status) std::exit((std::printf("status %d\n", status), 2));
}

static Results run(gatecore_layer l, bool resets, bool draws, bool saves, bool wants_d_x) {
  l.saves = saves;
  const size_t T = l.time, B = l.batch, I = l.input_size, H = l.hidden_size, steps = T * B;
  const bool lstm = l.core == LSTM, gru = l.core == GRU, mingru = l.core == MINGRU;
  state = 1;
  Buffer x = random_buffer(steps * I), weight_ih = random_buffer(l.rows * I);
  Buffer weight_hh = random_buffer(l.rows * H), bias = random_buffer(l.rows);
  Buffer bias_n = random_buffer(H), mask_cell = random_buffer(steps * H);
  Buffer mask_hidden = random_buffer(steps * H);
  std::unique_ptr<uint8_t[]> zero(new uint8_t[steps]);
  for (size_t i = 0; i < steps; i++) zero[i] = random_float() > 0.6f;
  const size_t kept = mingru ? 0 : saves ? T : 1, BH = B * H, checkpoints = (T + CHECKPOINT - 1) / CHECKPOINT;
  const size_t states = mingru ? saves * checkpoints : saves ? T + 1 : 2;
  Buffer gates = plain_buffer(kept * B * gatecore_stride(&l));
  Buffer hidden = plain_buffer(states * BH), cell = plain_buffer(states * BH);
  Buffer initial_hidden = random_buffer(BH), initial_cell = random_buffer(BH);
  Buffer final_hidden = plain_buffer(BH), final_cell = plain_buffer(BH);
  Buffer output = plain_buffer(steps * H), output_cell = plain_buffer(steps * H);
  Results results;

  gatecore_arguments a = {};
  a.x = x.get();
  a.weight_ih = weight_ih.get();
  a.weight_hh = mingru ? nullptr : weight_hh.get();
  a.bias = bias.get();
  a.bias_n = gru ? bias_n.get() : nullptr;
  a.resets = resets ? zero.get() : nullptr;
  a.zoneout_mask_cell = draws && lstm ? mask_cell.get() : nullptr;
  a.zoneout_mask_hidden = draws ? mask_hidden.get() : nullptr;
  a.zoneout_hidden = resets ? 0.1f : 0.0f;
  a.saved_gates = gates.get();
  a.saved_hidden = hidden.get();
  a.saved_cell = lstm ? cell.get() : nullptr;
  a.initial_hidden = initial_hidden.get();
  a.initial_cell = lstm && !resets ? initial_cell.get() : nullptr;
  a.output_hidden = output.get();
  a.output_cell = lstm ? output_cell.get() : nullptr;
  a.final_hidden = final_hidden.get();
  a.final_cell = lstm ? final_cell.get() : nullptr;
  {
    Buffer scratch = plain_buffer(gatecore_forward_scratch(&l));
    a.scratch = scratch.get();
    check(gatecore_run_forward(&l, &a));
  }
  results.add(output, steps * H);
  results.add(final_hidden, BH);
  if (lstm) results.add(output_cell, steps * H), results.add(final_cell, BH);
  results.sums = results.all.size();
  if (!l.saves) return results;

  Buffer d_output = random_buffer(steps * H), d_output_cell = random_buffer(steps * H);
  Buffer d_final_hidden = random_buffer(BH), d_final_cell = random_buffer(BH);
  Buffer d_initial_hidden = plain_buffer(BH), d_initial_cell = plain_buffer(BH);
  Buffer d_x = plain_buffer(steps * I), d_weight_ih = plain_buffer(l.rows * I);
  Buffer d_weight_hh = plain_buffer(l.rows * H), d_bias = plain_buffer(l.rows);
  Buffer d_bias_n = plain_buffer(H);
  Buffer scratch = plain_buffer(gatecore_backward_scratch(&l, wants_d_x));
  a.d_output_hidden = d_output.get();
  a.d_output_cell = lstm && draws ? d_output_cell.get() : nullptr;
  a.d_final_hidden = wants_d_x ? d_final_hidden.get() : nullptr;
  a.d_final_cell = wants_d_x && lstm ? d_final_cell.get() : nullptr;
  // without d_x the initial states' cotangents are not wanted either
  a.d_initial_hidden = wants_d_x ? d_initial_hidden.get() : nullptr;
  a.d_initial_cell = wants_d_x && lstm ? d_initial_cell.get() : nullptr;
  a.d_x = wants_d_x ? d_x.get() : nullptr;
  a.d_weight_ih = d_weight_ih.get();
  a.d_weight_hh = mingru ? nullptr : d_weight_hh.get();
  a.d_bias = d_bias.get();
  a.d_bias_n = gru ? d_bias_n.get() : nullptr;
  a.scratch = scratch.get();
  check(gatecore_run_backward(&l, &a));
  if (wants_d_x) {
    results.add(d_initial_hidden, BH);
    if (lstm) results.add(d_initial_cell, BH);
    if (mingru) results.sums = results.all.size();
    results.add(d_x, steps * I);
  }
  if (!mingru || !wants_d_x) results.sums = results.all.size();
  results.add(d_weight_ih, l.rows * I);
  if (!mingru) results.add(d_weight_hh, l.rows * H);
  results.add(d_bias, l.rows);
  if (gru) results.add(d_bias_n, H);
  return results;
}

static bool finite(const Results& r) {
  for (float value : r.all)
    if (!std::isfinite(value)) return false;
  return true;
}

static bool equal(const Results& a, const Results& b, size_t count) {
  return !count || !std::memcmp(a.all.data(), b.all.data(), count * sizeof(float));
}

// The same numbers, but for the order in which the last ones sum `terms` numbers: roundings
// wander off with the square root of how many there are.
static bool agree(const Results& a, const Results& b, int terms) {
  if (a.all.size() != b.all.size() || a.sums != b.sums || !equal(a, b, a.sums)) return false;
  float largest = 1.0f;
  for (size_t i = a.sums; i < a.all.size(); i++) largest = std::fmax(largest, std::fabs(a.all[i]));
  for (size_t i = a.sums; i < a.all.size(); i++)
    if (std::fabs(a.all[i] - b.all[i]) > 1e-7f * std::sqrt(1.0f + terms) * largest) return false;
  return true;
}

struct Sizes { int time, batch, input, units, downsize; };

int main(int arguments, char** argument) {
  const int set = arguments > 1 ? std::atoi(argument[1]) : gatecore_best_instruction_set();
  const bool quick = arguments > 2;
  const Sizes sizes[] = {{5, 3, 2, 7, 3},  {3, 9, 1, 19, 1}, {70, 8, 3, 5, 2}, {1, 1, 1, 1, 1},
                         {2, 4, 17, 33, 2}, {0, 2, 3, 4, 1},  {2, 0, 3, 4, 1}, {2, 1030, 1, 2, 1},
                         {300, 1, 5, 40, 1},
                         {1, 6, 3, 35, 1}};
  int runs = 0;
  for (int kind = 0; kind < 32; kind++)
    for (const Sizes& size : sizes) {
      if (quick && size.time * size.batch > 30) continue;
      const int auxiliary = kind / 2 % 4, times = auxiliary == MASTER ? size.downsize : 1;
      Layout layout(kind / 8, auxiliary, kind % 2, times, size.units * times);
      gatecore_layer& l = layout.layer;
      l.time = size.time;
      l.batch = size.batch;
      l.input_size = size.input;
      l.instruction_set = set;
      l.linear_candidate = size.time % 2;
      Results first;
      for (int split = 1; split <= 2; split++)
        for (int threads = 1; threads <= 2; threads++, runs++) {
          l.split = split;
          l.threads = threads;
          const bool resets = kind % 2, draws = size.batch % 2;
          const Results all = run(l, resets, draws, true, true);
          const Results again = run(l, resets, draws, true, true);
          const Results inference = run(l, resets, draws, false, true);
          if (first.all.empty()) first = all;
          if (!finite(all) || !equal(all, again, all.all.size()) ||
              !agree(all, first, size.time * size.batch + l.width) ||
              !equal(inference, first, inference.sums)) {
            std::printf("kind %d, %d x %d, split %d, threads %d\n", kind, size.time, size.batch, split,
                        threads);
            return 1;
          }
          run(l, resets, draws, true, false);
        }
    }
  std::printf("%d runs\n", runs);
}
