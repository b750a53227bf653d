/* condensed-rope: rotary position embedding by condensed positions. Made by cbindgen; a test holds it to the source. */

#ifndef CONDENSED_ROPE_H
#define CONDENSED_ROPE_H

#include <stddef.h>
#include <stdint.h>

// An argument that C alone can get wrong: NULL, an unknown number, a struct of another size.
#define CROPE_BAD_ARGUMENT 2001

// A defect of the library: report it.
#define CROPE_PANIC 2002

// The most pairs that a head can have.
#define CROPE_MAX_PAIRS 512

#define CROPE_PAIRING_HALF_SPLIT 0

#define CROPE_PAIRING_INTERLEAVED 1

#define CROPE_F32 0

#define CROPE_F16 1

#define CROPE_BF16 2

#define CROPE_I32 0

#define CROPE_I64 1

#define CROPE_U32 2

// `start, start + 1, …` in every sequence.
#define CROPE_CONSECUTIVE 0

// `ids[b * ids_stride + s]`; a stride of 0 is a row that the batch shares, one of the sequence rows end to end.
#define CROPE_IDS 1

// `ids[b] + s`.
#define CROPE_STARTS 2

// Sequences end to end: `cu_seqlens` (i32, `sequences + 1` of them), and `ids` their first positions, or NULL for 0.
#define CROPE_RAGGED 3

// M-RoPE: `ids[axis * axis_stride + b * ids_stride + s]`, pair `j` by axis `axis_of_pair[j]`.
#define CROPE_AXES 4

// The launch waits for the one before it to end.
#define CROPE_PDL_OFF 0

// The launch may begin while the one before it on the stream ends, and waits for its results (programmatic dependent
// launch).
#define CROPE_PDL_ON 1

// The same, and positions are older than the launch before it: they are read without waiting.
#define CROPE_PDL_POSITIONS_READY 2

// 8-bit floats of 4 exponent and 3 mantissa bits, in a cache.
#define CROPE_FP8_E4M3 3

// 8-bit floats of 5 exponent and 2 mantissa bits, in a cache.
#define CROPE_FP8_E5M2 4

// How fast each channel pair turns. Made by `crope_frequencies_*`, freed by `crope_frequencies_free`.
struct crope_frequencies;

// Where calls run: the CPU, or a device whose kernels are loaded. Made once, shared by all threads.
struct crope_kernels;

// What a config says of the layers of a type.
struct crope_layer {
  // `sizeof(struct crope_layer)`.
  uint64_t size;
  uint64_t head_dim;
  // The first channel that rotates.
  uint64_t rotary_offset;
  uint64_t rotary_dim;
  // A `CROPE_PAIRING_*`.
  uint32_t pairing;
  // 1 where the class turns backwards.
  uint32_t inverse;
  // Positions of a token (M-RoPE: 3); 1 in all other models.
  uint64_t axes;
  // By which of them each pair turns: for `crope_positions.axis_of_pair`.
  uint8_t axis_of_pair[CROPE_MAX_PAIRS];
};

// What a rope is.
struct crope_rope {
  // `sizeof(struct crope_rope)`.
  uint64_t size;
  // By `crope_words_write`, where the kernels are: on the device (16-byte aligned), or on the host.
  const uint64_t *words;
  uint64_t words_len;
  uint64_t rotary_dim;
  // On cos and sin: `crope_frequencies_factor`.
  float factor;
  // A `CROPE_PAIRING_*`.
  uint32_t pairing;
  // 1 turns backwards.
  uint32_t inverse;
  // A `CROPE_PDL_*`; the CPU has none.
  uint32_t pdl;
  // Sets of frequencies in the words; 0 is 1.
  uint64_t sets;
};

// Heads of q or k; strides in elements, channels contiguous.
struct crope_heads {
  // `sizeof(struct crope_heads)`.
  uint64_t size;
  // Where they go.
  void *data;
  // Where they are read; NULL: in place.
  const void *source;
  // batch, seq, heads, head_dim.
  int64_t shape[4];
  // Of batch, token and head.
  int64_t strides[3];
  int64_t source_strides[3];
  // The first channel that rotates.
  uint64_t rotary_offset;
  // A `CROPE_F32`, `CROPE_F16` or `CROPE_BF16`.
  uint32_t dtype;
  // 0.
  uint32_t reserved;
};

