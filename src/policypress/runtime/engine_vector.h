/*
 * Vector kernels, included once for each instruction set (engine_avx2.c, engine_avx512.c). The includer defines
 *   NAME(x)              the name of x for this set
 *   TARGET               the attribute that lets a function use it
 *   LANES                32-bit lanes of a vector; INTS and FLOATS, the vectors
 *   ROWS, GROUPS         positions, and groups of outputs, whose sums are held in registers together
 *   SUMS                 sums that keep the multipliers busy: those of a single position are split into as many
 *   REAL_ROWS, REAL_GROUPS, REAL_BLOCKS  the same for float layers, whose sums cannot be split: a single position does
 *                        several blocks together
 *   and the operations used below.
 *
 * Outputs lie in lanes. An integer layer multiplies four bytes of input at a time, the same four in every lane, with
 * four weights of each output; a float layer one input at a time, in the order that docs/arithmetic.md demands.
 * Where outputs are written in ascending order (`alone`), a vector of them may go past the end, into memory of what is
 * written later or the slack after the tensor (runtime/native.py).
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
        if (s->finish != ENGINE_REQUANTIZE)
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
                                    unsigned char *target, const size_t *at, uint32_t g, int alone,
                                    const unsigned rows, const unsigned groups, const unsigned split) {
    const int8_t *weight = (const int8_t *)p->weight + (size_t)g * p->inputs * LANES * 4;
    const uint32_t *place = p->places;
    int32_t kept[ROWS * GROUPS][LANES];
    INTS sums[ROWS > SUMS ? ROWS : SUMS][GROUPS];
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
            NAME(finish)(s, p, target, at[r] + (g + n) * LANES, (g + n) * LANES, LOAD(kept[r * groups + n]), alone);
}

/* An integer layer with bytes as input; block by block, so that the weights of one stay near. */
static TARGET void NAME(dense)(const engine_step *s, unsigned char *work, size_t rows) {
    const prepared *p = s->prepared;
    const int alone = rows * s->out_height * s->out_width == 1;
    for (uint32_t g = 0, width; g < p->groups; g += width) {
        positions all = all_positions(s, work, rows);
        const unsigned char *x[ROWS];
        size_t at[ROWS];
        width = block_width(p->groups - g, GROUPS);
        for (unsigned count; (count = next_positions(&all, x, at, ROWS)) > 0;)
            if (count == ROWS) {
                if (width == GROUPS)
                    NAME(dense_tile)(s, p, x, all.target, at, g, 0, ROWS, GROUPS, 1);
                else if (width == 2)
                    NAME(dense_tile)(s, p, x, all.target, at, g, 0, ROWS, 2, 1);
                else
                    NAME(dense_tile)(s, p, x, all.target, at, g, 0, ROWS, 1, 1);
            } else
                for (unsigned r = 0; r < count; r++)
                    if (width == GROUPS)
                        NAME(dense_tile)(s, p, x + r, all.target, at + r, g, alone, 1, GROUPS, SUMS / GROUPS);
                    else if (width == 2)
                        NAME(dense_tile)(s, p, x + r, all.target, at + r, g, alone, 1, 2, SUMS / 2);
                    else
                        NAME(dense_tile)(s, p, x + r, all.target, at + r, g, alone, 1, 1, SUMS);
    }
}

#ifdef PICK
/*
 * Sparse integer layers. A step multiplies four inputs of each of LANES outputs, other ones for every output: bytes that
 * a permutation picks out of 16, by LANES * 4 indices, with as many weights.
 */
INLINE TARGET void NAME(sparse_tile)(const engine_step *s, const prepared *p, const unsigned char *const *x,
                                     unsigned char *target, const size_t *at, int alone, const unsigned rows) {
    const uint8_t *step = p->sparse;
    const uint16_t *steps = p->steps;
    for (uint32_t g = 0; g < p->groups; g++) {
        INTS sums[ROWS], other = SET(0);
        UNROLL
        for (unsigned r = 0; r < rows; r++)
            sums[r] = LOAD((const int32_t *)p->bias + g * LANES);
        for (uint32_t c = 0; c < p->chunks; c++, steps++) {
            INTS window[ROWS];
            UNROLL
            for (unsigned r = 0; r < rows; r++)
                window[r] = WINDOW(x[r] + 16 * c);
            for (uint32_t n = *steps; n; n--, step += LANES * 8) {
                const INTS index = LOAD(step), weights = LOAD(step + LANES * 4);
                if (rows == 1 && n % 2)
                    other = DOT(other, PICK(window[0], index), weights);
                else
                    UNROLL
                    for (unsigned r = 0; r < rows; r++)
                        sums[r] = DOT(sums[r], PICK(window[r], index), weights);
            }
        }
        UNROLL
        for (unsigned r = 0; r < rows; r++)
            NAME(finish)(s, p, target, at[r] + g * LANES, g * LANES, rows == 1 ? ADD(sums[r], other) : sums[r], alone);
    }
}

