// A thread's pairs of a head, stored as the elements that they are or as 8-bit floats.
#pragma once

#include "../fp8.cuh"
#include "../params/append.cuh"
#include "../vec.cuh"

namespace rope {

template <class Format, class Element, bool JOINED, int BYTES>
ROPE_FN void store_fp8(const Format& format, const Pairs<Element, JOINED, BYTES>& group,
                       char* address, uint32_t partner, float inverse_scale) {
    constexpr int COUNT = BYTES / Element::BYTES;
#pragma unroll
    for (int i = 0; i < group.VECTORS; ++i) {
        float f[COUNT];
        unpack<Element, BYTES>(group.raw[i], f);
#pragma unroll
        for (int j = 0; j < COUNT; ++j) f[j] = mul_rn(f[j], inverse_scale);
        store<COUNT>(address + i * partner, pack_fp8<COUNT>(format, f));
    }
}

// `row` is at the head's first channel; the pairs' first vector is `first` channels from it and their second one, where
// there are two, `partner` channels further. 8-bit floats are made of the elements times `inverse_scale()`.
template <class Element, bool JOINED, int BYTES, class InverseScale>
ROPE_FN void store_as(Storage storage, const Pairs<Element, JOINED, BYTES>& group, char* row,
                      uint32_t first, uint32_t partner, InverseScale inverse_scale) {
    if (storage == AS_ELEMENT) {
        group.store(row + first * Element::BYTES, partner * Element::BYTES);
    } else {
        with_fp8(storage == AS_E4M3, [&](const auto& format) {
            store_fp8(format, group, row + first, partner, inverse_scale());
        });
    }
}

}  // namespace rope
