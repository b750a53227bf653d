// The rotation's kernels. What a thread does is in rotate.cuh.
#include "rotate.cuh"
#include "variants.h"

// One block a multiprocessor is all that is asked for where there is much to hold, lest the compiler spill
// for the sake of two.
#define KERNEL(element, Element, order, JOINED, BYTES, name, Q, K, MANY)         \
    extern "C" __global__ void __launch_bounds__(ROPE_MAX_THREADS, MANY)         \
        name##_##element##_##order##_##BYTES(                                    \
            const __grid_constant__ rope::Request request) {                     \
        rope::rotate_thread<rope::Element, JOINED, BYTES, Q, K, MANY>(           \
            request, rope::this_thread());                                       \
    }
#define ENTRY(name, Q, K, MANY) ROPE_VARIANTS(KERNEL, name, Q, K, MANY)
ROPE_ENTRIES(ENTRY)