// The position of each token.
struct crope_positions {
  // `sizeof(struct crope_positions)`.
  uint64_t size;
  // A `CROPE_CONSECUTIVE`, `CROPE_IDS`, `CROPE_STARTS`, `CROPE_RAGGED` or `CROPE_AXES`.
  uint32_t kind;
  // Of `ids`: a `CROPE_I32`, `CROPE_I64` or `CROPE_U32`.
  uint32_t ids_dtype;
  const void *ids;
  // How many there are.
  uint64_t ids_len;
  // From one sequence's row to the next one's.
  int64_t ids_stride;
  int64_t start;
  const int32_t *cu_seqlens;
  uint64_t cu_seqlens_len;
  // By which set of frequencies each sequence turns, one index a sequence; NULL: all by the first.
  const void *sets;
  uint64_t sets_len;
  // A `CROPE_I32`, `CROPE_I64` or `CROPE_U32`.
  uint32_t sets_dtype;
  // Positions of a token, of `CROPE_AXES`: 1 to 4.
  uint32_t axes;
  // From one axis' ids to the next one's.
  int64_t axis_stride;
  // By which axis each pair turns, on the host: `crope_layer.axis_of_pair`, say.
  const uint8_t *axis_of_pair;
  // As many as the rope has pairs.
  uint64_t pairs;
};

// RMSNorm of query and key heads, before they rotate.
struct crope_norm {
  // `sizeof(struct crope_norm)`.
  uint64_t size;
  // `head_dim` of them, of q's type; NULL: q is not normalised.
  const void *q_weights;
  // The same of k.
  const void *k_weights;
  // 2^-101 or more.
  float eps;
  // 1: weights are one less than what they multiply by (Gemma 3).
  uint32_t unit_offset;
};

// A cache of keys and values, and the slots of this call's tokens. Slot `s` is entry `s % page_size` of page
// `s / page_size`; one that the cache does not have stores nothing.
struct crope_cache {
  // `sizeof(struct crope_cache)`.
  uint64_t size;
  // Page 0, entry 0, head 0.
  void *keys;
  // The same of values; NULL without v.
  void *values;
  // pages, page_size, heads, head_dim.
  int64_t key_shape[4];
  int64_t value_shape[4];
  // Of page, entry and head, in elements of the cache; channels are contiguous.
  int64_t key_strides[3];
  int64_t value_strides[3];
  // q's type, `CROPE_FP8_E4M3` or `CROPE_FP8_E5M2`.
  uint32_t dtype;
  // Of `slots`: a `CROPE_I32`, `CROPE_I64` or `CROPE_U32`.
  uint32_t slots_dtype;
  // One slot a token; or, with a `table_width`, pages: `slots[i * table_stride + p]` is page `p` of sequence `i`.
  const void *slots;
  // How many there are. Tokens beyond the last one are not stored.
  uint64_t slots_len;
  // Pages of a row of a page table; 0: no table.
  uint64_t table_width;
  // From one sequence's row to the next one's.
  int64_t table_stride;
  // First slots that nothing is stored in.
  uint64_t reserved_slots;
  // What 8-bit floats are multiplied by to be what they stand for, where there is no list; 0 is 1.
  float key_scale;
  float value_scale;
  // f32 where the kernels are: one for all heads, or one a head; NULL: by value.
  const float *key_scales;
  const float *value_scales;
  // 1, or the number of heads.
  uint64_t key_scales_len;
  uint64_t value_scales_len;
};

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// What the last status other than 0 on this thread means: valid until the next one. Never NULL.
const char *crope_last_error(void);

// The library's version, "0.1.0".
const char *crope_version(void);

// The version of the format of phase words.
uint32_t crope_words_format(void);

// `base^(-2j / rotary_dim)` radians a position for every pair j.
//
// # Safety
// `out` is NULL or where a pointer may be written.
int32_t crope_frequencies_new(uint64_t rotary_dim, double base, struct crope_frequencies **out);

// Radians a position as they are given, one a pair.
//
// # Safety
// `inv_freq` is NULL or holds `pairs` numbers; `out` is NULL or where a pointer may be written.
int32_t crope_frequencies_from_inv_freq(const double *inv_freq,
                                        uint64_t pairs,
                                        struct crope_frequencies **out);

// The frequencies of the layers of a type (NULL: of all that rotate) by the text of a config.json, condensed by `ratio`
// (1: as it says), and what else the config says of them (`layer` may be NULL).
//
// # Safety
// `json` is a C string; `layer_type` is NULL or one; `layer` is NULL or a struct whose `size` is set; `out` is NULL or
// where a pointer may be written.
int32_t crope_frequencies_from_config(const char *json,
                                      const char *layer_type,
                                      double ratio,
                                      struct crope_layer *layer,
                                      struct crope_frequencies **out);

