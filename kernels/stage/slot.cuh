// Where a token's key and value go: its slot, as a page and an entry of it.
#pragma once

#include "../params/append.cuh"
#include "fragment.cuh"

namespace rope {

struct Slot {
    Ids::Halves id;
    bool is_asked;  // the token has an id
    bool is_stored;
    uint32_t page, entry;

    // The token's id, whose value waits for memory.
    // With a page table no token has one.
    ROPE_FN void load(const SlotMapping& slots, uint32_t t) {
        id = {0, 0};
        page = entry = 0;
        is_asked = t < slots.tokens;
        if (is_asked) {
            id = slots.ids.load<false>(static_cast<uint64_t>(t) * slots.ids.stride);
        }
    }

    // By a page table instead: the id of the page where the sequence's token at `position` lies.
    ROPE_FN void load_page(const SlotMapping& slots, const PageTable& table, uint32_t sequence,
                           uint64_t position) {
        is_asked = position < static_cast<uint64_t>(table.width) * slots.page_size.value;
        if (!is_asked) return;
        page = slots.page_size.divide(static_cast<uint32_t>(position));
        entry = static_cast<uint32_t>(position) - page * slots.page_size.value;
        id = slots.ids.load<false>(sequence * table.row_stride +
                                   static_cast<uint64_t>(page) * slots.ids.stride);
    }

    // One bound for all that a slot must not be: negative, reserved, beyond the cache.
    ROPE_FN void resolve(const SlotMapping& slots, bool by_table) {
        uint64_t slot = slots.ids.value<false>(id);
        if (by_table) {
            // A page that there is not must not wrap to one that there is.
            is_asked = is_asked && slot <= 0x7fffffff;
            slot = slot * slots.page_size.value + entry;
        }
        is_stored = is_asked && slot - slots.first < slots.count;
        const uint32_t valid = is_stored ? static_cast<uint32_t>(slot) : 0;
        page = slots.page_size.divide(valid);
        entry = valid - page * slots.page_size.value;
    }
};

}  // namespace rope
