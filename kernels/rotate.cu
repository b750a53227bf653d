// The rotation's entries. What a thread does is in rotate.cuh.
#include "rotate.cuh"
#include "variants.h"

#define APART(element, Element, order, JOINED, BYTES)                                          \
    extern "C" __global__ void __launch_bounds__(ROPE_MAX_THREADS)                             \
        rotate_apart_##element##_##order##_##BYTES(                                            \
            const __grid_constant__ rope::Request request) {                                   \
        rope::rotate_apart_thread<rope::Element, JOINED, BYTES, ROPE_APART>(                   \
            request, rope::this_thread());                                                     \
    }
ROPE_VARIANTS(APART)

#define TOGETHER(element, Element, order, JOINED, BYTES)                                       \
    extern "C" __global__ void __launch_bounds__(ROPE_MAX_THREADS)                             \
        rotate_together_##element##_##order##_##BYTES(                                         \
            const __grid_constant__ rope::Request request) {                                   \
        rope::rotate_together_thread<rope::Element, JOINED, BYTES, ROPE_TOGETHER_Q,            \
                                     ROPE_TOGETHER_K>(request, rope::this_thread());           \
    }
ROPE_VARIANTS(TOGETHER)
