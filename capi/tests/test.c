/* The C interface from C: values against the formula, statuses and messages. */

#include <condensed_rope.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failures = 0;

#define CHECK(condition)                                                                         \
    do {                                                                                         \
        if (!(condition)) {                                                                      \
            printf("line %d: %s (%s)\n", __LINE__, #condition, crope_last_error());              \
            ++failures;                                                                          \
        }                                                                                        \
    } while (0)

/* A status that is not 0, and a word of its message. */
#define REFUSED(call, word)                                                                      \
    do {                                                                                         \
        const int given = (call);                                                                \
        CHECK(given != 0 && given != CROPE_PANIC);                                               \
        CHECK(strstr(crope_last_error(), word) != NULL);                                         \
    } while (0)

enum { TOKENS = 5, HEADS = 3, DIM = 16 };

int main(void) {
    struct crope_kernels *kernels = NULL;
    struct crope_frequencies *frequencies = NULL;
    CHECK(strlen(crope_version()) >= 5 && crope_words_format() == 1);
    CHECK(crope_kernels_cpu(&kernels) == 0);
    CHECK(crope_frequencies_new(DIM, 10000.0, &frequencies) == 0);
    CHECK(crope_frequencies_condense(frequencies, 8.0) == 0);

    uint64_t count = 0;
    CHECK(crope_words_len(DIM, &count) == 0 && count > DIM / 2);
    uint64_t *words = calloc(count, sizeof *words);
    CHECK(crope_words_write(frequencies, words, count) == 0);

    float q[TOKENS][HEADS][DIM], given[TOKENS][HEADS][DIM], out[TOKENS][HEADS][DIM];
    for (int i = 0; i < TOKENS * HEADS * DIM; ++i) (&q[0][0][0])[i] = (float)(i % 37) / 37 - 0.5f;
    memcpy(given, q, sizeof q);
    struct crope_rope rope = {.size = sizeof rope, .words = words, .words_len = count, .rotary_dim = DIM,
                              .factor = crope_frequencies_factor(frequencies)};
    struct crope_heads heads = {.size = sizeof heads, .data = q, .shape = {1, TOKENS, HEADS, DIM},
                                .strides = {TOKENS * HEADS * DIM, HEADS * DIM, DIM}, .dtype = CROPE_F32};
    int64_t ids[TOKENS] = {0, 7, 16000, 3, 100000};
    struct crope_positions positions = {.size = sizeof positions, .kind = CROPE_IDS, .ids_dtype = CROPE_I64,
                                        .ids = ids, .ids_len = TOKENS, .ids_stride = TOKENS};
    CHECK(crope_rotate(kernels, NULL, &rope, &heads, NULL, &positions) == 0);
    for (int t = 0; t < TOKENS; ++t)
        for (int h = 0; h < HEADS; ++h)
            for (int j = 0; j < DIM / 2; ++j) {
                const double angle = ids[t] / 8.0 * pow(10000.0, -2.0 * j / DIM);
                const double x = given[t][h][j], y = given[t][h][j + DIM / 2];
                CHECK(fabs(q[t][h][j] - (x * cos(angle) - y * sin(angle))) < 3e-7);
                CHECK(fabs(q[t][h][j + DIM / 2] - (y * cos(angle) + x * sin(angle))) < 3e-7);
            }

    /* To another tensor, and back: what was given, within rounding. */
    rope.inverse = 1;
    struct crope_heads copy = heads;
    copy.data = out, copy.source = q;
    memcpy(copy.source_strides, heads.strides, sizeof heads.strides);
    CHECK(crope_rotate(kernels, NULL, &rope, NULL, &copy, &positions) == 0);
    for (int i = 0; i < TOKENS * HEADS * DIM; ++i)
        CHECK(fabsf((&out[0][0][0])[i] - (&given[0][0][0])[i]) < 3e-7f);
    rope.inverse = 0;

    float table[2][TOKENS][DIM];
    CHECK(crope_cos_sin(kernels, NULL, &rope, CROPE_F32, 10, TOKENS, table[0], table[1]) == 0);
    CHECK(fabs(table[0][4][0] - cos(14 / 8.0)) < 2e-7 && table[1][4][0] == table[1][4][DIM / 2]);

    /* A config: the same frequencies, and a second stretch refused. */
    const char *config = "{\"model_type\": \"llama\", \"hidden_size\": 64, \"num_attention_heads\": 4}";
    struct crope_frequencies *other = NULL;
    struct crope_layer layer = {.size = sizeof layer};
    CHECK(crope_frequencies_from_config(config, NULL, 8.0, &layer, &other) == 0);
    CHECK(layer.head_dim == DIM && layer.rotary_dim == DIM && layer.pairing == CROPE_PAIRING_HALF_SPLIT);
    uint64_t *same = calloc(count, sizeof *same);
    CHECK(crope_words_write(other, same, count) == 0 && memcmp(words, same, count * sizeof *same) == 0);
    crope_frequencies_free(other);
    const char *stretched = "{\"model_type\": \"llama\", \"hidden_size\": 64, \"num_attention_heads\": 4, "
                            "\"rope_scaling\": {\"type\": \"linear\", \"factor\": 2.0}}";
    REFUSED(crope_frequencies_from_config(stretched, NULL, 8.0, NULL, &other), "twice");

    /* Everything that C can get wrong. */
    REFUSED(crope_kernels_cpu(NULL), "out");
    REFUSED(crope_frequencies_new(7, 1e4, &other), "even");
    REFUSED(crope_frequencies_new(UINT64_MAX, 1e4, &other), "rotary_dim");
    REFUSED(crope_frequencies_new(8, -1.0, &other), "base");
    REFUSED(crope_frequencies_new(8, 1e4, NULL), "out");
    REFUSED(crope_frequencies_from_inv_freq(NULL, 4, &other), "inv_freq");
    REFUSED(crope_frequencies_from_inv_freq((double[]){1.0}, 513, &other), "pairs");
    REFUSED(crope_frequencies_condense(NULL, 2.0), "frequencies");
    REFUSED(crope_frequencies_condense(frequencies, 0.0), "ratio");
    REFUSED(crope_frequencies_from_config(NULL, NULL, 1.0, NULL, &other), "json");
    REFUSED(crope_frequencies_from_config("\xff", NULL, 1.0, NULL, &other), "UTF-8");
    REFUSED(crope_frequencies_from_config("{}", NULL, 1.0, NULL, &other), "model_type");
    layer.size = 3;
    REFUSED(crope_frequencies_from_config(config, NULL, 1.0, &layer, &other), "size");
    REFUSED(crope_words_write(frequencies, words, count - 1), "words");
    REFUSED(crope_words_write(frequencies, NULL, count), "words");
    REFUSED(crope_words_len(7, &count), "even");
#define WITH(object, change, word)                                                               \
    do {                                                                                         \
        struct crope_rope rope_ = rope;                                                          \
        struct crope_heads heads_ = heads;                                                       \
        struct crope_positions positions_ = positions;                                           \
        object##_.change;                                                                        \
        REFUSED(crope_rotate(kernels, NULL, &rope_, &heads_, NULL, &positions_), word);          \
    } while (0)
    WITH(rope, size = 8, "rope");
    WITH(rope, pairing = 2, "pairing");
    WITH(rope, inverse = 2, "inverse");
    WITH(rope, factor = NAN, "factor");
    WITH(rope, rotary_dim = 7, "even");
    WITH(rope, words_len = 3, "words");
    WITH(rope, words = NULL, "null");
    WITH(rope, words = (const uint64_t *)((const char *)words + 1), "multiple");
    WITH(heads, size = 0, "q");
    WITH(heads, dtype = 7, "dtype");
    WITH(heads, data = NULL, "null");
    WITH(heads, data = (char *)q + 1, "multiple");
    WITH(heads, shape[1] = -1, "zero or more");
    WITH(heads, shape[3] = 8, "head_dim");
    WITH(heads, strides[2] = 1, "share memory");
    WITH(heads, strides[2] = -16, "zero or more");
    WITH(heads, rotary_offset = 2, "head_dim");
    WITH(heads, rotary_offset = UINT64_MAX, "head_dim");
    WITH(positions, size = 1, "positions");
    WITH(positions, kind = 9, "kind");
    WITH(positions, ids_dtype = 9, "ids_dtype");
    WITH(positions, ids_len = 4, "expected 5");
    WITH(positions, ids_stride = -1, "ids_stride");
    WITH(positions, ids = NULL, "null");
    REFUSED(crope_rotate(NULL, NULL, &rope, &heads, NULL, &positions), "kernels");
    REFUSED(crope_rotate(kernels, NULL, NULL, &heads, NULL, &positions), "rope");
    REFUSED(crope_rotate(kernels, NULL, &rope, &heads, NULL, NULL), "positions");
    REFUSED(crope_rotate(kernels, NULL, &rope, NULL, NULL, &positions), "neither");
    REFUSED(crope_cos_sin(kernels, NULL, &rope, 9, 0, 1, table[0], table[1]), "dtype");
    REFUSED(crope_cos_sin(kernels, NULL, &rope, CROPE_F32, 0, UINT64_MAX, table[0], table[1]), "rows");

    free(words), free(same);
    crope_frequencies_free(frequencies), crope_frequencies_free(NULL);
    crope_kernels_free(kernels), crope_kernels_free(NULL);
    printf("%d failures\n", failures);
    return failures != 0;
}
