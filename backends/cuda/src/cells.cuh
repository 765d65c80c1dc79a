// One step of a cell for one batch row, forward and backward: templates on the mechanism's fields.
// The products with the recurrent weights come between the steps; all else of a step is here. A unit's
// numbers are all loaded before anything is computed from them, so that a step waits for memory once.
#pragma once

#include "block.cuh"
#include "sequence.cuh"

namespace gatecore {

template <typename T, Core core, Activation activation, Auxiliary auxiliary>
struct Step {
    static constexpr bool input_gate = has_input(core, auxiliary);
    static constexpr bool tied = is_tied(core, auxiliary);
    static constexpr bool ordered = activation == by_cumax;
    static constexpr bool masters = auxiliary == mastered;
    static constexpr bool cooperative = ordered || masters;  // a block has a whole row
    static constexpr int main_gates = masters ? 2 : 1 + input_gate;  // F and I, or f and an LSTM's i

    const Shape<T>& shape;
    const Sequence<T>& sequence;
    const Block& block;
    long long t;
    long long row;

    // ---- where things are

    GATECORE_FUNCTION bool saves() const { return sequence.operand; }
    GATECORE_FUNCTION long long unit_of(long long k) const { return row * shape.hidden + k; }
    GATECORE_FUNCTION long long unit_at(long long step, long long k) const {
        return (step * shape.batch + row) * shape.hidden + k;
    }
    GATECORE_FUNCTION T* logits() const {
        return sequence.logits + (t * shape.batch + row) * shape.rows;
    }
    GATECORE_FUNCTION T* recurrent() const { return shape.recurrent + row * shape.rows; }
    GATECORE_FUNCTION T* saved_hidden() const {
        return sequence.operand + (t * shape.batch + row) * shape.operand_width +
               shape.operand_hidden;
    }
    GATECORE_FUNCTION T* d_main(int which) const {
        return shape.d_main + (row * 2 + which) * shape.hidden;
    }
    GATECORE_FUNCTION T* gates() const {  // value, complement, softmax of the row's ordered gates
        T* const saved = sequence.ordered;
        return Global<T>{saved ? saved + (t * shape.batch + row) * 3 * shape.ordered_width
                               : shape.gates + row * 3 * shape.ordered_width};
    }
    GATECORE_FUNCTION Ordered<T> gate(int which) const {
        T* value = gates() + which * main_width();
        return {{value}, {value + shape.ordered_width}, {value + 2 * shape.ordered_width}};
    }
    GATECORE_FUNCTION long long main_column(int which) const {
        if (masters) return which ? shape.master_input : shape.master_forget;
        return which ? shape.input : shape.forget;
    }
    GATECORE_FUNCTION int main_width() const {
        return static_cast<int>(masters ? shape.master_width : shape.hidden);
    }

    // ---- one unit

    struct Logits {
        T candidate, forget, input, refine, refine_input, output, reset;
        T state_candidate;  // the GRU's U h + b_n
    };

    // visit(of a, of b, column) for each logit of unit k that is a sum of an input's and a state's part
    template <typename Visit>
    GATECORE_FUNCTION void slots(Logits& a, Logits& b, long long k, Visit visit) const {
        if (core != gru) visit(a.candidate, b.candidate, shape.candidate + k);
        if (core == lstm) visit(a.output, b.output, shape.output + k);
        if (core == gru) visit(a.reset, b.reset, shape.reset + k);
        if (masters || !ordered) {
            visit(a.forget, b.forget, shape.forget + k);
            if (input_gate) visit(a.input, b.input, shape.input + k);
        }
        if (has_refine(auxiliary)) visit(a.refine, b.refine, shape.refine + k);
        if (auxiliary == untied) visit(a.refine_input, b.refine_input, shape.refine_input + k);
    }

    // Of gates that a whole row makes: an ordered gate's sides, or a master gate's logit as its value
    GATECORE_FUNCTION void load_row_gates(long long k, Gate<T> (&rows)[2]) const {
        const int unit = static_cast<int>(k);
        const int entry = masters ? unit / static_cast<int>(shape.downsize) : unit;
        for (int which = 0; which < main_gates; ++which) {
            if (ordered) rows[which] = {gate(which).value[entry], gate(which).complement[entry]};
            else if (masters) rows[which].value = logits()[main_column(which) + entry];
        }
    }

    struct Unit {
        Gates<T> gates;
        Effective<T> effective;
        T candidate;    // u, after its tanh
        Gate<T> other;  // the LSTM's output gate, the GRU's reset gate
    };

    // From complete logits
    GATECORE_FUNCTION Unit unit(const Logits& z, const Gate<T> (&rows)[2]) const {
        Unit u = {};
        u.gates = gates_of<T, core, activation, auxiliary>(
            z, [](T logit) { return sigmoid(logit); },
            [&](int which) {
                return masters && !ordered ? sigmoid(rows[which].value) : rows[which];
            });
        u.effective = effective<core, auxiliary>(u.gates);
        T logit = z.candidate;
        if (core == lstm) u.other = sigmoid(z.output);
        if (core == gru) {
            u.other = sigmoid(z.reset);
            logit += u.other.value * z.state_candidate;
        }
        u.candidate = tangent(logit);
        return u;
    }

