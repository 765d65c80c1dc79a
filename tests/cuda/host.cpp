// The step kernels and the header's functions, as plain C++ for the host: every CUDA thread is a
// loop iteration, or where `threads` > 1 a thread of its own that meets the others at each barrier.
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "cells.cuh"

using namespace gatecore;

namespace {

class Barrier {
  public:
    explicit Barrier(int members) : members_(members) {}
    void wait() {
        std::unique_lock<std::mutex> lock(mutex_);
        const long round = round_;
        if (++waiting_ == members_) {
            waiting_ = 0;
            ++round_;
            all_.notify_all();
        } else {
            all_.wait(lock, [&] { return round_ != round; });
        }
    }

  private:
    std::mutex mutex_;
    std::condition_variable all_;
    int members_, waiting_ = 0;
    long round_ = 0;
};

void meet(void* barrier) { static_cast<Barrier*>(barrier)->wait(); }

// Calls work(block) once for each thread of a block that shares 2 * threads numbers.
template <typename T, typename Work>
void as_block(int threads, Work work) {
    std::vector<T> shared(2 * threads);
    Barrier barrier(threads);
    std::vector<std::thread> others;
    for (int k = 1; k < threads; ++k)
        others.emplace_back([&, k] { work(Block{k, threads, shared.data(), meet, &barrier}); });
    work(Block{0, threads, shared.data(), meet, &barrier});
    for (auto& other : others) other.join();
}

template <typename T, Core core, Activation activation, Auxiliary auxiliary>
void run(int direction, const Sequence<T>& sequence, long long t, int threads) {
    as_block<T>(threads, [&](const Block& block) {
        for (long long row = 0; row < sequence.batch; ++row) {
            Step<T, core, activation, auxiliary> step{sequence, block, t, row};
            if (direction == 0) step.forward(block.thread, block.threads);
            else step.backward(block.thread, block.threads);
            block.wait();
        }
    });
}

template <typename T, Core core, Activation activation>
void with_auxiliary(int auxiliary, int direction, const Sequence<T>& s, long long t, int threads) {
    if (auxiliary == 0) run<T, core, activation, none>(direction, s, t, threads);
    if (auxiliary == 1) run<T, core, activation, refined>(direction, s, t, threads);
    if (auxiliary == 2) run<T, core, activation, mastered>(direction, s, t, threads);
    if (auxiliary == 3) run<T, core, activation, untied>(direction, s, t, threads);
}

template <typename T, Core core>
void with_activation(int activation, int auxiliary, int direction, const Sequence<T>& s,
                     long long t, int threads) {
    if (activation == 0)
        with_auxiliary<T, core, by_sigmoid>(auxiliary, direction, s, t, threads);
    else
        with_auxiliary<T, core, by_cumax>(auxiliary, direction, s, t, threads);
}

template <typename T>
void with_core(int core, int activation, int auxiliary, int direction, const void* arguments,
               long long t, int threads) {
    const Sequence<T>& s = *static_cast<const Sequence<T>*>(arguments);
    if (core == 0) with_activation<T, lstm>(activation, auxiliary, direction, s, t, threads);
    if (core == 1) with_activation<T, gru>(activation, auxiliary, direction, s, t, threads);
    if (core == 2) with_activation<T, minimal>(activation, auxiliary, direction, s, t, threads);
}

}  // namespace

extern "C" {

int arguments_bytes() { return sizeof(Sequence<float>); }

// One time step of all rows: direction 0 forward, 1 backward; the fields in the enums' order.
void run_step(int is_double, int core, int activation, int auxiliary, int direction,
              const void* arguments, long long t, int threads) {
    if (is_double)
        with_core<double>(core, activation, auxiliary, direction, arguments, t, threads);
    else
        with_core<float>(core, activation, auxiliary, direction, arguments, t, threads);
}

// Elementwise over (count,): x, y logits; results are stacked, one row of (count,) each.

void refine_row(long long count, const float* x, const float* y, const float* v, float* out) {
    for (long long k = 0; k < count; ++k) {
        Gates<float> gates = {};
        gates.forget = sigmoid(x[k]);
        gates.refine = sigmoid(y[k]);
        const Gate<float> f = gates.forget, g = refine(f, gates.refine);
        const GatesCotangents<float> d = gates_vjp<lstm, refined>(gates, v[k], 0.0f);
        const float row[] = {f.value, f.complement, v[k] * slope(f), g.value, g.complement,
                             d.forget, d.refine};
        for (int j = 0; j < 7; ++j) out[j * count + k] = row[j];
    }
}

// logits (4, count) of F, I, f, i; cotangents v of the effective forget gate, w of the input gate
void master_row(long long count, const float* logits, const float* v, const float* w, float* out) {
    for (long long k = 0; k < count; ++k) {
        const Gate<float> big_f = sigmoid(logits[k]), big_i = sigmoid(logits[count + k]);
        const Gate<float> f = sigmoid(logits[2 * count + k]), i = sigmoid(logits[3 * count + k]);
        const Gate<float> forget = master(big_f, big_i, f), input = master(big_i, big_f, i);
        const GatesCotangents<float> d =
            gates_vjp<lstm, mastered>(Gates<float>{f, i, {}, {}, big_f, big_i}, v[k], w[k]);
        const float row[] = {forget.value, forget.complement, input.value, input.complement,
                             d.master_forget, d.master_input};
        for (int j = 0; j < 6; ++j) out[j * count + k] = row[j];
    }
}

// out (4, count): value, complement, softmax, cotangent of the logits
void cumax_row(int threads, int count, int repeats, int negated, const float* z, const float* v,
               float* out) {
    as_block<float>(threads, [&](const Block& block) {
        cumax(block, count, z, out, out + count, out + 2 * count);
        block.wait();
        cumax_vjp(block, count, repeats, negated != 0, out, out + count, out + 2 * count, v,
                  out + 3 * count);
    });
}

}  // extern "C"
