// The kernels' own source, driven over the launch grid by a loop; and what its parameters look like.
#include <stddef.h>
#include <string.h>

#include "cos_sin.cuh"
#include "rotate.cuh"
#include "variants.h"

namespace {

using Run = void (*)(const void*, const rope::Thread&);

struct Kernel {
    const char* name;
    Run run;
};

const Kernel KERNELS[] = {
#define ROTATE(element, Element, order, JOINED, BYTES, name, Q, K, GENERAL)                       \
    {#name "_" #element "_" #order "_" #BYTES, [](const void* params, const rope::Thread& at) {   \
         rope::rotate_thread<rope::Element, JOINED, BYTES, Q, K, GENERAL>(                        \
             *static_cast<const rope::RotateParams*>(params), at);                                \
     }},
#define ENTRY(name, Q, K, GENERAL) ROPE_VARIANTS(ROTATE, name, Q, K, GENERAL)
    ROPE_ENTRIES(ENTRY)
#define COS_SIN(element, Element, order, JOINED, BYTES, name)                                     \
    {#name "_" #element "_" #order "_" #BYTES, [](const void* params, const rope::Thread& at) {   \
         rope::cos_sin_thread<rope::Element, JOINED, BYTES>(                                      \
             *static_cast<const rope::CosSinParams*>(params), at);                                \
     }},
    ROPE_VARIANTS(COS_SIN, cos_sin)
};

struct Field {
    const char *of, *name;
    size_t offset, size;
};

#define F(Struct, field) \
    {#Struct, #field, offsetof(rope::Struct, field), sizeof(rope::Struct::field)},
#define S(Struct) {#Struct, "", 0, sizeof(rope::Struct)},

const Field FIELDS[] = {
    S(Rows) F(Rows, first) F(Rows, batch) F(Rows, token) F(Rows, head)
    S(PassThrough) F(PassThrough, before) F(PassThrough, after)
    S(Ids) F(Ids, first) F(Ids, stride) F(Ids, upper)
    S(TokenPositions) F(TokenPositions, ids) F(TokenPositions, row_stride)
        F(TokenPositions, start) F(TokenPositions, cu_seqlens) F(TokenPositions, sequences)
        F(TokenPositions, counts)
    S(Axes) F(Axes, count) F(Axes, reserved) F(Axes, second) F(Axes, third)
    F(Axes, codes) F(Axes, fourth)
    S(FrequencySets) F(FrequencySets, ids) F(FrequencySets, stride) F(FrequencySets, last)
    S(Divisor) F(Divisor, value) F(Divisor, multiplier) F(Divisor, shift)
    S(RotateParams) F(RotateParams, steps) F(RotateParams, seq) F(RotateParams, tokens)
        F(RotateParams, pair_stride) F(RotateParams, partner) F(RotateParams, pdl)
        F(RotateParams, load_hint) F(RotateParams, heads_per_block)
        F(RotateParams, tokens_per_block) F(RotateParams, q_slices) F(RotateParams, heads)
        F(RotateParams, src) F(RotateParams, positions) F(RotateParams, cos_factor)
        F(RotateParams, sin_factor) F(RotateParams, store_hint) F(RotateParams, in_place)
        F(RotateParams, sets) F(RotateParams, axes) F(RotateParams, starts) F(RotateParams, dst)
        F(RotateParams, pass_through) F(RotateParams, pairs) F(RotateParams, reserved)
    S(CosSinParams) F(CosSinParams, steps) F(CosSinParams, start) F(CosSinParams, rows)
        F(CosSinParams, pair_stride) F(CosSinParams, partner) F(CosSinParams, cos_factor)
        F(CosSinParams, sin_factor) F(CosSinParams, row_stride) F(CosSinParams, cos)
        F(CosSinParams, sin) F(CosSinParams, rows_per_block) F(CosSinParams, reserved)
};

}  // namespace

// Runs every thread of the grid, one after another. Returns 0, or 1 where there is no such kernel
// or the block is larger than a GPU would take.
extern "C" int rope_run_on_host(const char* name, const void* params, const uint32_t grid[3],
                                const uint32_t block[3]) {
    if (block[0] * block[1] * block[2] > ROPE_MAX_THREADS) return 1;
    for (const Kernel& kernel : KERNELS) {
        if (strcmp(kernel.name, name) != 0) continue;
        rope::Thread at = {};
        at.width = block[0];
        for (at.block_y = 0; at.block_y < grid[1]; ++at.block_y)
            for (at.block_x = 0; at.block_x < grid[0]; ++at.block_x)
                for (at.z = 0; at.z < block[2]; ++at.z)
                    for (at.y = 0; at.y < block[1]; ++at.y)
                        for (at.x = 0; at.x < block[0]; ++at.x) kernel.run(params, at);
        return 0;
    }
    return 1;
}

// The struct of field `index`, its name, offset and size; null behind the last one.
extern "C" const char* rope_params_field(size_t index, const char** name, size_t* offset,
                                         size_t* size) {
    if (index >= sizeof FIELDS / sizeof *FIELDS) return nullptr;
    const Field& field = FIELDS[index];
    *name = field.name;
    *offset = field.offset;
    *size = field.size;
    return field.of;
}