    // Zoneout: a mask of the same shape as the states, or a probability.
    GATECORE_FUNCTION T zoneout_cell(long long k) const {
        return sequence.zoneout_mask_cell ? sequence.zoneout_mask_cell[unit_at(t, k)]
                                          : static_cast<T>(sequence.zoneout_cell);
    }
    GATECORE_FUNCTION T zoneout_hidden(long long k) const {
        return sequence.zoneout_mask_hidden ? sequence.zoneout_mask_hidden[unit_at(t, k)]
                                            : static_cast<T>(sequence.zoneout_hidden);
    }
    // Whether the next step resets the state: it is 0 then, even from NaN, and so is its cotangent.
    GATECORE_FUNCTION bool resets_next() const {
        return sequence.resets && t + 1 < sequence.time &&
               sequence.resets[(t + 1) * shape.batch + row];
    }

    // ---- forward

    GATECORE_FUNCTION void forward_unit(long long k) const {
        Logits z = {}, from_state = {};
        Gate<T> rows[2] = {};
        const T old = shape.state[unit_of(k)];
        const T old_cell = core == lstm ? shape.cell[unit_of(k)] : 0;
        slots(z, from_state, k, [&](T&, T& part, long long column) { part = recurrent()[column]; });
        if (core == gru) from_state.state_candidate = recurrent()[shape.candidate + k];
        slots(z, from_state, k, [&](T& logit, T&, long long column) { logit = logits()[column]; });
        if (core == gru) {
            z.candidate = logits()[shape.candidate + k];
            z.state_candidate = sequence.bias_n[k];
        }
        load_row_gates(k, rows);
        const T keep_cell = core == lstm ? zoneout_cell(k) : 0, keep_hidden = zoneout_hidden(k);
        const bool reset = resets_next();

        slots(z, from_state, k, [](T& logit, T& part, long long) { logit += part; });
        if (core == gru) z.state_candidate += from_state.state_candidate;
        const Unit u = unit(z, rows);
        T hidden, cell = 0;
        if (core == lstm) {
            cell = update<tied>(u.effective, u.candidate, old_cell);
            hidden = u.other.value * tangent(cell);
            cell = zoneout(keep_cell, old_cell, cell);
        } else {
            hidden = update<tied>(u.effective, u.candidate, old);
        }
        hidden = zoneout(keep_hidden, old, hidden);

        shape.state[unit_of(k)] = reset ? 0 : hidden;
        sequence.output_hidden[unit_at(t, k)] = hidden;
        if (core == lstm) {
            shape.cell[unit_of(k)] = reset ? 0 : cell;
            if (sequence.output_cell) sequence.output_cell[unit_at(t, k)] = cell;
        }
        if (!saves()) return;
        slots(z, from_state, k, [&](T& logit, T&, long long column) { logits()[column] = logit; });
        saved_hidden()[k] = old;
        if (core == lstm) sequence.saved_cell[unit_at(t, k)] = old_cell;
        if (core == gru) sequence.state_candidate[unit_at(t, k)] = z.state_candidate;
    }

    // The logits of gates that a whole row makes
    GATECORE_FUNCTION void complete_row_gates() const {
        const Span part = span(block, main_width());
        GATECORE_ROLLED for (int k = part.begin; k < part.end; ++k) {
            T z[main_gates];
            for (int which = 0; which < main_gates; ++which)
                z[which] = recurrent()[main_column(which) + k];
            for (int which = 0; which < main_gates; ++which)
                z[which] += logits()[main_column(which) + k];
            for (int which = 0; which < main_gates; ++which) {
                if (ordered) gate(which).softmax[k] = z[which];
                if (!ordered || saves()) logits()[main_column(which) + k] = z[which];
            }
        }
    }

    // Units `first`, `first + stride`, … of the row.
    GATECORE_FUNCTION void forward(long long first, long long stride) const {
        if constexpr (cooperative) complete_row_gates();
        if constexpr (ordered) with_ordered([&](const auto& gates) {
            cumax(block, main_width(), gates);
        });
        if constexpr (cooperative) block.wait();
        for (long long k = first; k < shape.hidden; k += stride) forward_unit(k);
    }

    template <typename Work> GATECORE_FUNCTION void with_ordered(Work work) const {
        Ordered<T> gates[main_gates];
        for (int which = 0; which < main_gates; ++which) gates[which] = gate(which);
        work(gates);
    }

    // ---- backward

    GATECORE_FUNCTION void emit(long long column, long long k, T v) const {
        sequence.d_logits[(t * shape.batch + row) * shape.rows + column + k] = v;
        if (core != gru || column != shape.candidate)
            shape.d_recurrent[row * shape.rows + column + k] = v;
    }

