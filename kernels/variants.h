// Every kernel variant, in one table: VARIANT(element name, Element, order, JOINED, vector BYTES, Q, K).
//
// The host picks by element type, pairing and alignment: the widest vector that divides every
// address and every run of pairs. Split vectors of one element fit anything. No variant takes more
// than four pairs: wider 16-bit vectors were slower at nearly every size, for want of threads.
#define ROPE_VARIANTS(VARIANT, Q, K)            \
    VARIANT(f32, F32, split, false, 16, Q, K)   \
    VARIANT(f32, F32, split, false, 8, Q, K)    \
    VARIANT(f32, F32, split, false, 4, Q, K)    \
    VARIANT(f32, F32, joined, true, 16, Q, K)   \
    VARIANT(f32, F32, joined, true, 8, Q, K)    \
    VARIANT(f16, F16, split, false, 8, Q, K)    \
    VARIANT(f16, F16, split, false, 4, Q, K)    \
    VARIANT(f16, F16, split, false, 2, Q, K)    \
    VARIANT(f16, F16, joined, true, 16, Q, K)   \
    VARIANT(f16, F16, joined, true, 8, Q, K)    \
    VARIANT(f16, F16, joined, true, 4, Q, K)    \
    VARIANT(bf16, BF16, split, false, 8, Q, K)  \
    VARIANT(bf16, BF16, split, false, 4, Q, K)  \
    VARIANT(bf16, BF16, split, false, 2, Q, K)  \
    VARIANT(bf16, BF16, joined, true, 16, Q, K) \
    VARIANT(bf16, BF16, joined, true, 8, Q, K)  \
    VARIANT(bf16, BF16, joined, true, 4, Q, K)

// And every share of a rotation's thread: SHARE(Q, K) takes Q heads of q together with K heads of k,
// or, where K is 0, Q heads of either.
#define ROPE_SHARES(SHARE) \
    SHARE(2, 0)            \
    SHARE(4, 0)            \
    SHARE(4, 1)            \
    SHARE(2, 1)

// The entries, each in all variants, are named
//
//   rotate_<Q>_<K>_<element>_<order>_<bytes>
//   cos_sin_<element>_<order>_<bytes>

// Threads in a block, at most; a row of 512 pairs at one pair a thread still fits.
#define ROPE_MAX_THREADS 512
