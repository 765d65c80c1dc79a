// One step of a cell for one batch row, forward and backward. Templates on the mechanism's fields;
// the names are those of gatecore.backends.explicit. The products with the recurrent weights come
// between the steps; all else of a step is here.
#pragma once

#include "block.cuh"
#include "sequence.cuh"

namespace gatecore {

template <typename T, Core core, Activation activation, Auxiliary auxiliary>
struct Step {
    // what follows from the fields, as in Mechanism.slots and Mechanism.tied
    static constexpr bool has_input = core == lstm && auxiliary != refined;
    static constexpr bool tied = auxiliary == refined || (auxiliary == none && core != lstm);
    static constexpr bool ordered = activation == by_cumax;
    static constexpr bool cooperative = ordered || auxiliary == mastered;  // a block has a whole row

    const Sequence<T>& sequence;
    const Block& block;
    long long t;
    long long row;

    // ---- where things are

    GATECORE_FUNCTION long long states(long long step) const {
        return (step * sequence.batch + row) * sequence.hidden;
    }
    GATECORE_FUNCTION T* logits() const {
        return sequence.logits + (t * sequence.batch + row) * sequence.width;
    }
    GATECORE_FUNCTION T* gates(int side) const {
        return sequence.ordered + ((t * sequence.batch + row) * 3 + side) * sequence.ordered_width;
    }
    GATECORE_FUNCTION T* d_main(int which) const {
        return sequence.d_main + (row * 2 + which) * sequence.hidden;
    }

    // ---- the main gates: F and I where there are masters, else f and an LSTM's i

    GATECORE_FUNCTION static constexpr int main_gates() {
        return auxiliary == mastered || (auxiliary == none && has_input) ? 2 : 1;
    }
    GATECORE_FUNCTION long long main_column(int which) const {
        if (auxiliary == mastered) return which ? sequence.master_input : sequence.master_forget;
        return which ? sequence.input : sequence.forget;
    }
    GATECORE_FUNCTION int main_width() const {
        return static_cast<int>(auxiliary == mastered ? sequence.hidden / sequence.downsize
                                                      : sequence.hidden);
    }
    GATECORE_FUNCTION Gate<T> main_gate(int which, long long unit) const {
        const long long k = auxiliary == mastered ? unit / sequence.downsize : unit;
        if (!ordered) return sigmoid(logits()[main_column(which) + k]);
        const long long place = which * main_width() + k;
        const Gate<T> gate = {gates(0)[place], gates(1)[place]};
        return which ? negate(gate) : gate;  // an ordered input gate is 1 - cumax
    }
    GATECORE_FUNCTION Gate<T> gate(long long column, long long unit) const {
        return sigmoid(logits()[column + unit]);
    }

    // ---- one unit's gates and candidate, from complete logits

    struct Unit {
        Gate<T> forget;     // effective
        T write;            // effective input gate where it is not tied
        T candidate;        // u, after its tanh
        Gate<T> inner[2];   // f and i under masters
        Gate<T> outer[2];   // the main gates
        Gate<T> refine;
        Gate<T> side;       // the LSTM's output gate, the GRU's reset gate
    };

    GATECORE_FUNCTION Unit unit(long long k) const {
        Unit u = {};
        u.outer[0] = main_gate(0, k);
        if (main_gates() == 2) u.outer[1] = main_gate(1, k);
        if (auxiliary == none) {
            u.forget = u.outer[0];
            u.write = u.outer[1].value;
        } else if (auxiliary == refined) {
            u.refine = gate(sequence.refine, k);
            u.forget = gatecore::refine(u.outer[0], u.refine);
        } else {
            u.inner[0] = gate(sequence.forget, k);
            u.inner[1] = has_input ? gate(sequence.input, k) : negate(u.inner[0]);
            u.forget = master(u.outer[0], u.outer[1], u.inner[0]);
            u.write = master(u.outer[1], u.outer[0], u.inner[1]).value;
        }
        T logit = logits()[sequence.candidate + k];
        if (core == lstm) u.side = gate(sequence.output, k);
        if (core == gru) {
            u.side = gate(sequence.reset, k);
            logit += u.side.value * logits()[sequence.state_candidate + k];
        }
        u.candidate = tangent(logit);
        return u;
    }

