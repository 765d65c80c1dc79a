// One step of a cell for one batch row, forward and backward: templates on the mechanism's fields.
// The products with the recurrent weights come between the steps; all else of a step is here.
#pragma once

#include "block.cuh"
#include "sequence.cuh"

namespace gatecore {

template <typename T, Core core, Activation activation, Auxiliary auxiliary>
struct Step {
    static constexpr bool input_gate = has_input(core, auxiliary);
    static constexpr bool tied = is_tied(core, auxiliary);
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
        return auxiliary == mastered ? 2 : 1 + input_gate;
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
        return {gates(0)[place], gates(1)[place]};
    }
    GATECORE_FUNCTION Gate<T> gate(long long column, long long unit) const {
        return sigmoid(logits()[column + unit]);
    }

    // ---- one unit's gates and candidate, from complete logits

    struct Unit {
        Gates<T> gates;
        Effective<T> effective;
        T candidate;   // u, after its tanh
        Gate<T> other;  // the LSTM's output gate, the GRU's reset gate
    };

    GATECORE_FUNCTION Unit unit(long long k) const {
        Unit u = {};
        u.gates = gates_of<T, core, activation, auxiliary>(
            sequence, [&](long long column) { return gate(column, k); },
            [&](int which) { return main_gate(which, k); });
        u.effective = effective<core, auxiliary>(u.gates);
        T logit = logits()[sequence.candidate + k];
        if (core == lstm) u.other = gate(sequence.output, k);
        if (core == gru) {
            u.other = gate(sequence.reset, k);
            logit += u.other.value * logits()[sequence.state_candidate + k];
        }
        u.candidate = tangent(logit);
        return u;
    }

    // Zoneout: a mask of the same shape as the states, or a probability.
    GATECORE_FUNCTION T zoneout_cell(long long k) const {
        return sequence.zoneout_mask_cell ? sequence.zoneout_mask_cell[states(t) + k]
                                          : static_cast<T>(sequence.zoneout_cell);
    }
    GATECORE_FUNCTION T zoneout_hidden(long long k) const {
        return sequence.zoneout_mask_hidden ? sequence.zoneout_mask_hidden[states(t) + k]
                                            : static_cast<T>(sequence.zoneout_hidden);
    }
    // A state after the step, or its cotangent: 0 where the next step resets it, even from NaN.
    GATECORE_FUNCTION T carried(T value) const {
        return sequence.resets && t + 1 < sequence.time &&
                       sequence.resets[(t + 1) * sequence.batch + row]
                   ? static_cast<T>(0)
                   : value;
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
            logits()[sequence.state_candidate + k] = sequence.bias_n[k];
            complete(sequence.state_candidate, k);
        }
        if (auxiliary == mastered || !ordered) {
            complete(sequence.forget, k);
            if (input_gate) complete(sequence.input, k);
        }
        if (has_refine(auxiliary)) complete(sequence.refine, k);
        if (auxiliary == untied) complete(sequence.refine_input, k);
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
        const T old = sequence.saved_hidden[states(t) + k];
        T hidden;
        if (core == lstm) {
            const T old_cell = sequence.saved_cell[states(t) + k];
            T cell = update<tied>(u.effective, u.candidate, old_cell);
            hidden = u.other.value * tangent(cell);
            cell = zoneout(zoneout_cell(k), old_cell, cell);
            sequence.saved_cell[states(t + 1) + k] = carried(cell);
            if (sequence.output_cell) sequence.output_cell[states(t) + k] = cell;
        } else {
            hidden = update<tied>(u.effective, u.candidate, old);
        }
        hidden = zoneout(zoneout_hidden(k), old, hidden);
        sequence.output_hidden[states(t) + k] = hidden;
        hidden = carried(hidden);
        sequence.saved_hidden[states(t + 1) + k] = hidden;
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

    // From the cotangent v of the new state to that of the old one; the rest goes to the logits.
    GATECORE_FUNCTION T update_backward(const Unit& u, long long k, T old, T v) const {
        const UpdateCotangents<T> d = update_vjp<tied>(u.effective, u.candidate, old, v);
        const T d_candidate = tanh_vjp(u.candidate, d.candidate);
        emit(sequence.candidate, k, d_candidate);
        if (core == gru) {
            emit(sequence.state_candidate, k, d_candidate * u.other.value);
            emit(sequence.reset, k,
                 factor_vjp(u.other, logits()[sequence.state_candidate + k], d_candidate));
        }
        to_slots<core, activation, auxiliary>(
            u.gates, gates_vjp<core, auxiliary>(u.gates, d.forget, d.write), sequence,
            [&](long long column, T cotangent) { emit(column, k, cotangent); },
            [&](int which, T cotangent) { d_main(which)[k] = cotangent; });
        return d.state;
    }

    GATECORE_FUNCTION void backward_unit(long long k) const {
        const long long place = row * sequence.hidden + k;
        const Unit u = unit(k);
        T v = carried(sequence.d_hidden[place] + sequence.d_state[place]);
        if (sequence.d_output_hidden) v += sequence.d_output_hidden[states(t) + k];
        const T old = v * zoneout_hidden(k);
        v -= old;
        if (core != lstm) {
            sequence.d_hidden[place] = old + update_backward(u, k, sequence.saved_hidden[states(t) + k], v);
            return;
        }
        const T old_cell = sequence.saved_cell[states(t) + k];
        const T squashed = tangent(update<tied>(u.effective, u.candidate, old_cell));
        T w = carried(sequence.d_cell[place]);
        if (sequence.d_output_cell) w += sequence.d_output_cell[states(t) + k];
        const T kept = w * zoneout_cell(k);
        w = w - kept + tanh_vjp(squashed, v * u.other.value);
        emit(sequence.output, k, factor_vjp(u.other, squashed, v));
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
            const Span part = span(block, width);
            for (int k = part.begin; k < part.end; ++k) emit(main_column(which), k, out[k]);
        } else {
            for (int k = block.thread; k < width; k += block.threads) {
                T total = 0;
                for (int j = k * repeats; j < (k + 1) * repeats; ++j) total += d_main(which)[j];
                const Gate<T> gate = main_gate(which, static_cast<long long>(k) * repeats);
                emit(main_column(which), k, total * slope(gate));
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
