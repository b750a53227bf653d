// Programmatic dependent launch (sm_90 and newer), and a thread's place in its launch.
#pragma once

#include "arith.cuh"

namespace rope {

// When a launch may start beside the kernel before it on its stream; src/plan/pdl.rs says what it asks of
// the caller.
enum Pdl : uint32_t {
    OFF = 0,
    ON = 1,               // at once; it waits before it touches what that kernel could have written
    POSITIONS_READY = 2,  // the same, and that kernel writes neither positions nor the choice of sets
};

// Whether there are such launches. Where there are none the host takes plain kernels, and those of early launches are empty.
constexpr bool HAS_PDL = ARCH == 0 || ARCH >= 900;

// Returns when the kernels before this one have finished and their writes can be seen. Does nothing in a
// launch without the attribute, as the other.
ROPE_FN void wait_on_dependent_grids() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Lets the kernel after this one start, to wait in its turn.
ROPE_FN void launch_dependent_grids() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// Which tokens and which heads a block takes; `x`, `y`, `z` count threads in it.
struct Thread {
    uint32_t tile, slice;
    uint32_t x, y, z;
    uint32_t width;  // the block's extent in x
};

#ifdef __CUDACC__
// By tiles, blocks start with a slice of all tokens and go on to the next one.
ROPE_FN Thread this_thread() {
    return {blockIdx.x, blockIdx.y, threadIdx.x, threadIdx.y, threadIdx.z, blockDim.x};
}
// By slices, with all of a tile.
ROPE_FN Thread this_thread_by_slices() {
    return {blockIdx.y + blockIdx.z * gridDim.y, blockIdx.x,
            threadIdx.x, threadIdx.y, threadIdx.z, blockDim.x};
}
#endif

}  // namespace rope
