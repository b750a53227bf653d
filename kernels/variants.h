// Every kernel variant, in one table: VARIANT(element name, Element, order, JOINED, vector BYTES).
//
// The host picks by element type, pairing and alignment: the widest vector that divides every
// address and every run of pairs. Split vectors of one element fit anything. No variant takes more
// than four pairs: wider 16-bit vectors were slower at every size, for want of threads.
#define ROPE_VARIANTS(VARIANT)            \
    VARIANT(f32, F32, split, false, 16)   \
    VARIANT(f32, F32, split, false, 8)    \
    VARIANT(f32, F32, split, false, 4)    \
    VARIANT(f32, F32, joined, true, 16)   \
    VARIANT(f32, F32, joined, true, 8)    \
    VARIANT(f16, F16, split, false, 8)    \
    VARIANT(f16, F16, split, false, 4)    \
    VARIANT(f16, F16, split, false, 2)    \
    VARIANT(f16, F16, joined, true, 16)   \
    VARIANT(f16, F16, joined, true, 8)    \
    VARIANT(f16, F16, joined, true, 4)    \
    VARIANT(bf16, BF16, split, false, 8)  \
    VARIANT(bf16, BF16, split, false, 4)  \
    VARIANT(bf16, BF16, split, false, 2)  \
    VARIANT(bf16, BF16, joined, true, 16) \
    VARIANT(bf16, BF16, joined, true, 8)  \
    VARIANT(bf16, BF16, joined, true, 4)

// The entries, each in all variants, are named
//
//   rotate_apart_<element>_<order>_<bytes>
//   rotate_together_<element>_<order>_<bytes>
//   cos_sin_<element>_<order>_<bytes>

// Heads that a thread takes: of either tensor apart, of q and of k together.
#define ROPE_APART 2
#define ROPE_TOGETHER_Q 4
#define ROPE_TOGETHER_K 1

// Threads in a block, at most; a row of 512 pairs at one pair a thread still fits.
#define ROPE_MAX_THREADS 512
