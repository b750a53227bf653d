// The entries of a rotation in place of tokens in one run. What a thread does is in flat.cuh.
#include "flat.cuh"
#include "variants.h"

// Blocks of ROPE_MAX_THREADS that must fit a multiprocessor; 0: no word on it. Of many heads two, so that 1024 threads' loads
// are on their way at once; launched early they would spill a register for it, and on older devices even without: one block
// is what keeps the assembler from that.
template <class Element>
constexpr int least_blocks(int heads, rope::Pdl pdl) {
    if (heads > 4) return rope::ARCH < 900 ? 1 : pdl == rope::OFF ? 2 : 0;
    return heads == 4 && Element::BYTES == 4 && pdl == rope::POSITIONS_READY ? 1 : 0;
}

#define KERNEL(element, Element, order, JOINED, BYTES, name, HEADS, SHARING, PDL)            \
    extern "C" __global__ void __launch_bounds__(                                            \
        ROPE_MAX_THREADS, least_blocks<rope::Element>(HEADS, rope::PDL))                     \
        name##_##element##_##order##_##BYTES(                                                \
            const __grid_constant__ rope::FlatParams params) {                               \
        if constexpr (rope::HAS_PDL || rope::PDL == rope::OFF)                               \
            rope::flat_thread<rope::Element, JOINED, BYTES, HEADS, rope::SHARING, rope::PDL>(\
                params, rope::this_thread());                                                \
    }
#define ENTRY(...) ROPE_ALL_VARIANTS(KERNEL, __VA_ARGS__)
#define FAST(...) ROPE_FAST_VARIANTS(KERNEL, __VA_ARGS__)
#define SLOW(...) ROPE_SLOW_VARIANTS(KERNEL, __VA_ARGS__)
#define NARROW(...) ROPE_NARROW_VARIANTS(KERNEL, __VA_ARGS__)
ROPE_FLAT_ENTRIES(ENTRY, FAST, SLOW, NARROW)
