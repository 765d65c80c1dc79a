// The step kernels and the header's functions, as plain C++ for the host: every CUDA thread is a
// loop iteration, or where `threads` > 1 a thread of its own that meets the others at each barrier, and
// at each exchange in a warp of `lanes`.
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "cells.cuh"
#include "copies.cuh"

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

// Calls work(block) once for each thread of a block.
template <typename T, typename Work>
void as_block(int threads, int lanes, Work work) {
    std::vector<T> shared(6 * (threads / lanes)), exchanged(threads);
    Barrier barrier(threads);
    std::vector<std::thread> others;
    auto block = [&](int k) {
        return Block{k, threads, shared.data(), lanes, meet, &barrier, exchanged.data()};
    };
    for (int k = 1; k < threads; ++k) others.emplace_back([&, k] { work(block(k)); });
    work(block(0));
    for (auto& other : others) other.join();
}

template <typename T> struct Launch {
    const Shape<T>& shape;
    const Sequence<T>& sequence;
    long long number;
    int threads, lanes;
};

template <typename T, Core core, Activation activation, Auxiliary auxiliary>
void run(int direction, const Launch<T>& l) {
    as_block<T>(l.threads, l.lanes, [&](const Block& block) {
        const long long t = l.sequence.first + (direction == 0 ? l.number : -l.number);
        for (long long row = 0; row < l.shape.batch; ++row) {
            Step<T, core, activation, auxiliary> step{l.shape, l.sequence, block, t, row};
            if (direction == 0) step.forward(block.thread, block.threads);
            else step.backward(block.thread, block.threads);
            block.wait();
        }
    });
}

template <typename T, Core core, Activation activation>
void with_auxiliary(int auxiliary, int direction, const Launch<T>& l) {
    if (auxiliary == 0) run<T, core, activation, none>(direction, l);
    if (auxiliary == 1) run<T, core, activation, refined>(direction, l);
    if (auxiliary == 2) run<T, core, activation, mastered>(direction, l);
    if (auxiliary == 3) run<T, core, activation, untied>(direction, l);
}

template <typename T, Core core>
void with_activation(int activation, int auxiliary, int direction, const Launch<T>& l) {
    if (activation == 0) with_auxiliary<T, core, by_sigmoid>(auxiliary, direction, l);
    else with_auxiliary<T, core, by_cumax>(auxiliary, direction, l);
}

template <typename T>
void with_core(int core, int activation, int auxiliary, int direction, const void* shape,
               const void* sequence, long long number, int threads, int lanes) {
    const Launch<T> l = {*static_cast<const Shape<T>*>(shape),
                         *static_cast<const Sequence<T>*>(sequence), number, threads, lanes};
    if (core == 0) with_activation<T, lstm>(activation, auxiliary, direction, l);
    if (core == 1) with_activation<T, gru>(activation, auxiliary, direction, l);
    if (core == 2) with_activation<T, minimal>(activation, auxiliary, direction, l);
}

template <typename T> void all_copies(const void* copies, int count, int threads) {
    for (int k = 0; k < count; ++k)
        for (int thread = 0; thread < threads; ++thread)
            copy_entries(static_cast<const Copies<T>*>(copies)->copies[k], thread, threads);
}

}  // namespace

extern "C" {

// One launch of so many threads a copy
void run_copies(int is_double, const void* copies, int count, int threads) {
    auto run = is_double ? all_copies<double> : all_copies<float>;
    run(copies, count, threads);
}

int copies_bytes() { return sizeof(Copies<float>); }
int shape_bytes() { return sizeof(Shape<float>); }
int sequence_bytes() { return sizeof(Sequence<float>); }

// One launch for all rows: direction 0 forward, 1 backward; the fields in the enums' order.
void run_step(int is_double, int core, int activation, int auxiliary, int direction,
              const void* shape, const void* sequence, long long number, int threads, int lanes) {
    auto with = is_double ? with_core<double> : with_core<float>;
    with(core, activation, auxiliary, direction, shape, sequence, number, threads, lanes);
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

// out (2, 4, count): value, complement, softmax, cotangent of the logits, of the gates of z and of -z
void cumax_row(int threads, int lanes, int count, int repeats, int negated, const float* z,
               const float* v, float* out) {
    float* all[] = {out, out + 4 * count};
    for (int k = 0; k < count; ++k) {
        all[0][2 * count + k] = z[k];
        all[1][2 * count + k] = -z[k];
    }
    as_block<float>(threads, lanes, [&](const Block& block) {
        Ordered<float> gates[2];
        Global<float> d_logits[2];
        for (int n = 0; n < 2; ++n) {
            gates[n] = {{all[n]}, {all[n] + count}, {all[n] + 2 * count}};
            d_logits[n] = {all[n] + 3 * count};
        }
        auto cotangent = [&](int, int k) {
            float total = 0;
            for (int j = k * repeats; j < (k + 1) * repeats; ++j) total += v[j];
            return negated ? -total : total;
        };
        cumax(block, count, gates);
        block.wait();
        cumax_vjp(block, count, gates, cotangent, d_logits);
    });
}

// out (count,): Newton's step for 1 / x from y
void newton_row(long long count, const float* x, const float* y, float* out) {
    for (long long k = 0; k < count; ++k) out[k] = newton(x[k], y[k]);
}

}  // extern "C"
