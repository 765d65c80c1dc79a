// The sizes of tiles and blocks, by instruction set. `python benchmarks/tiles.py` tries others.
#pragma once

namespace ISA {

struct Tiles {
  // A panel has so many vectors of columns, a tile so many rows of them: its sums, a vector of weights
  // for each column and a factor fill the registers. One pass takes so many rows of weights.
  int vectors, rows, inner;
  // The same for weights' gradients, whose inner index is time and batch. So many tiles pay for a copy
  // of their right operand in one piece, on the stack; 0 is never.
  int outer_vectors, outer_rows, outer_inner, outer_copied;
};

// A pass's rows of a panel take at most half of an L1 cache of 32 KB, or stream from the L2 cache where
// a tile computes long enough for each vector that it loads. Columns of weights' gradients lie a row of
// gates apart: the copy spares every tile but the first the other lines of those rows.
#if defined(GATECORE_TILES)
constexpr Tiles TILES = {GATECORE_TILES};
#elif VL == 16  // 32 registers; the factor is broadcast from memory
constexpr Tiles TILES = {4, 7, 512, 4, 6, 256, 40};
#elif REGISTERS == 32  // NEON. Not timed on ARM: of 6 rows, GCC 12 keeps some sums in memory
constexpr Tiles TILES = {4, 5, 256, 4, 5, 256, 128};
#else  // 16 registers
constexpr Tiles TILES = {3, 4, 256, 2, 6, 256, 40};
#endif

// Weights that are multiplied as they lie: in layers of at most so many rows (time and batch), where
// packed ones would not pay, and, of the recurrent product, for at most so many sequences, where reading
// the weights takes most of the time. The input's product is then computed so many steps ahead.
enum { STRAIGHT_BATCH = 1, STEPS_AHEAD = 32 };
#if defined(__x86_64__)
enum { STRAIGHT_ROWS = 32 };
#else  // compiled for ARM, sums of two rows at once round unlike those of one: threads would change results
enum { STRAIGHT_ROWS = 0 };
#endif

}  // namespace ISA
