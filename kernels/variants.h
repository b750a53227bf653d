// Every kernel variant, in one table: VARIANT(element name, Element, order, JOINED, vector BYTES).
//
// The host picks by element type, pairing and alignment: the widest vector that divides every
// address and every run of pairs. Split vectors of one element fit anything.
//
//   rotate_<element>_<order>_<bytes>    cos_sin_<element>_<order>_<bytes>
#define ROPE_VARIANTS(VARIANT)            \
    VARIANT(f32, F32, split, false, 16)   \
    VARIANT(f32, F32, split, false, 8)    \
    VARIANT(f32, F32, split, false, 4)    \
    VARIANT(f32, F32, joined, true, 16)   \
    VARIANT(f32, F32, joined, true, 8)    \
    VARIANT(f16, F16, split, false, 16)   \
    VARIANT(f16, F16, split, false, 8)    \
    VARIANT(f16, F16, split, false, 4)    \
    VARIANT(f16, F16, split, false, 2)    \
    VARIANT(f16, F16, joined, true, 16)   \
    VARIANT(f16, F16, joined, true, 8)    \
    VARIANT(f16, F16, joined, true, 4)    \
    VARIANT(bf16, BF16, split, false, 16) \
    VARIANT(bf16, BF16, split, false, 8)  \
    VARIANT(bf16, BF16, split, false, 4)  \
    VARIANT(bf16, BF16, split, false, 2)  \
    VARIANT(bf16, BF16, joined, true, 16) \
    VARIANT(bf16, BF16, joined, true, 8)  \
    VARIANT(bf16, BF16, joined, true, 4)

// Threads in a block, at most; a row of 512 pairs at one pair a thread still fits.
#define ROPE_MAX_THREADS 512
// Heads in flight in one thread of a rotation.
#define ROPE_IN_FLIGHT 2
