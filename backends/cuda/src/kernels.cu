// The kernels: block x of the grid has batch row x. Where the mechanism's gates do not depend on
// each other, several blocks y share a row. One block a multiprocessor (the 1 of the bounds) is enough:
// with registers for two, the compiler loads a unit's numbers in several rounds.
#include "cells.cuh"

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

// By one thread: a call's arguments to where the kernels read them, in the stream's order.
template <typename T>
__global__ void upload(gatecore::Sequence<T>* target, const gatecore::Sequence<T> sequence) {
    *target = sequence;
}
