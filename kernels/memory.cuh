// Vector loads and stores of 1 to 16 bytes, with an L2 eviction hint.
#pragma once

#include "arith.cuh"

namespace rope {

// BYTES of memory that move in one load or store. The address must be a multiple of BYTES.
template <int BYTES>
struct alignas(BYTES) Raw {
    uint32_t word[BYTES / 4];
};
template <>
struct alignas(2) Raw<2> {
    uint16_t word[1];
};

template <>
struct Raw<1> {
    uint8_t word[1];
};

template <int BYTES>
ROPE_FN Raw<BYTES> load(const char* address) {
    return *reinterpret_cast<const Raw<BYTES>*>(address);
}
template <int BYTES>
ROPE_FN void load_if(bool asked, Raw<BYTES>& raw, const char* address) {
    static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "halves of ids, and steps");
#ifdef __CUDA_ARCH__
    auto& w = raw.word;
#define ROPE_LOAD(predicate, type, values, address_at, ...)                              \
    asm volatile("{ .reg .pred p; setp.ne.u32 p, " predicate ", 0;\n\t"                   \
                 "@p ld.global." type " " values ", [" address_at "]; }"                 \
                 : __VA_ARGS__                                                           \
                 : "l"(address), "r"(static_cast<uint32_t>(asked)))
    if constexpr (BYTES == 4) {
        ROPE_LOAD("%2", "u32", "%0", "%1", "+r"(w[0]));
    } else if constexpr (BYTES == 8) {
        ROPE_LOAD("%3", "v2.u32", "{%0, %1}", "%2", "+r"(w[0]), "+r"(w[1]));
    } else {
        ROPE_LOAD("%5", "v4.u32", "{%0, %1, %2, %3}", "%4", "+r"(w[0]), "+r"(w[1]), "+r"(w[2]),
                  "+r"(w[3]));
    }
#undef ROPE_LOAD
#else
    if (asked) raw = load<BYTES>(address);
#endif
}
template <int BYTES>
ROPE_FN void store(char* address, const Raw<BYTES>& raw) {
    *reinterpret_cast<Raw<BYTES>*>(address) = raw;
}

// The upper word of an access property, as CUDA's own `cuda::access_property` encodes it on the host; the
// lower word is zero in all that are used. src/plan/l2_hint.rs has them, and why.
using L2Hint = uint32_t;

// Machine code for sm_80 and sm_89 is made of the PTX of sm_75, which knows no policies.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800

struct Policy {
    uint64_t bits;

    explicit ROPE_FN Policy(L2Hint hint) {
        const uint64_t property = static_cast<uint64_t>(hint) << 32;
        asm("createpolicy.cvt.L2.b64 %0, %1;" : "=l"(bits) : "l"(property));
    }
};

// Volatile, so that they stay behind `wait_on_dependent_grids`. Predicated rather than branched around: see flat.cuh.
template <int BYTES>
ROPE_FN void load_if(bool asked, Raw<BYTES>& raw, const char* address, Policy policy) {
    auto& w = raw.word;
#define ROPE_LOAD(predicate, type, values, ...)                        \
    asm volatile("{ .reg .pred p; setp.ne.u32 p, " predicate ", 0;\n\t" \
                 "@p ld.global.L2::cache_hint." type " " values "; }"  \
                 : __VA_ARGS__                                         \
                 : "l"(address), "l"(policy.bits), "r"(static_cast<uint32_t>(asked)))
    if constexpr (BYTES == 2) {
        ROPE_LOAD("%3", "u16", "%0, [%1], %2", "=h"(w[0]));
    } else if constexpr (BYTES == 4) {
        ROPE_LOAD("%3", "u32", "%0, [%1], %2", "=r"(w[0]));
    } else if constexpr (BYTES == 8) {
        ROPE_LOAD("%4", "v2.u32", "{%0, %1}, [%2], %3", "=r"(w[0]), "=r"(w[1]));
    } else {
        ROPE_LOAD("%6", "v4.u32", "{%0, %1, %2, %3}, [%4], %5", "=r"(w[0]), "=r"(w[1]),
                  "=r"(w[2]), "=r"(w[3]));
    }
#undef ROPE_LOAD
}
template <int BYTES>
ROPE_FN void store(char* address, const Raw<BYTES>& raw, Policy policy) {
    const auto& w = raw.word;
#define ROPE_STORE(type, values, ...)                                       \
    asm volatile("st.global.L2::cache_hint." type " [%0], " values ", %1;"  \
                 :                                                          \
                 : "l"(address), "l"(policy.bits), __VA_ARGS__              \
                 : "memory")
    if constexpr (BYTES == 2) {
        ROPE_STORE("u16", "%2", "h"(w[0]));
    } else if constexpr (BYTES == 4) {
        ROPE_STORE("u32", "%2", "r"(w[0]));
    } else if constexpr (BYTES == 8) {
        ROPE_STORE("v2.u32", "{%2, %3}", "r"(w[0]), "r"(w[1]));
    } else {
        ROPE_STORE("v4.u32", "{%2, %3, %4, %5}", "r"(w[0]), "r"(w[1]), "r"(w[2]), "r"(w[3]));
    }
#undef ROPE_STORE
}

#else

struct Policy {
    explicit ROPE_FN Policy(L2Hint) {}
};
template <int BYTES>
ROPE_FN void load_if(bool asked, Raw<BYTES>& raw, const char* address, Policy) {
    if (asked) raw = load<BYTES>(address);
}
template <int BYTES>
ROPE_FN void store(char* address, const Raw<BYTES>& raw, Policy) {
    store<BYTES>(address, raw);
}

#endif

template <int BYTES>
ROPE_FN Raw<BYTES> load(const char* address, Policy policy) {
    Raw<BYTES> raw;
    load_if(true, raw, address, policy);
    return raw;
}

}  // namespace rope