    // s + (1 - g)(u - s), or s + (i u - (1 - f) s)
    GATECORE_FUNCTION static T update(const Unit& u, T old) {
        const T forgotten = u.forget.complement;
        return tied ? old + forgotten * (u.candidate - old)
                    : old + (u.write * u.candidate - forgotten * old);
    }

    GATECORE_FUNCTION T amount(const T* draws, double constant, long long k) const {
        return draws ? draws[states(t) + k] : static_cast<T>(constant);
    }
    GATECORE_FUNCTION T kept_cell(long long k) const {
        return amount(sequence.zone_cell, sequence.amount_cell, k);
    }
    GATECORE_FUNCTION T kept_hidden(long long k) const {
        return amount(sequence.zone_hidden, sequence.amount_hidden, k);
    }
    GATECORE_FUNCTION T keep_next() const {
        return sequence.keep && t + 1 < sequence.time
                   ? sequence.keep[(t + 1) * sequence.batch + row]
                   : static_cast<T>(1);
    }

    // ---- forward

    // The state's part of the logits is added where the recurrent weights feed them.
    GATECORE_FUNCTION void complete(long long column, long long k) const {
        logits()[column + k] +=
            sequence.recurrent[row * sequence.rows + column - sequence.state_window + k];
    }

    GATECORE_FUNCTION void complete_unit(long long k) const {
        if (core != gru) complete(sequence.candidate, k);
        if (core == lstm) complete(sequence.output, k);
        if (core == gru) {
            complete(sequence.reset, k);
            logits()[sequence.state_candidate + k] = sequence.bias[k];
            complete(sequence.state_candidate, k);
        }
        if (auxiliary == mastered || !ordered) {
            complete(sequence.forget, k);
            if (has_input) complete(sequence.input, k);
        }
        if (auxiliary == refined) complete(sequence.refine, k);
    }

    GATECORE_FUNCTION void activate_main() const {
        const int width = main_width();
        for (int which = 0; which < main_gates(); ++which)
            for (int k = block.thread; k < width; k += block.threads)
                complete(main_column(which), k);
        block.wait();
        if constexpr (ordered) {
            for (int which = 0; which < main_gates(); ++which)
                cumax(block, width, logits() + main_column(which), gates(0) + which * width,
                      gates(1) + which * width, gates(2) + which * width);
            block.wait();
        }
    }

    GATECORE_FUNCTION void forward_unit(long long k) const {
        complete_unit(k);
        const Unit u = unit(k);
        const T old = sequence.hiddens[states(t) + k];
        T hidden;
        if (core == lstm) {
            const T old_cell = sequence.cells[states(t) + k];
            T cell = update(u, old_cell);
            hidden = u.side.value * tangent(cell);
            cell += kept_cell(k) * (old_cell - cell);
            sequence.cells[states(t + 1) + k] = keep_next() * cell;
            if (sequence.output_cells) sequence.output_cells[states(t) + k] = cell;
        } else {
            hidden = update(u, old);
        }
        hidden += kept_hidden(k) * (old - hidden);
        sequence.outputs[states(t) + k] = hidden;
        hidden *= keep_next();
        sequence.hiddens[states(t + 1) + k] = hidden;
        sequence.state[row * sequence.hidden + k] = hidden;
    }

    // Units `first`, `first + stride`, … of the row.
    GATECORE_FUNCTION void forward(long long first, long long stride) const {
        if constexpr (cooperative) activate_main();
        for (long long k = first; k < sequence.hidden; k += stride) forward_unit(k);
    }

    // ---- backward

    GATECORE_FUNCTION void emit(long long column, long long k, T v) const {
        const long long place = column + k - sequence.state_window;
        sequence.d_logits[(t * sequence.batch + row) * sequence.width + column + k] = v;
        if (place >= 0 && place < sequence.rows)
            sequence.d_recurrent[row * sequence.rows + place] = v;
    }

    // The cotangent of a main gate's value: on to its logit, or kept until the row is complete.
    GATECORE_FUNCTION void emit_main(int which, const Unit& u, long long k, T v) const {
        if (cooperative)
            d_main(which)[k] = v;
        else
            emit(main_column(which), k, sigmoid_vjp(u.outer[which], v));
    }

