// The kernels' own source, driven over the launch grid by a loop; and what its parameters look like.
#include <stddef.h>
#include <string.h>

#include <algorithm>
#include <array>
#include <vector>

#include "append.cuh"
#include "cos_sin.cuh"
#include "flat.cuh"
#include "rotate.cuh"
#include "variants.h"

namespace {

// A block of a grid, run thread by thread.
struct Block {
    const void* params;
    uint32_t index[3], grid_y;
    uint32_t extent[3];

    // As this_thread.
    uint32_t tile(bool by_slices) const { return by_slices ? index[1] + index[2] * grid_y : index[0]; }
    uint32_t slice(bool by_slices) const { return index[by_slices ? 0 : 1]; }

    // Every thread, with its number in the block.
    template <class F>
    void each(bool by_slices, F f) const {
        rope::Thread at = {};
        at.tile = tile(by_slices);
        at.slice = slice(by_slices);
        at.width = extent[0];
        size_t number = 0;
        for (at.z = 0; at.z < extent[2]; ++at.z)
            for (at.y = 0; at.y < extent[1]; ++at.y)
                for (at.x = 0; at.x < extent[0]; ++at.x) f(at, number++);
    }
};

using Run = void (*)(const Block&);

struct Kernel {
    const char* name;
    Run run;
};

// Threads meet at the sum alone: all of them as far as there, the sums as lanes make them, and all of them on.
template <rope::AppendForm FORM, class Element, bool JOINED, int BYTES, int HEADS, bool EARLY>
void append_block(const Block& block) {
    const auto& params = *static_cast<const typename rope::ParamsOf<FORM>::Type*>(block.params);
    constexpr bool BY_SLICES = rope::BY_SLICES<HEADS>;
    const size_t width = block.extent[0], threads = width * block.extent[1] * block.extent[2];
    rope::with_tensor(params, block.slice(BY_SLICES), [&](auto tensor, uint32_t slice) {
        using Append = rope::Append<FORM, decltype(tensor)::value, Element, JOINED, BYTES, HEADS>;
        using Sums = std::array<float, Append::SUMS + 1>;
        std::vector<Append> work(threads);
        std::vector<Sums> sums(threads);
        block.each(BY_SLICES, [&](const rope::Thread& at, size_t i) {
            work[i].begin(params, rope::pdl_of<FORM, EARLY>(params), at, slice, sums[i].data());
        });
        for (size_t step = 1; step < width; step *= 2) {
            const std::vector<Sums> before = sums;
            for (size_t i = 0; i < threads; ++i) {
                for (size_t head = 0; head < Append::SUMS; ++head) {
                    sums[i][head] = rope::add_rn(before[i][head], before[i ^ step][head]);
                }
            }
        }
        block.each(BY_SLICES, [&](const rope::Thread&, size_t i) {
            work[i].end(params, sums[i].data());
        });
    });
}

// Threads that do not meet, one after another.
template <class Params, void (*THREAD)(const Params&, const rope::Thread&)>
void each_thread(const Block& block) {
    const auto& params = *static_cast<const Params*>(block.params);
    block.each(false, [&](const rope::Thread& at, size_t) { THREAD(params, at); });
}

const Kernel KERNELS[] = {
#define NAME(name, element, order, BYTES) #name "_" #element "_" #order "_" #BYTES
#define FLAT(element, Element, order, JOINED, BYTES, name, HEADS, SHARING, PDL)               \
    {NAME(name, element, order, BYTES),                                                       \
     each_thread<rope::FlatParams, rope::flat_thread<rope::Element, JOINED, BYTES, HEADS,     \
                                                     rope::SHARING, rope::PDL>>},
#define FLAT_ENTRY(...) ROPE_ALL_VARIANTS(FLAT, __VA_ARGS__)
#define FLAT_FAST(...) ROPE_FAST_VARIANTS(FLAT, __VA_ARGS__)
#define FLAT_SLOW(...) ROPE_SLOW_VARIANTS(FLAT, __VA_ARGS__)
#define FLAT_NARROW(...) ROPE_NARROW_VARIANTS(FLAT, __VA_ARGS__)
    ROPE_FLAT_ENTRIES(FLAT_ENTRY, FLAT_FAST, FLAT_SLOW, FLAT_NARROW)
#define ROTATE(element, Element, order, JOINED, BYTES, name, Q, K, GENERAL)                   \
    {NAME(name, element, order, BYTES),                                                       \
     each_thread<rope::RotateParams,                                                          \
                 rope::rotate_thread<rope::Element, JOINED, BYTES, Q, K, GENERAL>>},
#define ROTATE_ENTRY(...) ROPE_ALL_VARIANTS(ROTATE, __VA_ARGS__)
    ROPE_ENTRIES(ROTATE_ENTRY)
#define COS_SIN(element, Element, order, JOINED, BYTES, name)                                 \
    {NAME(name, element, order, BYTES),                                                       \
     each_thread<rope::CosSinParams, rope::cos_sin_thread<rope::Element, JOINED, BYTES>>},
    ROPE_ALL_VARIANTS(COS_SIN, cos_sin)
#define APPEND(element, Element, order, JOINED, BYTES, name, FORM, HEADS, EARLY)              \
    {NAME(name, element, order, BYTES),                                                       \
     append_block<rope::AppendForm::FORM, rope::Element, JOINED, BYTES, HEADS, EARLY>},
#define APPEND_ENTRY(...) ROPE_ALL_VARIANTS(APPEND, __VA_ARGS__)
#define APPEND_FULL(...) ROPE_FULL_VARIANTS(APPEND, __VA_ARGS__)
#define APPEND_FAST(...) ROPE_FAST_VARIANTS(APPEND, __VA_ARGS__)
    ROPE_APPEND_ENTRIES(APPEND_ENTRY, APPEND_FULL, APPEND_FAST)
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
    S(FlatRows) F(FlatRows, first) F(FlatRows, token) F(FlatRows, head)
    S(PassThrough) F(PassThrough, before) F(PassThrough, after)
    S(Ids) F(Ids, first) F(Ids, stride) F(Ids, upper)
    S(TokenPositions) F(TokenPositions, ids) F(TokenPositions, row_stride)
        F(TokenPositions, start) F(TokenPositions, cu_seqlens) F(TokenPositions, sequences)
        F(TokenPositions, counts)
    S(Axes) F(Axes, count) F(Axes, reserved) F(Axes, second) F(Axes, third)
    F(Axes, codes) F(Axes, fourth)
    S(FrequencySets) F(FrequencySets, ids) F(FrequencySets, stride) F(FrequencySets, last)
    S(Divisor) F(Divisor, value) F(Divisor, multiplier) F(Divisor, shift)
    S(FlatParams) F(FlatParams, first) F(FlatParams, token) F(FlatParams, head)
        F(FlatParams, end) F(FlatParams, q_slices) F(FlatParams, partner)
        F(FlatParams, heads_per_block) F(FlatParams, tokens_per_block)
        F(FlatParams, load_hint) F(FlatParams, tokens) F(FlatParams, counts)
        F(FlatParams, steps) F(FlatParams, ids) F(FlatParams, start)
        F(FlatParams, cos_factor) F(FlatParams, sin_factor) F(FlatParams, store_hint)
        F(FlatParams, heads_per_round)
    S(RotateParams) F(RotateParams, steps) F(RotateParams, seq) F(RotateParams, tokens)
        F(RotateParams, pair_stride) F(RotateParams, partner) F(RotateParams, pdl)
        F(RotateParams, load_hint) F(RotateParams, heads_per_block)
        F(RotateParams, tokens_per_block) F(RotateParams, q_slices) F(RotateParams, heads)
        F(RotateParams, src) F(RotateParams, positions) F(RotateParams, cos_factor)
        F(RotateParams, sin_factor) F(RotateParams, store_hint) F(RotateParams, in_place)
        F(RotateParams, sets) F(RotateParams, axes) F(RotateParams, starts) F(RotateParams, dst)
        F(RotateParams, pass_through) F(RotateParams, pairs) F(RotateParams, reserved)
    S(HeadShape) F(HeadShape, before) F(HeadShape, pairs) F(HeadShape, rest) F(HeadShape, reserved)
    S(KvPages) F(KvPages, first) F(KvPages, page) F(KvPages, slot) F(KvPages, head)
    S(FlatKvPages) F(FlatKvPages, first) F(FlatKvPages, page) F(FlatKvPages, slot)
        F(FlatKvPages, head) F(FlatKvPages, reserved)
    S(Scale) F(Scale, first) F(Scale, stride) F(Scale, reciprocal)
    S(SlotMapping) F(SlotMapping, ids) F(SlotMapping, first) F(SlotMapping, count)
        F(SlotMapping, tokens) F(SlotMapping, page_size)
    S(PageTable) F(PageTable, row_stride) F(PageTable, width) F(PageTable, reserved)
    S(FlatAppendParams) F(FlatAppendParams, tokens) F(FlatAppendParams, pairs)
        F(FlatAppendParams, value_pairs) F(FlatAppendParams, heads) F(FlatAppendParams, q_slices)
        F(FlatAppendParams, k_slices) F(FlatAppendParams, heads_per_block)
        F(FlatAppendParams, tokens_per_block) F(FlatAppendParams, normalised)
        F(FlatAppendParams, key_target) F(FlatAppendParams, storage)
        F(FlatAppendParams, load_hint) F(FlatAppendParams, counts) F(FlatAppendParams, waits)
        F(FlatAppendParams, src)
        F(FlatAppendParams, ids) F(FlatAppendParams, start) F(FlatAppendParams, steps)
        F(FlatAppendParams, cos_factor) F(FlatAppendParams, sin_factor) F(FlatAppendParams, slots)
        F(FlatAppendParams, store_hint) F(FlatAppendParams, eps) F(FlatAppendParams, pages)
        F(FlatAppendParams, weight) F(FlatAppendParams, inverse_dim)
        F(FlatAppendParams, weight_offset) F(FlatAppendParams, reserved)
        F(FlatAppendParams, scale)
    S(AppendParams) F(AppendParams, steps) F(AppendParams, seq) F(AppendParams, tokens)
        F(AppendParams, pdl) F(AppendParams, pairs) F(AppendParams, heads_per_block)
        F(AppendParams, tokens_per_block) F(AppendParams, q_slices) F(AppendParams, k_slices)
        F(AppendParams, pair_step) F(AppendParams, load_hint) F(AppendParams, heads)
        F(AppendParams, target) F(AppendParams, storage) F(AppendParams, normalised)
        F(AppendParams, value_pairs) F(AppendParams, shape) F(AppendParams, src)
        F(AppendParams, eps) F(AppendParams, inverse_dim) F(AppendParams, weight_offset)
        F(AppendParams, cos_factor) F(AppendParams, sin_factor) F(AppendParams, store_hint)
        F(AppendParams, reserved) F(AppendParams, weight) F(AppendParams, positions)
        F(AppendParams, slots) F(AppendParams, table) F(AppendParams, starts)
        F(AppendParams, sets) F(AppendParams, pages) F(AppendParams, scale) F(AppendParams, dst)
        F(AppendParams, axes)
    S(CosSinParams) F(CosSinParams, steps) F(CosSinParams, start) F(CosSinParams, rows)
        F(CosSinParams, pair_stride) F(CosSinParams, partner) F(CosSinParams, cos_factor)
        F(CosSinParams, sin_factor) F(CosSinParams, row_stride) F(CosSinParams, cos)
        F(CosSinParams, sin) F(CosSinParams, rows_per_block) F(CosSinParams, reserved)
};

}  // namespace

// Runs every block of the grid, one after another. Returns 0, or 1 where there is no such kernel
// or the block is larger than a GPU would take.
extern "C" int rope_run_on_host(const char* name, const void* params, const uint32_t grid[3],
                                const uint32_t block[3]) {
    if (block[0] * block[1] * block[2] > ROPE_MAX_THREADS) return 1;
    for (const Kernel& kernel : KERNELS) {
        if (strcmp(kernel.name, name) != 0) continue;
        for (uint32_t z = 0; z < grid[2]; ++z)
            for (uint32_t y = 0; y < grid[1]; ++y)
                for (uint32_t x = 0; x < grid[0]; ++x)
                    kernel.run({params, {x, y, z}, grid[1], {block[0], block[1], block[2]}});
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
