// The copies around a sequence: a call's arrays into the buffers that stay in place, results out of
// them. All of a call are one launch: each launch costs the host more than the GPU.
#pragma once

#include "sequence.cuh"

namespace gatecore {

// backends/cuda/copies.py has the same fields in the same order, 8 bytes each.
template <typename T> struct Copy {
    Global<T> target;            // (rows, columns)
    Global<const T> source;      // (rows, columns); or null: zeros
    Global<const T> added;       // added to the source, and laid out like it; or null
    Global<const bool> zeroed;   // (rows,) the rows that become 0, even from NaN; or null
    long long rows;              // 0: there is no copy
    long long columns;
    long long target_stride;     // between rows
    long long source_stride;     // the same; 0: the source has one row, for all
};

constexpr int most_copies = 8;

template <typename T> struct Copies {
    Copy<T> copies[most_copies];
};

// The entries `first`, `first + stride`, … of a copy, row by row.
template <typename T>
GATECORE_FUNCTION void copy_entries(const Copy<T>& copy, long long first, long long stride) {
    if (copy.rows == 0) return;
    const long long down = stride / copy.columns, along = stride - down * copy.columns;
    long long row = first / copy.columns, column = first - row * copy.columns;
    for (; row < copy.rows; row += down, column += along) {
        if (column >= copy.columns) {
            column -= copy.columns;
            if (++row == copy.rows) return;
        }
        T value = 0;
        if (copy.source && !(copy.zeroed && copy.zeroed[row])) {
            const long long place = row * copy.source_stride + column;
            value = copy.source[place];
            if (copy.added) value += copy.added[place];
        }
        copy.target[row * copy.target_stride + column] = value;
    }
}

}  // namespace gatecore
