// The rotation's entries. What a thread does is in rotate.cuh.
#include "rotate.cuh"
#include "variants.h"

#define ENTRY(element, Element, order, JOINED, BYTES)                                        \
    extern "C" __global__ void __launch_bounds__(ROPE_MAX_THREADS)                           \
        rotate_##element##_##order##_##BYTES(const __grid_constant__ rope::Request request) { \
        rope::rotate_thread<rope::Element, JOINED, BYTES, ROPE_IN_FLIGHT>(request,           \
                                                                          rope::this_thread()); \
    }
ROPE_VARIANTS(ENTRY)
