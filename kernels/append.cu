// The entries of norm, rotation and append. What a thread does is in append.cuh.
#include "append.cuh"
#include "variants.h"

#define KERNEL(element, Element, order, JOINED, BYTES, name, Q, K, V, GENERAL)             \
    extern "C" __global__ void __launch_bounds__(ROPE_MAX_THREADS, 1)                      \
        name##_##element##_##order##_##BYTES(                                              \
            const __grid_constant__ rope::AppendParams params) {                           \
        __shared__ float shared[(Q + K) * (ROPE_MAX_THREADS / 32)];                        \
        rope::append_thread<rope::Element, JOINED, BYTES, Q, K, V, GENERAL>(               \
            params, rope::this_thread(), shared);                                          \
    }
#define ENTRY(name, Q, K, V, GENERAL) ROPE_ALL_VARIANTS(KERNEL, name, Q, K, V, GENERAL)
#define FAST(name, Q, K, V, GENERAL) ROPE_FAST_VARIANTS(KERNEL, name, Q, K, V, GENERAL)
ROPE_APPEND_ENTRIES(ENTRY, FAST)
