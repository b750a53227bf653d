// Out of place, the channels that do not rotate are copied.
#pragma once

#include "../memory.cuh"
#include "../params/rows.cuh"
#include "../pdl.cuh"

namespace rope {

// One row, by the threads of the block's x. `src` and `dst` are at the first rotated channel.
template <class Element>
ROPE_FN void pass_through(const PassThrough& channels, uint32_t pairs, const char* src, char* dst,
                          const Thread& at) {
    constexpr int BYTES = Element::BYTES;
    const int64_t before = channels.before;
    const int64_t rotated = static_cast<int64_t>(pairs) * 2;
    for (uint32_t i = at.x; i < channels.before + channels.after; i += at.width) {
        const int64_t channel = (i < before ? i : i + rotated) - before;
        store<BYTES>(dst + channel * BYTES, load<BYTES>(src + channel * BYTES));
    }
}

}  // namespace rope
