// The rotation's entries. What a thread does is in rotate.cuh.
#include "rotate.cuh"
#include "variants.h"

// The assembler weighs registers against blocks that a multiprocessor can hold, and would spill one for
// the sake of a block more. Where it did, one block is all that is asked for.
#define LEAST_BLOCKS(Element, JOINED, BYTES, Q, K, GENERAL) \
    GENERAL || (Q + K > 4 && rope::Pairs<rope::Element, JOINED, BYTES>::PAIRS < 4)

#define KERNEL(element, Element, order, JOINED, BYTES, name, Q, K, GENERAL)              \
    extern "C" __global__ void __launch_bounds__(                                        \
        ROPE_MAX_THREADS, LEAST_BLOCKS(Element, JOINED, BYTES, Q, K, GENERAL))           \
        name##_##element##_##order##_##BYTES(                                            \
            const __grid_constant__ rope::RotateParams params) {                         \
        rope::rotate_thread<rope::Element, JOINED, BYTES, Q, K, GENERAL>(                \
            params, rope::this_thread());                                                \
    }
#define ENTRY(name, Q, K, GENERAL) ROPE_ALL_VARIANTS(KERNEL, name, Q, K, GENERAL)
ROPE_ENTRIES(ENTRY)