    // From the cotangent v of the new state to that of the old one; the rest goes to the logits.
    GATECORE_FUNCTION T update_backward(const Unit& u, const Logits& z, long long k, T old, T v) const {
        const UpdateCotangents<T> d = update_vjp<tied>(u.effective, u.candidate, old, v);
        const T d_candidate = tanh_vjp(u.candidate, d.candidate);
        emit(shape.candidate, k, d_candidate);
        if (core == gru) {
            const T d_state_candidate = d_candidate * u.other.value;
            sequence.d_state_candidate[unit_at(t, k)] = d_state_candidate;
            shape.d_recurrent[row * shape.rows + shape.candidate + k] = d_state_candidate;
            emit(shape.reset, k, factor_vjp(u.other, z.state_candidate, d_candidate));
        }
        to_slots<core, activation, auxiliary>(
            u.gates, gates_vjp<core, auxiliary>(u.gates, d.forget, d.write), shape,
            [&](long long column, T cotangent) { emit(column, k, cotangent); },
            [&](int which, T cotangent) { d_main(which)[k] = cotangent; });
        return d.state;
    }

    GATECORE_FUNCTION void backward_unit(long long k) const {
        Logits z = {}, unused = {};
        Gate<T> rows[2] = {};
        const T d_hidden = shape.d_hidden[unit_of(k)], d_state = shape.d_state[unit_of(k)];
        const T d_cell = core == lstm ? shape.d_cell[unit_of(k)] : 0;
        slots(z, unused, k, [&](T& logit, T&, long long column) { logit = logits()[column]; });
        if (core == gru) {
            z.candidate = logits()[shape.candidate + k];
            z.state_candidate = sequence.state_candidate[unit_at(t, k)];
        }
        load_row_gates(k, rows);
        const T old = core == lstm ? sequence.saved_cell[unit_at(t, k)] : saved_hidden()[k];
        const T d_output = sequence.d_output_hidden ? sequence.d_output_hidden[unit_at(t, k)] : 0;
        const T d_output_cell = core == lstm && sequence.d_output_cell
                                    ? sequence.d_output_cell[unit_at(t, k)] : 0;
        const T keep_cell = core == lstm ? zoneout_cell(k) : 0, keep_hidden = zoneout_hidden(k);
        const bool reset = resets_next();

        const Unit u = unit(z, rows);
        T v = (reset ? 0 : d_hidden + d_state) + d_output;
        const T kept = v * keep_hidden;
        v -= kept;
        if (core == lstm) {
            const T squashed = tangent(update<tied>(u.effective, u.candidate, old));
            T w = (reset ? 0 : d_cell) + d_output_cell;
            const T kept_cell = w * keep_cell;
            w = w - kept_cell + tanh_vjp(squashed, v * u.other.value);
            emit(shape.output, k, factor_vjp(u.other, squashed, v));
            shape.d_cell[unit_of(k)] = kept_cell + update_backward(u, z, k, old, w);
            shape.d_hidden[unit_of(k)] = kept;
        } else {
            shape.d_hidden[unit_of(k)] = kept + update_backward(u, z, k, old, v);
        }
    }

    GATECORE_FUNCTION void row_gates_backward() const {
        const int width = main_width();
        const int repeats = static_cast<int>(masters ? shape.downsize : 1);
        auto cotangent = [&](int which, int k) {  // an ordered input gate is 1 - cumax: (20), (29)
            T total = 0;
            GATECORE_ROLLED for (int j = k * repeats; j < (k + 1) * repeats; ++j)
                total += d_main(which)[j];
            return ordered && which == 1 ? -total : total;
        };
        const Span part = span(block, width);
        if constexpr (ordered) {
            T* const d_logits = sequence.d_logits + (t * shape.batch + row) * shape.rows;
            Global<T> out[main_gates];
            for (int which = 0; which < main_gates; ++which)
                out[which] = {d_logits + main_column(which)};
            with_ordered([&](const auto& gates) {
                cumax_vjp(block, width, gates, cotangent, out);
            });
            for (int which = 0; which < main_gates; ++which)
                GATECORE_ROLLED for (int k = part.begin; k < part.end; ++k)
                    emit(main_column(which), k, out[which][k]);
        } else {
            for (int which = 0; which < main_gates; ++which)
                GATECORE_ROLLED for (int k = part.begin; k < part.end; ++k)
                    emit(main_column(which), k,
                         cotangent(which, k) * slope(sigmoid(logits()[main_column(which) + k])));
        }
    }

    GATECORE_FUNCTION void backward(long long first, long long stride) const {
        for (long long k = first; k < shape.hidden; k += stride) backward_unit(k);
        if constexpr (cooperative) {
            block.wait();
            row_gates_backward();
        }
    }
};

}  // namespace gatecore
