// The table's entries. What a thread does is in cos_sin.cuh.
#include "cos_sin.cuh"
#include "variants.h"

#define KERNEL(element, Element, order, JOINED, BYTES, name)                                       \
    extern "C" __global__ void __launch_bounds__(ROPE_MAX_THREADS)                                 \
        name##_##element##_##order##_##BYTES(const __grid_constant__ rope::CosSinParams params) {  \
        rope::cos_sin_thread<rope::Element, JOINED, BYTES>(params, rope::this_thread());           \
    }
ROPE_ALL_VARIANTS(KERNEL, cos_sin)
