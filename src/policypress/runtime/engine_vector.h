/*
 * Vector kernels, included by engine_native.c once for each instruction set. The includer defines
 *   NAME(x)              the name of x for this set
 *   TARGET               the attribute that lets a function use it
 *   LANES                32-bit lanes of a vector; INTS and FLOATS, the vectors
 *   ROWS, GROUPS, SPLIT  positions, and groups of outputs, whose sums are held in registers together; and in how many
 *                        parts those of a single position are
 *   REAL_ROWS, REAL_GROUPS  the same for float layers, whose sums cannot be split
 *   and the operations used below.
 *
 * Outputs lie in lanes. An integer layer multiplies four bytes of input at a time, the same four in every lane, with
 * four weights of each output; a float layer one input at a time, in the order that docs/arithmetic.md demands.
 * A single position is written in ascending order and may write up to a vector past its end, into memory of what comes
 * after it or the slack after its tensor (runtime/native.py).
 */

/* LANES codes become bytes, of which `count` belong to this position. */
INLINE TARGET void NAME(store_bytes)(unsigned char *target, INTS codes, uint32_t count, int alone) {
    unsigned char bytes[LANES];
    if (alone || count >= LANES) {
        STORE_BYTES(target, codes);
        return;
    }
    STORE_BYTES(bytes, codes);
    for (uint32_t i = 0; i < count; i++)
        target[i] = bytes[i];
}

/* What engine.c does with the sums of LANES outputs from o on, for element i of the target. */
INLINE TARGET void NAME(finish)(const engine_step *s, const prepared *p, unsigned char *target, size_t i, uint32_t o,
                                INTS sums, int alone) {
    const uint32_t count = s->out_channels - o;
    if (p->narrow) {
        const INTS most = SET(1 << 23);
        INTS codes = MIN(MAX(sums, SUB(SET(0), most)), most);
        codes = SHIFT_EACH(ADD(MULTIPLY(codes, LOAD(p->multiplier + o)), LOAD(p->half + o)), LOAD(p->shift + o));
        codes = MIN(MAX(codes, SET(s->low)), SET(s->high));
        if (s->finish == ENGINE_TABLE)
            codes = GATHER(p->table + 255, codes);
        NAME(store_bytes)(target + i, ADD(codes, SET(s->target_zero)), count, alone);
    } else if (s->finish == ENGINE_KEEP && (alone || count >= LANES)) {
        STORE((int32_t *)(void *)target + i, s->relu ? MAX(sums, SET(0)) : sums);
    } else {
        int32_t each[LANES];
        STORE(each, sums);
        for (uint32_t n = 0; n < LANES && n < count; n++)
            engine_finish(s, target, i + n, o + n, (uint32_t)each[n]);
    }
}

/*
 * `rows` positions by the block of `groups` groups of outputs from group g on, with each sum in `split` parts: a single
 * position has too few sums to keep the multipliers busy otherwise.
 */