static TARGET void NAME(sparse)(const engine_step *s, unsigned char *work, size_t rows) {
    const prepared *p = s->prepared;
    const size_t run = (size_t)s->kernel_width * s->channels, line = (size_t)s->width * s->channels;
    unsigned char copy[ROWS][MOST_INPUTS + SLACK_INPUTS];
    positions all = all_positions(s, work, rows);
    const unsigned char *x[ROWS];
    size_t at[ROWS];
    if (rows * s->out_height * s->out_width >= MANY ? !p->batch_sparse : !p->single_sparse) {
        NAME(dense)(s, work, rows);
        return;
    }
    for (unsigned count; (count = next_positions(&all, x, at, ROWS)) > 0;) {
        for (unsigned r = 0; s->kernel_height > 1 && r < count; r++) {
            for (size_t i = 0; i < s->kernel_height; i++)
                memcpy(copy[r] + i * run, x[r] + i * line, run);
            x[r] = copy[r];
        }
        if (count == ROWS)
            NAME(sparse_tile)(s, p, x, all.target, at, 0, ROWS);
        else
            for (unsigned r = 0; r < count; r++)
                NAME(sparse_tile)(s, p, x + r, all.target, at + r, 1, 1);
    }
}
#endif

/* ---- float ---- */

INLINE TARGET void NAME(real_tile)(const engine_step *s, const prepared *p, const float *const *x, float *target,
                                   const size_t *at, uint32_t g, const unsigned rows, const unsigned groups) {
    const float *weight = (const float *)p->weight + (size_t)g * p->inputs * LANES;
    const size_t block = (size_t)p->inputs * REAL_GROUPS * LANES;
    float kept[REAL_ROWS * REAL_GROUPS][LANES];
    FLOATS sums[REAL_ROWS][REAL_BLOCKS * REAL_GROUPS];
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
    if (p->plane == 1 && s->out_channels - g * LANES >= groups * LANES) {
        UNROLL
        for (unsigned n = 0; n < groups; n++) {
            const uint32_t o = (g + n) * LANES;
            const FLOATS scale = LOAD_REAL(p->scale + o), bias = LOAD_REAL((const float *)p->bias + o);
            UNROLL
            for (unsigned r = 0; r < rows; r++) {
                const FLOATS y = ADD_REAL(MULTIPLY_REAL(sums[r][n], scale), bias);
                STORE_REAL(target + at[r] + o, s->relu ? POSITIVE(y) : y);
            }
        }
        return;
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
            STORE_REAL(each, s->relu ? POSITIVE(y) : y);
            for (uint32_t i = 0; i < LANES && i < count; i++)
                target[at[r] + (o + i) * p->plane] = each[i];
        }
}

