// The rotation's entries. What a thread does is in rotate.cuh.
#include "rotate.cuh"
#include "variants.h"

#define ROTATE(element, Element, order, JOINED, BYTES, Q, K)                               \
    extern "C" __global__ void __launch_bounds__(ROPE_MAX_THREADS)                         \
        rotate_##Q##_##K##_##element##_##order##_##BYTES(                                  \
            const __grid_constant__ rope::Request request) {                               \
        rope::rotate_thread<rope::Element, JOINED, BYTES, Q, K>(request, rope::this_thread()); \
    }
#define SHARE(Q, K) ROPE_VARIANTS(ROTATE, Q, K)
ROPE_SHARES(SHARE)