INLINE TARGET void NAME(dense_tile)(const engine_step *s, const prepared *p, const unsigned char *const *x,
                                    unsigned char *target, const size_t *at, uint32_t g, const unsigned rows,
                                    const unsigned groups, const unsigned split) {
    const int8_t *weight = (const int8_t *)p->weight + (size_t)g * p->inputs * LANES * 4;
    const uint32_t *place = p->places;
    int32_t kept[ROWS * GROUPS][LANES];
    INTS sums[ROWS * SPLIT][GROUPS];
    uint32_t q = p->inputs;
    UNROLL
    for (unsigned r = 0; r < rows * split; r++)
        UNROLL
        for (unsigned n = 0; n < groups; n++)
            sums[r][n] = r < rows ? LOAD((const int32_t *)p->bias + (g + n) * LANES) : SET(0);
    for (; q >= split; q -= split, weight += split * groups * LANES * 4, place += split) {
        UNROLL
        for (unsigned part = 0; part < split; part++) {
            INTS w[GROUPS];
            UNROLL
            for (unsigned n = 0; n < groups; n++)
                w[n] = LOAD(weight + (part * groups + n) * LANES * 4);
            UNROLL
            for (unsigned r = 0; r < rows; r++) {
                int32_t four;
                memcpy(&four, x[r] + place[part], 4);
                const INTS bytes = SET(four);
                UNROLL
                for (unsigned n = 0; n < groups; n++)
                    sums[part * rows + r][n] = DOT(sums[part * rows + r][n], bytes, w[n]);
            }
        }
    }
    for (; q; q--, weight += groups * LANES * 4, place++)
        UNROLL
        for (unsigned r = 0; r < rows; r++) {
            int32_t four;
            memcpy(&four, x[r] + *place, 4);
            UNROLL
            for (unsigned n = 0; n < groups; n++)
                sums[r][n] = DOT(sums[r][n], SET(four), LOAD(weight + n * LANES * 4));
        }
    /* By way of memory: the compiler spills the sums in the loops above otherwise. */
    UNROLL
    for (unsigned r = 0; r < rows; r++)
        UNROLL
        for (unsigned n = 0; n < groups; n++) {
            INTS sum = sums[r][n];
            UNROLL
            for (unsigned part = 1; part < split; part++)
                sum = ADD(sum, sums[part * rows + r][n]);
            STORE(kept[r * groups + n], sum);
        }
    for (unsigned r = 0; r < rows; r++)
        for (uint32_t n = 0; n < groups; n++)
            NAME(finish)(s, p, target, at[r] + (g + n) * LANES, (g + n) * LANES, LOAD(kept[r * groups + n]), rows == 1);
}

static TARGET void NAME(dense_positions)(const engine_step *s, const unsigned char *const *x, unsigned char *target,
                                         const size_t *at, unsigned count) {
    const prepared *p = s->prepared;
    const unsigned together = count == ROWS ? ROWS : 1;
    for (unsigned r = 0; r < count; r += together)
        for (uint32_t g = 0, width; g < p->groups; g += width) {
            width = block_width(p->groups - g, GROUPS);
            if (together == ROWS) {
                if (width == GROUPS)
                    NAME(dense_tile)(s, p, x, target, at, g, ROWS, GROUPS, 1);
                else if (width == 2)
                    NAME(dense_tile)(s, p, x, target, at, g, ROWS, 2, 1);
                else
                    NAME(dense_tile)(s, p, x, target, at, g, ROWS, 1, 1);
            } else {
                if (width == GROUPS)
                    NAME(dense_tile)(s, p, x + r, target, at + r, g, 1, GROUPS, SPLIT);
                else if (width == 2)
                    NAME(dense_tile)(s, p, x + r, target, at + r, g, 1, 2, SPLIT);
                else
                    NAME(dense_tile)(s, p, x + r, target, at + r, g, 1, 1, SPLIT);
            }
        }
}

/* An integer layer with bytes as input. */
static TARGET void NAME(dense)(const engine_step *s, unsigned char *work, size_t rows) {
    positions all = all_positions(s, work, rows);
    const unsigned char *x[ROWS];
    size_t at[ROWS];
    for (unsigned count; (count = next_positions(&all, x, at, ROWS)) > 0;)
        NAME(dense_positions)(s, x, all.target, at, count);
}

/* ---- float ---- */

