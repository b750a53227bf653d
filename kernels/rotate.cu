// The rotation's entries. What a thread does is in rotate.cuh.
#include "rotate.cuh"
#include "variants.h"

#define ENTRY(HEADS, element, Element, order, JOINED, BYTES)                             \
    extern "C" __global__ void __launch_bounds__(ROPE_MAX_THREADS)                       \
        rotate_##HEADS##_##element##_##order##_##BYTES(                                  \
            const __grid_constant__ rope::Request request) {                             \
        rope::rotate_thread<rope::Element, JOINED, BYTES, HEADS>(request,                \
                                                                 rope::this_thread());   \
    }
#define ENTRY_2(...) ENTRY(2, __VA_ARGS__)
#define ENTRY_8(...) ENTRY(8, __VA_ARGS__)
#define ENTRIES(HEADS) ROPE_VARIANTS(ENTRY_##HEADS)
ROPE_ROTATIONS(ENTRIES)
