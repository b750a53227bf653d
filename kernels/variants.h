// Every kernel variant, in one table: (element name, Element, order, JOINED, vector BYTES) and what is passed along, to
// FAST where that is the widest vector of a 16-bit type, as in nearly every call of an engine, to WIDE where it is another
// one of four pairs, else to NARROW.
//
// The host picks by element type, pairing and alignment: the widest vector that divides every
// address and every run of pairs, or a narrower one, for more threads. Split vectors of one element fit anything. No variant
// takes more than four pairs: wider 16-bit vectors were slower at nearly every size, for want of threads.
#define ROPE_VARIANTS(FAST, WIDE, NARROW, ...)       \
    WIDE(f32, F32, split, false, 16, __VA_ARGS__)    \
    NARROW(f32, F32, split, false, 8, __VA_ARGS__)   \
    NARROW(f32, F32, split, false, 4, __VA_ARGS__)   \
    NARROW(f32, F32, joined, true, 16, __VA_ARGS__)  \
    NARROW(f32, F32, joined, true, 8, __VA_ARGS__)   \
    FAST(f16, F16, split, false, 8, __VA_ARGS__)     \
    NARROW(f16, F16, split, false, 4, __VA_ARGS__)   \
    NARROW(f16, F16, split, false, 2, __VA_ARGS__)   \
    FAST(f16, F16, joined, true, 16, __VA_ARGS__)    \
    NARROW(f16, F16, joined, true, 8, __VA_ARGS__)   \
    NARROW(f16, F16, joined, true, 4, __VA_ARGS__)   \
    FAST(bf16, BF16, split, false, 8, __VA_ARGS__)   \
    NARROW(bf16, BF16, split, false, 4, __VA_ARGS__) \
    NARROW(bf16, BF16, split, false, 2, __VA_ARGS__) \
    FAST(bf16, BF16, joined, true, 16, __VA_ARGS__)  \
    NARROW(bf16, BF16, joined, true, 8, __VA_ARGS__) \
    NARROW(bf16, BF16, joined, true, 4, __VA_ARGS__)
#define ROPE_NO_KERNEL(...)
#define ROPE_ALL_VARIANTS(KERNEL, ...) ROPE_VARIANTS(KERNEL, KERNEL, KERNEL, __VA_ARGS__)
#define ROPE_FULL_VARIANTS(KERNEL, ...) \
    ROPE_VARIANTS(KERNEL, KERNEL, ROPE_NO_KERNEL, __VA_ARGS__)
#define ROPE_FAST_VARIANTS(KERNEL, ...) \
    ROPE_VARIANTS(KERNEL, ROPE_NO_KERNEL, ROPE_NO_KERNEL, __VA_ARGS__)
#define ROPE_SLOW_VARIANTS(KERNEL, ...) \
    ROPE_VARIANTS(ROPE_NO_KERNEL, KERNEL, KERNEL, __VA_ARGS__)
#define ROPE_NARROW_VARIANTS(KERNEL, ...) \
    ROPE_VARIANTS(ROPE_NO_KERNEL, ROPE_NO_KERNEL, KERNEL, __VA_ARGS__)

// And every entry of a rotation in place of one run of tokens: ENTRY(name, HEADS, SHARING, PDL), whose thread takes so many
// heads. FAST, SLOW (all others), NARROW: in those variants alone.
#define ROPE_FLAT_ENTRIES(ENTRY, FAST, SLOW, NARROW)          \
    NARROW(flat_2, 2, APART, OFF)                             \
    FAST(flat_list_4, 4, LIST, OFF)                           \
    FAST(flat_list_8, 8, LIST, OFF)                           \
    FAST(flat_walk_6, 6, WALK, OFF)                           \
    ROPE_FLAT_ENTRIES_OF(flat, OFF, ENTRY, FAST, SLOW)        \
    ROPE_FLAT_ENTRIES_OF(flat_waiting, ON, ENTRY, FAST, SLOW) \
    ROPE_FLAT_ENTRIES_OF(flat_early, POSITIONS_READY, ENTRY, FAST, SLOW)
#define ROPE_FLAT_ENTRIES_OF(name, PDL, ENTRY, FAST, SLOW) \
    ENTRY(name##_1, 1, APART, PDL)                         \
    SLOW(name##_4, 4, APART, PDL)                          \
    FAST(name##_list_5, 5, LIST, PDL)

// And of any other: ENTRY(name, Q, K, GENERAL), whose thread takes Q heads of q together with K heads of k; or, where K is 0,
// Q heads of either.
#define ROPE_ENTRIES(ENTRY)             \
    ENTRY(rotate_2, 2, 0, false)        \
    ENTRY(rotate_2_1, 2, 1, false)      \
    ENTRY(rotate_general_2, 2, 0, true) \
    ENTRY(rotate_general_2_1, 2, 1, true)

// And every entry of norm, rotation and append: ENTRY(name, FORM, HEADS, EARLY), whose thread takes so many heads of one
// tensor. EARLY: of launches that start early, where others have kernels of their own. FAST, FULL (of four pairs): in those
// variants alone; the others took a tenth of the package.
#define ROPE_APPEND_ENTRIES(ENTRY, FULL, FAST) \
    FAST(append_flat_1, FLAT, 1, false)        \
    FAST(append_flat_2, FLAT, 2, false)        \
    FAST(append_flat_4, FLAT, 4, false)        \
    FAST(append_flat_early_1, FLAT, 1, true)   \
    FAST(append_flat_early_2, FLAT, 2, true)   \
    FAST(append_flat_early_4, FLAT, 4, true)   \
    FULL(append_1, STRIDED, 1, false)          \
    ENTRY(append_2, STRIDED, 2, false)         \
    ENTRY(append_general_2, GENERAL, 2, false)

// The kernels are named <entry>_<element>_<order>_<bytes>; the table's entry is cos_sin.

// Threads in a block, at most; a row of 512 pairs at one pair a thread still fits.
#define ROPE_MAX_THREADS 512
