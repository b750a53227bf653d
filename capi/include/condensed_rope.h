/* condensed-rope: rotary position embedding by condensed positions. Made by cbindgen; a test holds it to the source. */

#ifndef CONDENSED_ROPE_H
#define CONDENSED_ROPE_H

#include <stddef.h>
#include <stdint.h>

// An argument that C alone can get wrong: NULL, an unknown number, a struct of another size.
#define CROPE_BAD_ARGUMENT 2001

// A defect of the library: report it.
#define CROPE_PANIC 2002

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
  // 0.
  uint32_t reserved;
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
  // A `CROPE_CONSECUTIVE`, `CROPE_IDS`, `CROPE_STARTS` or `CROPE_RAGGED`.
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

// Number of 64-bit words of a rope of one set of frequencies.
//
// # Safety
// `out` is NULL or where a number may be written.
int32_t crope_words_len(uint64_t rotary_dim, uint64_t *out);

// Writes the words that kernels read: the engine owns them, uploads them once, and rewrites them by a copy.
//
// # Safety
// `frequencies` is NULL or alive; `words` is NULL or has room for `len` words.
int32_t crope_words_write(const struct crope_frequencies *frequencies,
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

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* CONDENSED_ROPE_H */
