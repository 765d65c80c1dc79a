// The threads that work on one batch row together, with sums over the threads before and after each,
// and the ordered gate cumax made of them.
#pragma once

#include "gate.cuh"

namespace gatecore {

// On a GPU a thread block of whole warps. On a host the same code runs with one thread, or with
// several that wait for each other, in warps of `lanes`, a power of 2.
struct Block {
    int thread;    // 0 .. threads - 1
    int threads;   // a multiple of lanes
    void* shared;  // 6 numbers a warp, seen by all
#ifdef __CUDACC__
    static constexpr int lanes = 32;
    GATECORE_FUNCTION void wait() const { __syncthreads(); }
    // The value of the lane that is so many below, above, or differs in this bit: its own if none is.
    template <typename T> GATECORE_FUNCTION T below(T value, int by) const {
        return __shfl_up_sync(0xffffffffu, value, by);
    }
    template <typename T> GATECORE_FUNCTION T above(T value, int by) const {
        return __shfl_down_sync(0xffffffffu, value, by);
    }
    template <typename T> GATECORE_FUNCTION T across(T value, int bit) const {
        return __shfl_xor_sync(0xffffffffu, value, bit);
    }
#else
    int lanes;
    void (*barrier)(void*);
    void* together;
    void* exchanged;  // a number a thread
    void wait() const {
        if (threads > 1) barrier(together);
    }
    template <typename T> T of_lane(T value, int other) const {
        T* all = static_cast<T*>(exchanged);
        all[thread] = value;
        wait();
        const T result = other >= 0 && other < lanes ? all[thread - lane() + other] : value;
        wait();
        return result;
    }
    template <typename T> T below(T value, int by) const { return of_lane(value, lane() - by); }
    template <typename T> T above(T value, int by) const { return of_lane(value, lane() + by); }
    template <typename T> T across(T value, int bit) const { return of_lane(value, lane() ^ bit); }
#endif
    GATECORE_FUNCTION int lane() const { return thread % lanes; }
    GATECORE_FUNCTION int warp() const { return thread / lanes; }
    GATECORE_FUNCTION int warps() const { return threads / lanes; }
};

// Every thread of the block calls these, with `shared` for `count` (largest) or 2 * count numbers a
// warp that nothing else uses. The order of sums is fixed: results repeat bit for bit.

// Each value becomes the largest of the block's.
template <int count, typename T>
GATECORE_FUNCTION void largest(const Block& block, T* shared, T (&values)[count]) {
    for (int bit = block.lanes / 2; bit > 0; bit /= 2)
        for (int n = 0; n < count; ++n) {
            const T other = block.across(values[n], bit);
            values[n] = values[n] < other ? other : values[n];
        }
    if (block.lane() == 0)
        for (int n = 0; n < count; ++n) shared[block.warp() * count + n] = values[n];
    block.wait();
    GATECORE_ROLLED for (int warp = 0; warp < block.warps(); ++warp)
        for (int n = 0; n < count; ++n) {
            const T other = shared[warp * count + n];
            values[n] = values[n] < other ? other : values[n];
        }
}

// Each value of `before` becomes the sum of the earlier threads', of `after` that of the later ones'.
template <int count, typename T>
GATECORE_FUNCTION void sums(const Block& block, T* shared, T (&before)[count], T (&after)[count]) {
    const int lane = block.lane(), last = block.lanes - 1;
    for (int by = 1; by < block.lanes; by *= 2)
        for (int n = 0; n < count; ++n) {
            const T low = block.below(before[n], by), high = block.above(after[n], by);
            if (lane >= by) before[n] += low;
            if (lane + by <= last) after[n] += high;
        }
    T* own = shared + block.warp() * 2 * count;
    for (int n = 0; n < count; ++n) {
        if (lane == last) own[n] = before[n];
        if (lane == 0) own[count + n] = after[n];
        const T low = block.below(before[n], 1), high = block.above(after[n], 1);
        before[n] = lane == 0 ? 0 : low;
        after[n] = lane == last ? 0 : high;
    }
    block.wait();
    GATECORE_ROLLED for (int distance = 1; distance < block.warps(); ++distance) {  // the nearest warps first
        const int low = block.warp() - distance, high = block.warp() + distance;
        for (int n = 0; n < count; ++n) {
            if (low >= 0) before[n] += shared[low * 2 * count + n];
            if (high < block.warps()) after[n] += shared[high * 2 * count + count + n];
        }
    }
}

// The consecutive entries of 0 .. count - 1 that are one thread's.
struct Span {
    int begin;
    int end;
};

GATECORE_FUNCTION Span span(const Block& block, int count) {
    const int each = (count + block.threads - 1) / block.threads;
    const int begin = block.thread * each, end = begin + each;
    return {begin < count ? begin : count, end < count ? end : count};
}

// A pointer to the GPU's memory that was loaded from it: a compiler would not know which memory it
// points to.
template <typename T> struct Global {
    T* pointer;  // or null
    GATECORE_FUNCTION operator T*() const {
#ifdef __CUDACC__
        __builtin_assume(__isGlobal(pointer));
#endif
        return pointer;
    }
};

template <typename T> struct Ordered {
    Global<T> value;       // (count,)
    Global<T> complement;  // (count,)
    Global<T> softmax;     // (count,)
};

// The ordered gates cumsum(softmax(z)), equation (19), of as many vectors of logits, which `softmax`
// holds: all with the same three exchanges between the threads.
template <int gates, typename T>
GATECORE_FUNCTION void cumax(const Block& block, int count, const Ordered<T> (&gate)[gates]) {
    T* shared = static_cast<T*>(block.shared);
    const Span part = span(block, count);
    T peak[gates], before[gates], after[gates];
    for (int n = 0; n < gates; ++n) {
        peak[n] = static_cast<T>(-1e30);
        GATECORE_ROLLED for (int k = part.begin; k < part.end; ++k)
            peak[n] = peak[n] < gate[n].softmax[k] ? gate[n].softmax[k] : peak[n];
    }
    largest(block, shared, peak);
    for (int n = 0; n < gates; ++n) {
        before[n] = 0;
        GATECORE_ROLLED for (int k = part.begin; k < part.end; ++k)
            before[n] += gate[n].softmax[k] = exponential(gate[n].softmax[k] - peak[n]);
        after[n] = before[n];
    }
    sums(block, shared + gates * block.warps(), before, after);
    for (int n = 0; n < gates; ++n) {
        GATECORE_ROLLED for (int k = part.begin; k < part.end; ++k)
            gate[n].value[k] = before[n] += gate[n].softmax[k];
        GATECORE_ROLLED for (int k = part.end - 1; k >= part.begin; --k) {
            const T value = gate[n].value[k], complement = after[n];
            after[n] += gate[n].softmax[k];
            const T scale = reciprocal(value + complement);  // of the sum of all
            // the larger side as 1 - the smaller one, which is exact at the ends
            gate[n].value[k] = complement < value ? 1 - complement * scale : value * scale;
            gate[n].complement[k] = value < complement ? 1 - value * scale : complement * scale;
            gate[n].softmax[k] *= scale;
        }
    }
}

// Cotangents of z, written to out: dz_k = p_k (Σ_{j≥k} v_j (1 - f_j) - Σ_{j<k} v_j f_j), from
// cotangent(n, k), the cotangent v_k of gate n.
template <int gates, typename T, typename Cotangent>
GATECORE_FUNCTION void cumax_vjp(const Block& block, int count, const Ordered<T> (&gate)[gates],
                                 Cotangent cotangent,
                                 const Global<T> (&out)[gates]) {  // (count,) each
    const Span part = span(block, count);
    T before[gates] = {}, after[gates] = {};
    for (int n = 0; n < gates; ++n)
        GATECORE_ROLLED for (int k = part.begin; k < part.end; ++k) {
            const T v = cotangent(n, k);
            before[n] += v * gate[n].value[k];
            after[n] += v * gate[n].complement[k];
        }
    sums(block, static_cast<T*>(block.shared), before, after);
    for (int n = 0; n < gates; ++n) {
        GATECORE_ROLLED for (int k = part.end - 1; k >= part.begin; --k)
            out[n][k] = after[n] += cotangent(n, k) * gate[n].complement[k];
        GATECORE_ROLLED for (int k = part.begin; k < part.end; ++k) {
            out[n][k] = gate[n].softmax[k] * (out[n][k] - before[n]);
            before[n] += cotangent(n, k) * gate[n].value[k];
        }
    }
}

}  // namespace gatecore
