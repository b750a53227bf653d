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

    const struct crope_frequencies *only = frequencies;
    uint64_t count = 0;
    CHECK(crope_words_len(DIM, 1, &count) == 0 && count > DIM / 2);
    uint64_t *words = calloc(count, sizeof *words);
    CHECK(crope_words_write(&only, 1, words, count) == 0);

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

    CHECK(crope_cos_sin(kernels, NULL, &rope, CROPE_F32, 10, 0, NULL, NULL) == 0);
    heads.shape[1] = 0, heads.data = NULL, positions.ids = NULL, positions.ids_len = 0;
    CHECK(crope_rotate(kernels, NULL, &rope, &heads, NULL, &positions) == 0);
    heads.shape[1] = TOKENS, heads.data = q, positions.ids = ids, positions.ids_len = TOKENS;

    /* Norm, rotation and append: q in place, k and v to slots 9, none and 2 of pages of 4. */
    {
        enum { N = 3, PAGES = 3, PAGE = 4 };
        float rows[N][HEADS + 2][DIM], weights[DIM], cache[2][PAGES * PAGE][1][DIM];
        for (int i = 0; i < N * (HEADS + 2) * DIM; ++i) (&rows[0][0][0])[i] = (float)(i % 41) / 41 - 0.4f;
        for (int i = 0; i < DIM; ++i) weights[i] = 0.5f + (float)i / DIM;
        memset(cache, 0, sizeof cache);
        float before[N][HEADS + 2][DIM];
        memcpy(before, rows, sizeof rows);
        const int64_t row = (HEADS + 2) * DIM;
        struct crope_heads queries = {.size = sizeof queries, .data = rows, .shape = {1, N, HEADS, DIM},
                                      .strides = {N * row, row, DIM}, .dtype = CROPE_F32};
        struct crope_heads keys = {.size = sizeof keys, .source = rows[0][HEADS], .shape = {1, N, 1, DIM},
                                   .source_strides = {N * row, row, DIM}, .dtype = CROPE_F32};
        struct crope_heads values = keys;
        values.source = rows[0][HEADS + 1];
        struct crope_norm norm = {.size = sizeof norm, .q_weights = weights, .k_weights = weights, .eps = 1e-6f};
        int64_t slots[N] = {9, -1, 2};
        struct crope_cache kv = {.size = sizeof kv, .keys = cache[0], .values = cache[1],
                                 .key_shape = {PAGES, PAGE, 1, DIM}, .value_shape = {PAGES, PAGE, 1, DIM},
                                 .key_strides = {PAGE * DIM, DIM, DIM}, .value_strides = {PAGE * DIM, DIM, DIM},
                                 .dtype = CROPE_F32, .slots_dtype = CROPE_I64, .slots = slots, .slots_len = N};
        struct crope_positions at = {.size = sizeof at, .kind = CROPE_CONSECUTIVE, .start = 5};
        CHECK(crope_rotate_append(kernels, NULL, &rope, &queries, &keys, &values, &norm, &kv, &at) == 0);
        for (int t = 0; t < N; ++t)
            for (int h = 0; h <= HEADS; ++h) {
                double mean = 0;
                for (int c = 0; c < DIM; ++c) mean += before[t][h][c] * (double)before[t][h][c] / DIM;
                const float *got = h < HEADS ? rows[t][h] : slots[t] < 0 ? NULL : cache[0][slots[t]][0];
                for (int j = 0; got && j < DIM / 2; ++j) {
                    const double angle = (5 + t) / 8.0 * pow(10000.0, -2.0 * j / DIM), by = 1 / sqrt(mean + 1e-6);
                    const double x = before[t][h][j] * by * weights[j];
                    const double y = before[t][h][j + DIM / 2] * by * weights[j + DIM / 2];
                    CHECK(fabs(got[j] - (x * cos(angle) - y * sin(angle))) < 3e-6);
                    CHECK(fabs(got[j + DIM / 2] - (y * cos(angle) + x * sin(angle))) < 3e-6);
                }
            }
        CHECK(memcmp(cache[1][9], before[0][HEADS + 1], sizeof cache[1][9]) == 0);
        for (int slot = 0; slot < PAGES * PAGE; ++slot)
            CHECK(slot == 9 || slot == 2 || (cache[0][slot][0][0] == 0 && cache[1][slot][0][0] == 0));
        /* By a page table: token 5 + t is entry (5 + t) % 4 of page (5 + t) / 4 of its row. */
        int32_t table[] = {0, 2};
        kv.slots = table, kv.slots_dtype = CROPE_I32, kv.slots_len = 2, kv.table_width = 2, kv.table_stride = 2;
        CHECK(crope_rotate_append(kernels, NULL, &rope, NULL, &keys, &values, NULL, &kv, &at) == 0);
        CHECK(memcmp(cache[1][2 * 4 + 1], before[0][HEADS + 1], sizeof cache[1][9]) == 0);
        kv.key_shape[1] = 2;
        REFUSED(crope_rotate_append(kernels, NULL, &rope, NULL, &keys, &values, NULL, &kv, &at), "page_size");
        kv.key_shape[1] = PAGE, norm.eps = 0;
        REFUSED(crope_rotate_append(kernels, NULL, &rope, NULL, &keys, &values, &norm, &kv, &at), "epsilon");
        REFUSED(crope_rotate_append(kernels, NULL, &rope, NULL, &keys, &values, NULL, NULL, &at), "cache");
        REFUSED(crope_rotate_append(kernels, NULL, &rope, NULL, NULL, NULL, NULL, NULL, &at), "q, k");
    }

    /* A config: the same frequencies, and a second stretch refused. */
    const char *config = "{\"model_type\": \"llama\", \"hidden_size\": 64, \"num_attention_heads\": 4}";
    struct crope_frequencies *other = NULL;
    struct crope_layer layer = {.size = sizeof layer};
    CHECK(crope_frequencies_from_config(config, NULL, 8.0, &layer, &other) == 0);
    CHECK(layer.head_dim == DIM && layer.rotary_dim == DIM && layer.pairing == CROPE_PAIRING_HALF_SPLIT);
    uint64_t *same = calloc(count, sizeof *same);
    only = other;
    CHECK(crope_words_write(&only, 1, same, count) == 0 && memcmp(words, same, count * sizeof *same) == 0);
    crope_frequencies_free(other);
    const char *stretched = "{\"model_type\": \"llama\", \"hidden_size\": 64, \"num_attention_heads\": 4, "
                            "\"rope_scaling\": {\"type\": \"linear\", \"factor\": 2.0}}";
    REFUSED(crope_frequencies_from_config(stretched, NULL, 8.0, NULL, &other), "twice");

    /* Structs of other versions: shorter than the first, longer with something or nothing in what is more. */
    struct { struct crope_positions known; uint64_t more; } longer = {.known = positions};
    longer.known.size = sizeof longer;
    CHECK(crope_check(kernels, &rope, &heads, NULL, &longer.known) == 0);
    longer.more = 1;
    REFUSED(crope_check(kernels, &rope, &heads, NULL, &longer.known), "version");
    longer.known.size = UINT64_MAX;
    REFUSED(crope_check(kernels, &rope, &heads, NULL, &longer.known), "size");

    /* Checks alone touch nothing. */
    struct crope_heads nowhere = heads;
    nowhere.data = (void *)(uintptr_t)4096;
    CHECK(crope_check(kernels, &rope, &nowhere, NULL, &positions) == 0);

    /* Two sets of frequencies: each sequence by its own; and three axes, each pair by its own. */
    {
        struct crope_frequencies *plain = NULL;
        CHECK(crope_frequencies_new(DIM, 10000.0, &plain) == 0);
        const struct crope_frequencies *both[] = {frequencies, plain};
        uint64_t more = 0;
        CHECK(crope_words_len(DIM, 2, &more) == 0 && more > count);
        uint64_t *two = calloc(more, sizeof *two);
        CHECK(crope_words_write(both, 2, two, more) == 0);
        struct crope_rope mixed = rope;
        mixed.words = two, mixed.words_len = more, mixed.sets = 2;
        struct crope_heads one = heads;
        one.source = given, one.data = out;
        memcpy(one.source_strides, heads.strides, sizeof heads.strides);
        int32_t cu_seqlens[] = {0, 2, TOKENS}, sets[] = {1, 0};
        struct crope_positions ragged = {.size = sizeof ragged, .kind = CROPE_RAGGED, .cu_seqlens = cu_seqlens,
                                         .cu_seqlens_len = 3, .sets = sets, .sets_len = 2};
        CHECK(crope_rotate(kernels, NULL, &mixed, &one, NULL, &ragged) == 0);
        for (int t = 0; t < TOKENS; ++t) {
            const double angle = t < 2 ? t : (t - 2) / 8.0, x = given[t][1][0], y = given[t][1][DIM / 2];
            CHECK(fabs(out[t][1][0] - (x * cos(angle) - y * sin(angle))) < 3e-7);
        }
        const uint8_t axis_of_pair[DIM / 2] = {0, 1, 2, 0, 1, 2, 0, 0};
        int64_t three[3][TOKENS] = {{1, 2, 3, 4, 5}, {60, 7, 80, 9, 1000}, {4, 4, 9, 9, 1}};
        struct crope_positions axes = {.size = sizeof axes, .kind = CROPE_AXES, .ids_dtype = CROPE_I64, .ids = three,
                                       .ids_len = 3 * TOKENS, .ids_stride = TOKENS, .axes = 3, .axis_stride = TOKENS,
                                       .axis_of_pair = axis_of_pair, .pairs = DIM / 2};
        CHECK(crope_rotate(kernels, NULL, &rope, &one, NULL, &axes) == 0);
        for (int t = 0; t < TOKENS; ++t)
            for (int j = 0; j < DIM / 2; ++j) {
                const double angle = three[axis_of_pair[j]][t] / 8.0 * pow(10000.0, -2.0 * j / DIM);
                const double x = given[t][2][j], y = given[t][2][j + DIM / 2];
                CHECK(fabs(out[t][2][j + DIM / 2] - (y * cos(angle) + x * sin(angle))) < 3e-7);
            }
#define WITHOUT(change, word)                                                                    \
    do {                                                                                         \
        struct crope_positions changed = axes;                                                   \
        changed.change;                                                                          \
        REFUSED(crope_check(kernels, &rope, &one, NULL, &changed), word);                        \
    } while (0)
        WITHOUT(axes = 0, "axes");
        WITHOUT(axes = 2, "axis of pair 2");
        WITHOUT(pairs = 3, "8");
        WITHOUT(pairs = 513, "512");
        WITHOUT(axis_of_pair = NULL, "axis_of_pair");
        WITHOUT(axis_stride = -1, "axis_stride");
        WITHOUT(ids_len = 14, "15");
        ragged.sets_dtype = 9;
        REFUSED(crope_check(kernels, &mixed, &one, NULL, &ragged), "sets_dtype");
        ragged.sets_dtype = CROPE_I32, ragged.sets_len = 3;
        REFUSED(crope_check(kernels, &mixed, &one, NULL, &ragged), "sets");
        free(two);
        crope_frequencies_free(plain);
        const char *vl = "{\"model_type\": \"qwen2_vl_text\", \"hidden_size\": 1536, \"num_attention_heads\": 12, "
                         "\"rope_scaling\": {\"type\": \"mrope\", \"mrope_section\": [16, 24, 24]}}";
        CHECK(crope_frequencies_from_config(vl, NULL, 1.0, &layer, &plain) == 0);
        CHECK(layer.axes == 3 && layer.axis_of_pair[15] == 0 && layer.axis_of_pair[16] == 1 && layer.axis_of_pair[63] == 2);
        crope_frequencies_free(plain);
    }

    /* Everything that C can get wrong. */
    struct crope_kernels *unmade = NULL;
    REFUSED(crope_kernels_cuda(99, &unmade), "");
    REFUSED(crope_kernels_cuda_current(&unmade), "");
    CHECK(unmade == NULL);
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
    only = frequencies;
    REFUSED(crope_words_write(&only, 1, words, count - 1), "words");
    REFUSED(crope_words_write(&only, 1, NULL, count), "words");
    REFUSED(crope_words_write(&only, 0, words, count), "sets");
    REFUSED(crope_words_write(&only, UINT64_MAX, words, count), "sets");
    REFUSED(crope_words_write(NULL, 1, words, count), "frequencies");
    only = NULL;
    REFUSED(crope_words_write(&only, 1, words, count), "frequencies");
    uint64_t none = 0;
    REFUSED(crope_words_len(7, 1, &none), "even");
    REFUSED(crope_words_len(8, 0, &none), "at least one set");
    REFUSED(crope_words_len(8, 1, NULL), "out");
#define WITH(object, change, word)                                                               \
    do {                                                                                         \
        struct crope_rope rope_ = rope;                                                          \
        struct crope_heads heads_ = heads;                                                       \
        struct crope_positions positions_ = positions;                                           \
        object##_.change;                                                                        \
        REFUSED(crope_rotate(kernels, NULL, &rope_, &heads_, NULL, &positions_), word);          \
        REFUSED(crope_check(kernels, &rope_, &heads_, NULL, &positions_), word);                 \
    } while (0)
    WITH(rope, size = 8, "rope");
    WITH(rope, pairing = 2, "pairing");
    WITH(rope, inverse = 2, "inverse");
    WITH(rope, pdl = 3, "pdl");
    WITH(rope, sets = 2, "words");
    WITH(rope, sets = UINT64_MAX, "sets");
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
    WITH(positions, sets = ids, "sets");
    WITH(positions, kind = CROPE_AXES, "axis_of_pair");
    WITH(positions, kind = CROPE_STARTS, "starts");
    WITH(positions, kind = CROPE_RAGGED, "cu_seqlens");
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
