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
    l.hidden = hidden;
    int next = 0;
    auto slot = [&](bool there, int width) {
      const int first = next;
      if (there) next += width;
      return there ? first : -1;
    };
    const bool refine = auxiliary == REFINE, master = auxiliary == MASTER;
    l.candidate = slot(true, hidden);
    l.forget = slot(true, hidden);
    l.input_gate = slot(core == LSTM && !refine, hidden);
    l.refine = slot(refine, hidden);
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
  size_t sums = 0;  // the weights' gradients start here: sums over the whole batch
  void add(const Buffer& b, size_t n) { all.insert(all.end(), b.get(), b.get() + n); }
};

static void check(int status) {
  if (status) std::exit((std::printf("status %d\n", status), 2));
}

static Results run(const gatecore_layer& l, bool resets, bool draws, bool saves, bool wants_d_x) {
  const size_t T = l.time, B = l.batch, I = l.input, H = l.hidden, steps = T * B;
  const bool lstm = l.core == LSTM, gru = l.core == GRU;
  state = 1;
  Buffer x = random_buffer(steps * I), weight_ih = random_buffer(l.rows * I);
  Buffer weight_hh = random_buffer(l.rows * H), bias = random_buffer(l.rows);
  Buffer bias_n = random_buffer(H), keep_cell = random_buffer(steps * H);
  Buffer keep_hidden = random_buffer(steps * H);
  std::unique_ptr<uint8_t[]> zero(new uint8_t[steps]);
  for (size_t i = 0; i < steps; i++) zero[i] = random_float() > 0.6f;
  const size_t kept = saves ? T : 1, states = saves ? T + 1 : 2, BH = B * H;
  Buffer gates = plain_buffer(kept * B * gatecore_stride(&l));
  Buffer hidden = plain_buffer(states * BH), cell = plain_buffer(states * BH);
  for (size_t i = 0; i < BH; i++) hidden[i] = random_float(), cell[i] = random_float();
  Buffer output = plain_buffer(steps * H), output_cell = plain_buffer(steps * H);
  Results results;

  gatecore_forward f = {};
  f.x = x.get();
  f.weight_ih = weight_ih.get();
  f.weight_hh = weight_hh.get();
  f.bias = bias.get();
  f.bias_n = gru ? bias_n.get() : nullptr;
  f.resets = resets ? zero.get() : nullptr;
  f.keep_cell = draws && lstm ? keep_cell.get() : nullptr;
  f.keep_hidden = draws ? keep_hidden.get() : nullptr;
  f.kept_hidden = resets ? 0.1f : 0.0f;
  f.gates = gates.get();
  f.hidden = hidden.get();
  f.cell = lstm ? cell.get() : nullptr;
  f.output = output.get();
  f.output_cell = lstm ? output_cell.get() : nullptr;
  f.saves = saves;
  {
    Buffer scratch = plain_buffer(gatecore_forward_scratch(&l));
    f.scratch = scratch.get();
    check(gatecore_run_forward(&l, &f));
  }
  results.add(output, steps * H);
  if (lstm) results.add(output_cell, steps * H);
  results.sums = results.all.size();
  if (!saves) return results;

  Buffer d_output = random_buffer(steps * H), d_output_cell = random_buffer(steps * H);
  Buffer d_hidden = random_buffer(BH), d_cell = random_buffer(BH);
  Buffer d_x = plain_buffer(steps * I), d_weight_ih = plain_buffer(l.rows * I);
  Buffer d_weight_hh = plain_buffer(l.rows * H), d_bias = plain_buffer(l.rows);
  Buffer d_bias_n = plain_buffer(H);
  Buffer scratch = plain_buffer(gatecore_backward_scratch(&l, wants_d_x));
  gatecore_backward b = {};
  b.forward = &f;
  b.d_output = d_output.get();
  b.d_output_cell = lstm && draws ? d_output_cell.get() : nullptr;
  // without d_x nobody wants the states' cotangents either
  b.d_hidden = wants_d_x ? d_hidden.get() : nullptr;
  b.d_cell = wants_d_x && lstm ? d_cell.get() : nullptr;
  b.d_x = wants_d_x ? d_x.get() : nullptr;
  b.d_weight_ih = d_weight_ih.get();
  b.d_weight_hh = d_weight_hh.get();
  b.d_bias = d_bias.get();
  b.d_bias_n = gru ? d_bias_n.get() : nullptr;
  b.scratch = scratch.get();
  check(gatecore_run_backward(&l, &b));
  if (wants_d_x) {
    results.add(d_hidden, BH);
    if (lstm) results.add(d_cell, BH);
    results.add(d_x, steps * I);
  }
  results.sums = results.all.size();
  results.add(d_weight_ih, l.rows * I);
  results.add(d_weight_hh, l.rows * H);
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

// The same numbers, but for the order in which the weights' gradients sum `terms` numbers: roundings
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
                         {2, 4, 17, 33, 2}, {0, 2, 3, 4, 1},  {2, 0, 3, 4, 1}, {2, 1030, 1, 2, 1}};
  int runs = 0;
  for (int kind = 0; kind < 18; kind++)
    for (const Sizes& size : sizes) {
      if (quick && size.time * size.batch > 30) continue;
      const int auxiliary = kind / 2 % 3, times = auxiliary == MASTER ? size.downsize : 1;
      Layout layout(kind / 6, auxiliary, kind % 2, times, size.units * times);
      gatecore_layer& l = layout.layer;
      l.time = size.time;
      l.batch = size.batch;
      l.input = size.input;
      l.instruction_set = set;
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
              !agree(all, first, size.time * size.batch) ||
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