INLINE TARGET void NAME(real_tile)(const engine_step *s, const prepared *p, const float *const *x, float *target,
                                   const size_t *at, uint32_t g, const unsigned rows, const unsigned groups) {
    const float *weight = (const float *)p->weight + (size_t)g * p->inputs * LANES;
    const size_t block = (size_t)p->inputs * REAL_GROUPS * LANES;
    float kept[REAL_ROWS * REAL_GROUPS][LANES];
    FLOATS sums[REAL_ROWS][2 * REAL_GROUPS];
    UNROLL
    for (unsigned r = 0; r < rows; r++)
        UNROLL
        for (unsigned n = 0; n < groups; n++)
            sums[r][n] = SET_REAL(0.0f);
    for (uint32_t k = 0; k < p->inputs; k++, weight += (groups < REAL_GROUPS ? groups : REAL_GROUPS) * LANES) {
        FLOATS value[REAL_ROWS];
        UNROLL
        for (unsigned r = 0; r < rows; r++)
            value[r] = SET_REAL(x[r][p->places[k]]);
        UNROLL
        for (unsigned n = 0; n < groups; n++) {
            const FLOATS w = LOAD_REAL(weight + n / REAL_GROUPS * block + n % REAL_GROUPS * LANES);
            UNROLL
            for (unsigned r = 0; r < rows; r++)
                sums[r][n] = ADD_REAL(sums[r][n], MULTIPLY_REAL(w, value[r]));
        }
    }
    UNROLL
    for (unsigned r = 0; r < rows; r++)
        UNROLL
        for (unsigned n = 0; n < groups; n++)
            STORE_REAL(kept[r * groups + n], sums[r][n]);
    for (unsigned r = 0; r < rows; r++)
        for (uint32_t n = 0; n < groups; n++) {
            const uint32_t o = (g + n) * LANES, count = s->out_channels - o;
            const FLOATS y = ADD_REAL(MULTIPLY_REAL(LOAD_REAL(kept[r * groups + n]), LOAD_REAL(p->scale + o)),
                                      LOAD_REAL((const float *)p->bias + o));
            float each[LANES];
            if (count >= LANES && p->plane == 1) {
                STORE_REAL(target + at[r] + o, s->relu ? POSITIVE(y) : y);
                continue;
            }
            STORE_REAL(each, s->relu ? POSITIVE(y) : y);
            for (uint32_t i = 0; i < LANES && i < count; i++)
                target[at[r] + (o + i) * p->plane] = each[i];
        }
}

static TARGET void NAME(real_positions)(const engine_step *s, const float *const *x, float *target, const size_t *at,
                                        unsigned count) {
    const prepared *p = s->prepared;
    const unsigned together = count == REAL_ROWS ? REAL_ROWS : 1;
    for (unsigned r = 0; r < count; r += together)
        for (uint32_t g = 0, width; g < p->groups; g += width) {
            width = block_width(p->groups - g, REAL_GROUPS);
            if (together == REAL_ROWS) {
                if (width == REAL_GROUPS)
                    NAME(real_tile)(s, p, x, target, at, g, REAL_ROWS, REAL_GROUPS);
                else if (width == 2)
                    NAME(real_tile)(s, p, x, target, at, g, REAL_ROWS, 2);
                else
                    NAME(real_tile)(s, p, x, target, at, g, REAL_ROWS, 1);
            } else if (p->groups - g >= 2 * REAL_GROUPS) {
                /* Two blocks: one has too few sums to keep the adders busy. */
                NAME(real_tile)(s, p, x + r, target, at + r, g, 1, 2 * REAL_GROUPS);
                width = 2 * REAL_GROUPS;
            } else if (width == REAL_GROUPS)
                NAME(real_tile)(s, p, x + r, target, at + r, g, 1, REAL_GROUPS);
            else if (width == 2)
                NAME(real_tile)(s, p, x + r, target, at + r, g, 1, 2);
            else
                NAME(real_tile)(s, p, x + r, target, at + r, g, 1, 1);
        }
}

/* A float layer; zero weights are multiplied too, which changes nothing unless a value is not finite. */
static TARGET void NAME(real_dense)(const engine_step *s, unsigned char *work, size_t rows) {
    positions all = all_positions(s, work, rows);
    const unsigned char *bytes[REAL_ROWS];
    const float *x[REAL_ROWS];
    size_t at[REAL_ROWS];
    for (unsigned count; (count = next_positions(&all, bytes, at, REAL_ROWS)) > 0;) {
        for (unsigned r = 0; r < count; r++)
            x[r] = (const float *)(const void *)bytes[r];
        NAME(real_positions)(s, x, (float *)(void *)all.target, at, count);
    }
}

/*
 * A linear float layer without its zero weights, for many rows: rows lie in lanes, and every weight is multiplied with
 * as many of them as two vectors hold.
 */
