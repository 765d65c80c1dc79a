// The threads that work on one batch row together, with scans over its units: sums before and after
// each, and the ordered gate cumax made of them.
#pragma once

#include "gate.cuh"

namespace gatecore {

// On a GPU a thread block. On a host the same code runs with one thread, or with several that wait
// for each other.
struct Block {
    int thread;   // 0 .. threads - 1
    int threads;
    void* shared;  // 2 * threads numbers, seen by all
#ifdef __CUDACC__
    GATECORE_FUNCTION void wait() const { __syncthreads(); }
#else
    void (*barrier)(void*);
    void* together;
    void wait() const {
        if (threads > 1) barrier(together);
    }
#endif
};

template <typename T> struct Sum {
    GATECORE_FUNCTION static T none() { return 0; }
    GATECORE_FUNCTION static T join(T a, T b) { return a + b; }
};

template <typename T> struct Largest {
    GATECORE_FUNCTION static T none() { return static_cast<T>(-1e30); }
    GATECORE_FUNCTION static T join(T a, T b) { return a < b ? b : a; }
};

template <typename T> struct Scan {
    T before;  // of the threads that come before this one
    T total;   // of all of them
};

// Every thread of the block must call it; the first `members` contribute. In thread order, or from
// the last thread on. The order of the sums is fixed: results repeat bit for bit.
template <template <typename> class Operation, typename T>
GATECORE_FUNCTION Scan<T> scan(const Block& block, int members, T value, bool from_end) {
    using Op = Operation<T>;
    T* now = static_cast<T*>(block.shared);
    T* next = now + block.threads;
    const bool contributes = block.thread < members;
    const int place = from_end ? members - 1 - block.thread : block.thread;
    if (contributes) now[place] = value;
    block.wait();
    for (int reach = 1; reach < members; reach *= 2) {
        if (contributes)
            next[place] = place < reach ? now[place] : Op::join(now[place - reach], now[place]);
        block.wait();
        T* swap = now;
        now = next;
        next = swap;
    }
    Scan<T> result = {contributes && place > 0 ? now[place - 1] : Op::none(), now[members - 1]};
    block.wait();
    return result;
}

// The consecutive entries of 0 .. count - 1 that are one thread's.
struct Span {
    int members;  // how many threads have any
    int begin;
    int end;
};

GATECORE_FUNCTION Span span(const Block& block, int count) {
    const int each = (count + block.threads - 1) / block.threads;
    const int begin = block.thread * each;
    const int end = begin + each;
    return {(count + each - 1) / each, begin < count ? begin : count, end < count ? end : count};
}

// The ordered gate cumsum(softmax(z)), equation (19): a block scan from each end.
template <typename T>
GATECORE_FUNCTION void cumax(const Block& block, int count,
                             const T* z,     // (count,) logits
                             T* value,       // (count,)
                             T* complement,  // (count,)
                             T* softmax) {   // (count,)
    const Span part = span(block, count);
    T peak = Largest<T>::none();
    for (int k = part.begin; k < part.end; ++k) peak = Largest<T>::join(peak, z[k]);
    peak = scan<Largest>(block, part.members, peak, false).total;
    T sum = 0;
    for (int k = part.begin; k < part.end; ++k) sum += softmax[k] = exponential(z[k] - peak);
    const Scan<T> upto = scan<Sum>(block, part.members, sum, false);
    T running = upto.before;
    for (int k = part.begin; k < part.end; ++k) value[k] = running += softmax[k];
    running = scan<Sum>(block, part.members, sum, true).before;
    for (int k = part.end - 1; k >= part.begin; --k) {
        const T beyond = running;
        running += softmax[k];
        const T whole = value[k] + beyond;
        value[k] /= whole;
        complement[k] = beyond / whole;
        softmax[k] /= upto.total;
    }
}

// Cotangents of z, written to out: dz_k = p_k (Σ_{j≥k} v_j (1 - f_j) - Σ_{j<k} v_j f_j). Entry k
// serves `repeats` consecutive units, whose cotangents are summed.
template <typename T>
GATECORE_FUNCTION void cumax_vjp(const Block& block, int count, int repeats, bool negated,
                                 const T* value,       // (count,)
                                 const T* complement,  // (count,)
                                 const T* softmax,     // (count,)
                                 const T* v,           // (count * repeats,)
                                 T* out) {             // (count,)
    const Span part = span(block, count);
    auto cotangent = [&](int k) {
        T total = 0;
        for (int j = k * repeats; j < (k + 1) * repeats; ++j) total += v[j];
        return negated ? -total : total;
    };
    T after = 0, before = 0;
    for (int k = part.begin; k < part.end; ++k) {
        after += cotangent(k) * complement[k];
        before += cotangent(k) * value[k];
    }
    after = scan<Sum>(block, part.members, after, true).before;
    before = scan<Sum>(block, part.members, before, false).before;
    for (int k = part.end - 1; k >= part.begin; --k) out[k] = after += cotangent(k) * complement[k];
    for (int k = part.begin; k < part.end; ++k) {
        out[k] = softmax[k] * (out[k] - before);
        before += cotangent(k) * value[k];
    }
}

}  // namespace gatecore
