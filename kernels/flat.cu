// The entries of a rotation in place of tokens in one run. What a thread does is in flat.cuh.
#include "flat.cuh"
#include "variants.h"

// As the rotation's: the assembler would spill a register of these for the sake of a block more.
#define LEAST_BLOCKS(JOINED, BYTES, Q, PDL) \
    (rope::PDL == rope::POSITIONS_READY && Q == 4 && BYTES == 16 && !JOINED)

#define KERNEL(element, Element, order, JOINED, BYTES, name, Q, K, PDL)               \
    extern "C" __global__ void __launch_bounds__(ROPE_MAX_THREADS,                    \
                                                 LEAST_BLOCKS(JOINED, BYTES, Q, PDL)) \
        name##_##element##_##order##_##BYTES(                                         \
            const __grid_constant__ rope::FlatParams params) {                        \
        rope::flat_thread<rope::Element, JOINED, BYTES, Q, K, rope::PDL>(             \
            params, rope::this_thread());                                             \
    }
#define ENTRY(name, Q, K, PDL) ROPE_ALL_VARIANTS(KERNEL, name, Q, K, PDL)
#define FAST(name, Q, K, PDL) ROPE_FAST_VARIANTS(KERNEL, name, Q, K, PDL)
#define NARROW(name, Q, K, PDL) ROPE_NARROW_VARIANTS(KERNEL, name, Q, K, PDL)
ROPE_FLAT_ENTRIES(ENTRY, FAST, NARROW)