/* A float layer; zero weights are multiplied too. */
static TARGET void NAME(real_dense)(const engine_step *s, unsigned char *work, size_t rows) {
    const prepared *p = s->prepared;
    /* A single position does several blocks at once: one has too few sums to keep the adders busy. */
    const uint32_t alone = rows * s->out_height * s->out_width < REAL_ROWS ? REAL_GROUPS * REAL_BLOCKS : 0;
    for (uint32_t g = 0, width; g < p->groups; g += width) {
        positions all = all_positions(s, work, rows);
        float *target = (float *)(void *)all.target;
        const unsigned char *bytes[REAL_ROWS];
        const float *x[REAL_ROWS];
        size_t at[REAL_ROWS];
        width = alone && p->groups - g >= alone ? alone : block_width(p->groups - g, REAL_GROUPS);
        for (unsigned count; (count = next_positions(&all, bytes, at, REAL_ROWS)) > 0;) {
            for (unsigned r = 0; r < count; r++)
                x[r] = (const float *)(const void *)bytes[r];
            if (count == REAL_ROWS) {
                if (width == REAL_GROUPS)
                    NAME(real_tile)(s, p, x, target, at, g, REAL_ROWS, REAL_GROUPS);
                else
                    NAME(real_tile)(s, p, x, target, at, g, REAL_ROWS, 1);
            } else
                for (unsigned r = 0; r < count; r++)
                    if (width == alone)
                        NAME(real_tile)(s, p, x + r, target, at + r, g, 1, REAL_GROUPS * REAL_BLOCKS);
                    else if (width == REAL_GROUPS)
                        NAME(real_tile)(s, p, x + r, target, at + r, g, 1, REAL_GROUPS);
                    else
                        NAME(real_tile)(s, p, x + r, target, at + r, g, 1, 1);
        }
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

INLINE TARGET int NAME(finite)(const float *x, size_t n) {
    INTS most = SET(0);
    int32_t each[LANES];
    size_t i = 0;
    int finite = 1;
    for (; i + LANES <= n; i += LANES)
        most = MAX(most, AND(LOAD(x + i), SET(0x7FFFFFFF)));
    STORE(each, most);
    for (unsigned j = 0; j < LANES; j++)
        finite &= each[j] < 0x7F800000;
    for (; i < n; i++) {
        int32_t bits;
        memcpy(&bits, x + i, 4);
        finite &= (bits & 0x7FFFFFFF) < 0x7F800000;
    }
    return finite;
}

/* Multiplying zero weights changes nothing unless a value is not finite. */
static TARGET void NAME(real)(const engine_step *s, unsigned char *work, size_t rows) {
    const prepared *p = s->prepared;
    const size_t size = (size_t)s->height * s->width * s->channels;
    if (p->zeros && !NAME(finite)((const float *)(const void *)(work + s->source * rows), size * rows))
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

/* ---- both ends ---- */

/* Float observations to bytes or, if `real`, to floats, without normalization: rows follow one another everywhere. */
INLINE TARGET int NAME(observe_values)(const engine_input *in, const void *observations, size_t total,
                                       unsigned char *target, const int wide, const int real,
                                       const int shifted) {
    const size_t period = (size_t)in->size * LANES; /* zero points, as floats, lie behind the scales */
    const float *scale = in->prepared, *const end = real ? NULL : scale + period;
    const FLOATS low = SET_REAL((float)in->low), high = SET_REAL((float)in->high), half = SET_REAL(12582912.0f);
    const INTS zero = SET(in->target_zero), magnitude = SET(0x7FFFFFFF);
    INTS most = SET(0);
    int32_t each[LANES];
    for (size_t i = 0; i < total; i += LANES) {
        const size_t left = total - i;
        FLOATS x, y;
        if (wide)
            x = left < LANES ? LOAD_SOME_WIDE((const double *)observations + i, left)
                             : LOAD_WIDE((const double *)observations + i);
        else
            x = left < LANES ? LOAD_SOME((const float *)observations + i, left)
                             : LOAD_REAL((const float *)observations + i);
        most = MAX(most, AND(BITS(x), magnitude));
        if (real) {
            if (left < LANES)
                STORE_SOME((float *)(void *)target + i, left, x);
            else
                STORE_REAL((float *)(void *)target + i, x);
            continue;
        }
        y = MULTIPLY_REAL(x, LOAD_REAL(scale));
        if (shifted) {
            const FLOATS point = LOAD_REAL(scale + period);
            y = MIN_REAL(MAX_REAL(y, ADD_REAL(low, point)), ADD_REAL(high, point));
            y = SUB_REAL(SUB_REAL(ADD_REAL(y, half), half), point);
        } else {
            y = MIN_REAL(MAX_REAL(y, low), high);
            y = SUB_REAL(ADD_REAL(y, half), half);
        }
        NAME(store_bytes)(target + i, ADD(WHOLE(y), zero), left < LANES ? (uint32_t)left : LANES, 1);
        scale += LANES;
        if (scale == end)
            scale = in->prepared;
    }
    STORE(each, most);
    for (unsigned j = 0; j < LANES; j++)
        if (each[j] >= 0x7F800000)
            return ENGINE_NOT_FINITE;
    return ENGINE_OK;
}

static TARGET int NAME(observe)(const engine_input *in, const void *observations, size_t rows, unsigned char *target) {
    const size_t total = rows * in->size;
    if (in->target_type == ENGINE_F32)
        return in->dtype == ENGINE_FLOAT64 ? NAME(observe_values)(in, observations, total, target, 1, 1, 0)
                                           : NAME(observe_values)(in, observations, total, target, 0, 1, 0);
    if (in->zero_point)
        return in->dtype == ENGINE_FLOAT64 ? NAME(observe_values)(in, observations, total, target, 1, 0, 1)
                                           : NAME(observe_values)(in, observations, total, target, 0, 0, 1);
    return in->dtype == ENGINE_FLOAT64 ? NAME(observe_values)(in, observations, total, target, 1, 0, 0)
                                       : NAME(observe_values)(in, observations, total, target, 0, 0, 0);
}

/* Sums of an integer network to outputs, for one scale. */
static TARGET void NAME(scale)(const engine_output *out, const int32_t *sums, size_t total, float *values) {
    const FLOATS scale = SET_REAL(out->scale[0]);
    size_t i = 0;
    for (; i + LANES <= total; i += LANES)
        STORE_REAL(values + i, MULTIPLY_REAL(TO_REAL(LOAD(sums + i)), scale));
    if (i < total)
        STORE_SOME(values + i, total - i, MULTIPLY_REAL(TO_REAL(LOAD(sums + i)), scale));
}

/* Squashed actions: low + 0.5 * (tanh + 1) * (high - low), engine_tanh by both of its branches for all values. */
static TARGET void NAME(squash)(const engine_output *out, const float *values, size_t rows, float *actions) {
    const INTS sign = SET(INT32_MIN);
    const size_t total = rows * out->outputs, period = (size_t)out->outputs * LANES;
    const float *bound = out->prepared, *const end = bound + period;
    for (size_t i = 0; i < total; i += LANES) {
        const size_t left = total - i;
        FLOATS x, a, z, p, y, t, s, q, e, large;
        INTS whole;
        x = left < LANES ? LOAD_SOME(values + i, left) : LOAD_REAL(values + i);
        a = MIN_REAL(REAL(AND_NOT(sign, BITS(x))), SET_REAL(10.0f));
        z = MULTIPLY_REAL(a, a);
        p = SET_REAL(-0x1.76abf6p-8f);
        p = ADD_REAL(MULTIPLY_REAL(p, z), SET_REAL(0x1.5256cep-6f));
        p = ADD_REAL(MULTIPLY_REAL(p, z), SET_REAL(-0x1.b84448p-5f));
        p = ADD_REAL(MULTIPLY_REAL(p, z), SET_REAL(0x1.110768p-3f));
        p = ADD_REAL(MULTIPLY_REAL(p, z), SET_REAL(-0x1.555534p-2f));
        p = ADD_REAL(a, MULTIPLY_REAL(a, MULTIPLY_REAL(z, p)));
        y = ADD_REAL(a, a);
        whole = WHOLE(ADD_REAL(MULTIPLY_REAL(y, SET_REAL(0x1.715476p+0f)), SET_REAL(0.5f)));
        t = TO_REAL(whole);
        s = ADD_REAL(SUB_REAL(MULTIPLY_REAL(t, SET_REAL(0x1.62ep-1f)), y), MULTIPLY_REAL(t, SET_REAL(0x1.0bfbe8p-15f)));
        q = SET_REAL(0x1.6db4e4p-10f);
        q = ADD_REAL(MULTIPLY_REAL(q, s), SET_REAL(0x1.123be0p-7f));
        q = ADD_REAL(MULTIPLY_REAL(q, s), SET_REAL(0x1.55545ep-5f));
        q = ADD_REAL(MULTIPLY_REAL(q, s), SET_REAL(0x1.55548ep-3f));
        q = ADD_REAL(MULTIPLY_REAL(q, s), SET_REAL(0x1p-1f));
        e = ADD_REAL(ADD_REAL(s, MULTIPLY_REAL(MULTIPLY_REAL(s, s), q)), SET_REAL(1.0f));
        e = MULTIPLY_REAL(e, REAL(SHIFT_LEFT(SUB(SET(127), whole), 23)));
        large = SUB_REAL(SET_REAL(1.0f), DIVIDE_REAL(ADD_REAL(e, e), ADD_REAL(SET_REAL(1.0f), e)));
        p = SELECT_BELOW(a, SET_REAL(0.625f), p, large);
        p = REAL(OR(BITS(p), AND(sign, BITS(x))));
        p = MULTIPLY_REAL(SET_REAL(0.5f), ADD_REAL(p, SET_REAL(1.0f)));
        p = ADD_REAL(LOAD_REAL(bound), MULTIPLY_REAL(p, LOAD_REAL(bound + period)));
        if (left < LANES)
            STORE_SOME(actions + i, left, p);
        else
            STORE_REAL(actions + i, p);
        bound += LANES;
        if (bound == end)
            bound = out->prepared;
    }
}