static TARGET void NAME(real_sparse)(const engine_step *s, unsigned char *work, size_t rows) {
    enum { BLOCK = 2 * LANES };
    const prepared *p = s->prepared;
    const float *source = (const void *)(work + s->source * rows), *bias = s->bias;
    float *target = (void *)(work + s->target * rows);
    const size_t inputs = s->channels, outputs = s->out_channels;
    for (size_t first = 0; first < rows; first += BLOCK) {
        const size_t n = rows - first < BLOCK ? rows - first : BLOCK;
        const uint16_t *column = p->columns;
        const float *value = p->values;
        float columns[MOST_COLUMNS * BLOCK];
        for (size_t r = 0; r < n; r++)
            for (size_t k = 0; k < inputs; k++)
                columns[k * BLOCK + r] = source[(first + r) * inputs + k];
        for (size_t r = n; r < BLOCK; r++)
            for (size_t k = 0; k < inputs; k++)
                columns[k * BLOCK + r] = 0.0f;
        for (size_t o = 0; o < outputs; o++) {
            FLOATS a = SET_REAL(0.0f), b = a;
            float each[BLOCK];
            for (uint32_t m = p->counts[o]; m; m--, column++, value++) {
                const FLOATS w = SET_REAL(*value);
                const float *from = columns + (size_t)*column * BLOCK;
                a = ADD_REAL(a, MULTIPLY_REAL(w, LOAD_REAL(from)));
                b = ADD_REAL(b, MULTIPLY_REAL(w, LOAD_REAL(from + LANES)));
            }
            const FLOATS scale = SET_REAL(s->scale[s->per_output ? o : 0]), add = SET_REAL(bias[o]);
            a = ADD_REAL(MULTIPLY_REAL(a, scale), add);
            b = ADD_REAL(MULTIPLY_REAL(b, scale), add);
            STORE_REAL(each, s->relu ? POSITIVE(a) : a);
            STORE_REAL(each + LANES, s->relu ? POSITIVE(b) : b);
            for (size_t r = 0; r < n; r++)
                target[(first + r) * outputs + o] = each[r];
        }
    }
}

static TARGET void NAME(real)(const engine_step *s, unsigned char *work, size_t rows) {
    const prepared *p = s->prepared;
    const size_t size = (size_t)s->height * s->width * s->channels;
    if (!all_finite((const float *)(const void *)(work + s->source * rows), size * rows))
        engine_step_run(s, work, rows);
    else if (p->batch_sparse && rows >= LANES)
        NAME(real_sparse)(s, work, rows);
    else if (p->single_sparse && rows < REAL_ROWS)
        engine_step_run(s, work, rows);
    else
        NAME(real_dense)(s, work, rows);
}

/* A residual sum of bytes with bytes or sums, to bytes. */
static TARGET void NAME(add)(const engine_step *s, unsigned char *work, size_t rows) {
    const prepared *p = s->prepared;
    const size_t n = (size_t)s->height * s->width * s->channels * rows;
    const unsigned char *source = work + s->source * rows, *second = work + s->second * rows;
    unsigned char *target = work + s->target * rows;
    const INTS low = SET(s->low), high = SET(s->high), most = SET(1 << 23), least = SUB(SET(0), most);
    const INTS m = LOAD(p->multiplier), h = LOAD(p->half), shift = LOAD(p->shift);
    const INTS zero = SET(s->source_zero), second_zero = SET(s->second_zero), target_zero = SET(s->target_zero);
    size_t c = 0;
    for (size_t i = 0; i < n; i += LANES) {
        INTS a = SUB(LOAD_BYTES(source + i), zero);
        INTS b = s->second_type == ENGINE_S32 ? LOAD((const int32_t *)(const void *)second + i)
                                              : SUB(LOAD_BYTES(second + i), second_zero);
        b = MIN(MAX(b, least), most);
        a = SHIFT_EACH(ADD(MULTIPLY(a, m), h), shift);
        b = SHIFT_EACH(ADD(MULTIPLY(b, LOAD(p->multiplier + LANES + c)), LOAD(p->half + LANES + c)),
                       LOAD(p->shift + LANES + c));
        a = MIN(MAX(ADD(a, b), low), high);
        NAME(store_bytes)(target + i, ADD(a, target_zero), n - i < LANES ? (uint32_t)(n - i) : LANES, 0);
        c += LANES;
        if (c >= p->inputs)
            c -= p->inputs;
    }
}