// Divides every position by `ratio`.
//
// # Safety
// `frequencies` is NULL or alive, and used by nobody else meanwhile.
int32_t crope_frequencies_condense(struct crope_frequencies *frequencies, double ratio);

// Frees them; NULL is nothing.
//
// # Safety
// `frequencies` is NULL or came from this library, and is not used again.
void crope_frequencies_free(struct crope_frequencies *frequencies);

// Number of 64-bit words of a rope of `sets` sets of frequencies.
//
// # Safety
// `out` is NULL or where a number may be written.
int32_t crope_words_len(uint64_t rotary_dim, uint64_t sets, uint64_t *out);

// Writes the words that kernels read, of one set of frequencies or of several of one rotary dimension: the engine owns
// them, uploads them once, and rewrites them by a copy.
//
// # Safety
// `frequencies` is NULL or holds `sets` pointers, each NULL or alive; `words` is NULL or has room for `len` words.
int32_t crope_words_write(const struct crope_frequencies *const *frequencies,
                          uint64_t sets,
                          uint64_t *words,
                          uint64_t len);

// The factor on cos and sin, for `crope_rope.factor`; 0 for NULL.
//
// # Safety
// `frequencies` is NULL or alive.
float crope_frequencies_factor(const struct crope_frequencies *frequencies);

// The CPU.
//
// # Safety
// `out` is NULL or where a pointer may be written.
int32_t crope_kernels_cpu(struct crope_kernels **out);

// The kernels of a CUDA device, in its primary context, which the CUDA runtime uses. The caller's current context stays
// current.
//
// # Safety
// `out` is NULL or where a pointer may be written.
int32_t crope_kernels_cuda(uint32_t ordinal,
                           struct crope_kernels **out);

// The kernels in the calling thread's current context, whoever made it.
//
// # Safety
// `out` is NULL or where a pointer may be written. Unless it is a device's primary context, the context is destroyed after
// the kernels have been freed.
int32_t crope_kernels_cuda_current(struct crope_kernels **out);

// Frees them; NULL is nothing. What they launched may still run.
//
// # Safety
// `kernels` is NULL or came from this library, and is not used again.
void crope_kernels_free(struct crope_kernels *kernels);

// Rotates q and k (either may be NULL) on a stream (a `CUstream` or `cudaStream_t`; NULL on the CPU) in one launch.
//
// # Safety
// Structs are alive and begin with their sizes. Every address holds, on the kernels' device, what the structs say, until
// the call, and on a GPU what it launches, has ended; what is written is nobody else's meanwhile.
int32_t crope_rotate(const struct crope_kernels *kernels,
                     void *stream,
                     const struct crope_rope *rope,
                     const struct crope_heads *q,
                     const struct crope_heads *k,
                     const struct crope_positions *positions);

// Every check of `crope_rotate`, and nothing else: no address is read or written but those of the structs and of
// `axis_of_pair`, and nothing is launched.
//
// # Safety
// Structs are alive and begin with their sizes.
int32_t crope_check(const struct crope_kernels *kernels,
                    const struct crope_rope *rope,
                    const struct crope_heads *q,
                    const struct crope_heads *k,
                    const struct crope_positions *positions);

// Writes cos and sin `[rows, rotary_dim]` of the positions from `start` on.
//
// # Safety
// As of [`crope_rotate`]; `cos` and `sin` have room for `rows * rotary_dim` elements each.
int32_t crope_cos_sin(const struct crope_kernels *kernels,
                      void *stream,
                      const struct crope_rope *rope,
                      uint32_t dtype,
                      int64_t start,
                      uint64_t rows,
                      void *cos,
                      void *sin);

// Normalises q and k, rotates them, and appends k and v to a cache, in one launch on a stream: as much of that as is given.
// `v` is read from its `source`; so is a `k` without `data`, which goes to the cache alone. `norm` and `cache` may be NULL,
// and so may q, k and v.
//
// # Safety
// As of `crope_rotate`, of weights, caches, slots and scales, too.
int32_t crope_rotate_append(const struct crope_kernels *kernels,
                            void *stream,
                            const struct crope_rope *rope,
                            const struct crope_heads *q,
                            const struct crope_heads *k,
                            const struct crope_heads *v,
                            const struct crope_norm *norm,
                            const struct crope_cache *cache,
                            const struct crope_positions *positions);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* CONDENSED_ROPE_H */
