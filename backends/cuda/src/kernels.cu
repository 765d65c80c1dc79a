// The kernels: block x of the grid has batch row x. Where the mechanism's gates do not depend on
// each other, several blocks y share a row.
#include "cells.cuh"

template <typename T, gatecore::Core core, gatecore::Activation activation,
          gatecore::Auxiliary auxiliary>
__global__ void __launch_bounds__(512)
    forward(const gatecore::Sequence<T>* sequence,  // in device memory
            long long t) {                          // 0 .. time - 1
    extern __shared__ __align__(16) unsigned char shared[];  // 2 * blockDim.x numbers of type T
    const gatecore::Sequence<T> here = *sequence;  // no store can change it: it stays in registers
    const gatecore::Block block = {static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x),
                                   shared};
    gatecore::Step<T, core, activation, auxiliary>{here, block, t, blockIdx.x}.forward(
        blockIdx.y * blockDim.x + threadIdx.x, gridDim.y * blockDim.x);
}

template <typename T, gatecore::Core core, gatecore::Activation activation,
          gatecore::Auxiliary auxiliary>
__global__ void __launch_bounds__(512)
    backward(const gatecore::Sequence<T>* sequence,  // in device memory
             long long t) {                          // time - 1 .. 0
    extern __shared__ __align__(16) unsigned char shared[];  // 2 * blockDim.x numbers of type T
    const gatecore::Sequence<T> here = *sequence;  // no store can change it: it stays in registers
    const gatecore::Block block = {static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x),
                                   shared};
    gatecore::Step<T, core, activation, auxiliary>{here, block, t, blockIdx.x}.backward(
        blockIdx.y * blockDim.x + threadIdx.x, gridDim.y * blockDim.x);
}
