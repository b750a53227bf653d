// The entries of norm, rotation and append. What a thread does is in append.cuh.
#include "append.cuh"
#include "variants.h"

// Threads of a block, at most.
constexpr int most_threads(int heads) { return heads > 2 ? ROPE_MAX_THREADS / 2 : ROPE_MAX_THREADS; }

// Blocks of so many that must fit a multiprocessor: two, of 64 registers a thread, where that spills none. From 2048 tokens on
// it is worth 3 to 5 % (H100). Of four heads a thread three, of 80 registers: as many heads as fit at once; two before compute
// capability 9.0, where those spill three.
template <class Element>
constexpr int least_blocks(rope::AppendForm form, int heads) {
    if (heads > 2) return rope::ARCH < 900 ? 2 : 3;
    if (form == rope::AppendForm::FLAT) return 2;
    const bool fits = rope::ARCH >= 800 && std::is_same<Element, rope::BF16>::value;
    return form == rope::AppendForm::STRIDED && fits ? 2 : 1;
}

#define KERNEL(element, Element, order, JOINED, BYTES, name, FORM, HEADS, EARLY)                     \
    extern "C" __global__ void __launch_bounds__(                                                    \
        most_threads(HEADS), least_blocks<rope::Element>(rope::AppendForm::FORM, HEADS))             \
        name##_##element##_##order##_##BYTES(                                                        \
            const __grid_constant__ rope::ParamsOf<rope::AppendForm::FORM>::Type params) {           \
        if constexpr (rope::HAS_PDL || !EARLY) {                                                     \
            __shared__ float shared[HEADS * (ROPE_MAX_THREADS / 32)];                                \
            const rope::Thread at =                                                                  \
                rope::BY_SLICES<HEADS> ? rope::this_thread_by_slices() : rope::this_thread();        \
            rope::append_thread<rope::AppendForm::FORM, rope::Element, JOINED, BYTES, HEADS, EARLY>( \
                params, at, shared);                                                                 \
        }                                                                                            \
    }
#define ENTRY(...) ROPE_ALL_VARIANTS(KERNEL, __VA_ARGS__)
#define FULL(...) ROPE_FULL_VARIANTS(KERNEL, __VA_ARGS__)
#define FAST(...) ROPE_FAST_VARIANTS(KERNEL, __VA_ARGS__)
ROPE_APPEND_ENTRIES(ENTRY, FULL, FAST)
