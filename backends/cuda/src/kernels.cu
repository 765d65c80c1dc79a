// The kernels: block x of the grid has batch row x. Where the mechanism's gates do not depend on
// each other, several blocks y share a row. One block a multiprocessor (the 1 of the bounds) is enough:
// with registers for two, the compiler loads a unit's numbers in several rounds.
#include "cells.cuh"
#include "copies.cuh"

namespace gatecore {

__device__ __forceinline__ Block block_of(void* shared) {
    return {static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x), shared};
}

}  // namespace gatecore

template <typename T, gatecore::Core core, gatecore::Activation activation,
          gatecore::Auxiliary auxiliary>
__global__ void __launch_bounds__(512, 1)
    forward(const gatecore::Shape<T> shape,
            const gatecore::Sequence<T>* sequence,  // in device memory
            long long launch) {                     // 0 .. time - 1: the step, from the first one on
    extern __shared__ __align__(16) unsigned char shared[];  // 6 numbers of type T a warp
    using Step = gatecore::Step<T, core, activation, auxiliary>;
    const long long first = blockIdx.y * blockDim.x + threadIdx.x;
    if (!Step::cooperative && first >= shape.hidden) return;
    const gatecore::Sequence<T> here = *sequence;  // no store can change it: it stays in registers
    const gatecore::Block block = gatecore::block_of(shared);
    Step{shape, here, block, here.first + launch, blockIdx.x}.forward(first, gridDim.y * blockDim.x);
}

template <typename T, gatecore::Core core, gatecore::Activation activation,
          gatecore::Auxiliary auxiliary>
__global__ void __launch_bounds__(512, 1)
    backward(const gatecore::Shape<T> shape,
             const gatecore::Sequence<T>* sequence,  // in device memory
             long long launch) {                     // 0 .. time - 1: the step, from the last one on
    extern __shared__ __align__(16) unsigned char shared[];  // 6 numbers of type T a warp
    using Step = gatecore::Step<T, core, activation, auxiliary>;
    const long long first = blockIdx.y * blockDim.x + threadIdx.x;
    if (!Step::cooperative && first >= shape.hidden) return;
    const gatecore::Sequence<T> here = *sequence;  // no store can change it: it stays in registers
    const gatecore::Block block = gatecore::block_of(shared);
    Step{shape, here, block, here.first - launch, blockIdx.x}.backward(first, gridDim.y * blockDim.x);
}

// Block y makes copy number y. One thread puts a call's arguments where the kernels read them; with a
// target of null there are none. All in the stream's order.
template <typename T>
__global__ void copy(gatecore::Sequence<T>* target, const gatecore::Sequence<T> sequence,
                     const __grid_constant__ gatecore::Copies<T> copies) {
    const long long first = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (target && first == 0 && blockIdx.y == 0) *target = sequence;
    copy_entries(copies.copies[blockIdx.y], first, static_cast<long long>(gridDim.x) * blockDim.x);
}
