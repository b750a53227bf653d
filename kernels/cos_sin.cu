// The table's entries. What a thread does is in cos_sin.cuh.
#include "cos_sin.cuh"
#include "variants.h"

#define ENTRY(element, Element, order, JOINED, BYTES, Q, K)                                    \
    extern "C" __global__ void __launch_bounds__(ROPE_MAX_THREADS)                             \
        cos_sin_##element##_##order##_##BYTES(const __grid_constant__ rope::Request request) { \
        rope::cos_sin_thread<rope::Element, JOINED, BYTES>(request, rope::this_thread());      \
    }
ROPE_VARIANTS(ENTRY, 0, 0)