    GATECORE_FUNCTION void gates_backward(const Unit& u, long long k, T v, T w) const {
        if (auxiliary == none) {
            emit_main(0, u, k, v);
            if (has_input) emit_main(1, u, k, w);
        } else if (auxiliary == refined) {
            const Pair<T> d = refine_vjp(u.outer[0], u.refine, v);
            emit_main(0, u, k, d.first);
            emit(sequence.refine, k, sigmoid_vjp(u.refine, d.second));
        } else {
            emit_main(0, u, k, master_vjp(u.outer[1], u.inner[0], v, u.inner[1], w));
            emit_main(1, u, k, master_vjp(u.outer[0], u.inner[1], w, u.inner[0], v));
            const T overlap = u.outer[0].value * u.outer[1].value;
            const T d_inner = has_input ? v * overlap : v * overlap - w * overlap;
            emit(sequence.forget, k, sigmoid_vjp(u.inner[0], d_inner));
            if (has_input) emit(sequence.input, k, sigmoid_vjp(u.inner[1], w * overlap));
        }
    }

    // From the cotangent v of the new state to that of the old one; the rest goes to the logits.
    GATECORE_FUNCTION T update_backward(const Unit& u, long long k, T old, T v) const {
        const T d_candidate = v * (tied ? u.forget.complement : u.write) * (1 - u.candidate) *
                              (1 + u.candidate);
        emit(sequence.candidate, k, d_candidate);
        if (core == gru) {
            emit(sequence.state_candidate, k, d_candidate * u.side.value);
            emit(sequence.reset, k,
                 sigmoid_vjp(u.side, d_candidate * logits()[sequence.state_candidate + k]));
        }
        gates_backward(u, k, tied ? v * (old - u.candidate) : v * old, v * u.candidate);
        return v * u.forget.value;
    }

    GATECORE_FUNCTION void backward_unit(long long k) const {
        const long long place = row * sequence.hidden + k;
        const Unit u = unit(k);
        T v = keep_next() * (sequence.d_hidden[place] + sequence.through[place]);
        if (sequence.d_outputs) v += sequence.d_outputs[states(t) + k];
        const T old = v * kept_hidden(k);
        v -= old;
        if (core != lstm) {
            sequence.d_hidden[place] = old + update_backward(u, k, sequence.hiddens[states(t) + k], v);
            return;
        }
        const T old_cell = sequence.cells[states(t) + k];
        const T squashed = tangent(update(u, old_cell));
        T w = keep_next() * sequence.d_cell[place];
        if (sequence.d_output_cells) w += sequence.d_output_cells[states(t) + k];
        const T kept = w * kept_cell(k);
        w += v * u.side.value * (1 - squashed) * (1 + squashed) - kept;
        emit(sequence.output, k, sigmoid_vjp(u.side, v * squashed));
        sequence.d_cell[place] = kept + update_backward(u, k, old_cell, w);
        sequence.d_hidden[place] = old;
    }

    GATECORE_FUNCTION void main_backward(int which) const {
        const int width = main_width();
        const int repeats = static_cast<int>(auxiliary == mastered ? sequence.downsize : 1);
        if constexpr (ordered) {
            T* out = sequence.d_logits + (t * sequence.batch + row) * sequence.width +
                     main_column(which);
            cumax_vjp(block, width, repeats, which == 1, gates(0) + which * width,
                      gates(1) + which * width, gates(2) + which * width, d_main(which), out);
            const Span own = span(block, width);
            for (int k = own.begin; k < own.end; ++k) emit(main_column(which), k, out[k]);
        } else {
            for (int k = block.thread; k < width; k += block.threads) {
                T total = 0;
                for (int j = k * repeats; j < (k + 1) * repeats; ++j) total += d_main(which)[j];
                const Gate<T> gate = main_gate(which, static_cast<long long>(k) * repeats);
                emit(main_column(which), k, sigmoid_vjp(gate, total));
            }
        }
    }

    GATECORE_FUNCTION void backward(long long first, long long stride) const {
        for (long long k = first; k < sequence.hidden; k += stride) backward_unit(k);
        if constexpr (cooperative) {
            block.wait();
            for (int which = 0; which < main_gates(); ++which) main_backward(which);
        }
    }
};

}  // namespace gatecore
