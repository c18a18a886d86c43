/*
 * Entropy coder for small integer networks. One stream holds header integers, vectors (biases) and matrices (weights).
 * Every function runs in both directions: it passes its value to code_bit, which writes it, or replaces it by what it
 * reads. Encoder and decoder therefore always hold the same model.
 *
 * Bits: binary arithmetic coding with a 32-bit range and 16-bit probabilities (Witten, Neal and Cleary, "Arithmetic
 * coding for data compression", 1987; bytewise as in Martin's range coder, 1979). Carries run back into the bytes
 * already written. The last bytes are cut: the decoder reads zeros past the end, at most four of them.
 *
 * Integers: Elias gamma codes with adaptive lengths.
 *
 * Vectors: a grid of 256 bins around the mean and a symmetric distribution over them; then each value's sign, bin and
 * place in the bin. Sorted vectors are coded as order statistics, so that their order costs nothing.
 *
 * Matrices, in C order: a model (about 2 bytes), then for each weight
 *   a zero flag. Its odds are those of the matrix so far, times the ratios of the column's and of the row's nonzeros to
 *     what was expected of them, both shrunk towards 1 by a parameter of the model;
 *   a sign, one bit;
 *   the magnitude, along a binary tree of adaptive probabilities. They start from one of four distributions (heavy
 *     tail, Laplace, Gauss, between) with given mean, so that small matrices need not teach 127 probabilities. Each of
 *     nine classes of expected magnitude, from the row's and the column's sums so far, has a tree of its own.
 *
 * A decoder accepts any bytes without harm; what it reports is reading past the end and values out of range.
 */
#include "coder.h"

#include <string.h>

/* ---- arithmetic ---- */

/* round(2^16 * 2^(-i / 32)) - 1 */
static const uint16_t EXP2[32] = {
    65535, 64131, 62757, 61412, 60096, 58809, 57549, 56315, 55108, 53928, 52772, 51641, 50534, 49452, 48392, 47355,
    46340, 45347, 44376, 43425, 42494, 41584, 40693, 39821, 38967, 38132, 37315, 36516, 35733, 34967, 34218, 33485,
};

/* 2^16 * 2^(-x / 32) */
static uint32_t exp2_negative(uint32_t x) {
    return x < 544 ? (uint32_t)EXP2[x & 31] >> (x >> 5) : 0;
}

/* log2(x) with `digits` binary digits after the point, for x > 0; each squaring gives a digit. */
static uint32_t log2_fixed(uint64_t x, unsigned digits) {
    uint32_t result = 63;
    while (!(x >> 63)) {
        x <<= 1;
        result--;
    }
    x >>= 32;
    for (; digits; digits--) {
        x = (x * x) >> 31;
        result = (result << 1) | (uint32_t)(x >> 32);
        x >>= x >> 32;
    }
    return result;
}

/* 2^16 * a / (a + b), never 0 or 1, for a + b < 2^63 and not both 0 */
static uint32_t odds(uint64_t a, uint64_t b) {
    uint64_t sum = a + b;
    uint32_t p;
    while (sum >> 40) {
        sum >>= 16;
        a >>= 16;
    }
    p = (uint32_t)((a << 16) / sum);
    return p < 1 ? 1 : p > 65535 ? 65535 : p;
}

/* ---- coder ---- */

static void start(coder *c) {
    memset(c, 0, sizeof *c);
    c->range = UINT32_MAX;
    for (unsigned i = 0; i < CODER_CONTEXTS; i++)
        for (unsigned j = 0; j < 33; j++)
            c->lengths[i][j] = 1u << 31;
}

void coder_encode_start(coder *c, uint8_t *output, size_t size) {
    start(c);
    c->output = output;
    c->size = size;
}

static uint32_t next_byte(coder *c) {
    uint32_t byte = c->position < c->size ? c->input[c->position] : 0;
    c->position++;
    return byte;
}

void coder_decode_start(coder *c, const uint8_t *input, size_t size) {
    start(c);
    c->input = input;
    c->size = size;
    for (unsigned i = 0; i < 4; i++)
        c->code = c->code << 8 | next_byte(c);
}

int coder_overrun(const coder *c) {
    return c->input && c->position > c->size + 4;
}

int coder_decode_finish(const coder *c) {
    return coder_overrun(c) ? -1 : c->position < c->size;
}

static void shift_out(coder *c) {
    if (c->output && c->position < c->size)
        c->output[c->position] = (uint8_t)(c->low >> 24);
    c->position++;
    c->low <<= 8;
}

static void add_low(coder *c, uint32_t amount) {
    c->low += amount;
    if (c->low < amount && c->output)
        for (size_t i = c->position; i > 0; i--)
            if (i > c->size || ++c->output[i - 1])
                break;
}

size_t coder_encode_finish(coder *c) {
    uint32_t mask = UINT32_MAX;
    /* Of all numbers in [low, low + range) the one that ends in most zero bytes: those need not be written. */
    while (((0u - c->low) & mask) >= c->range)
        mask >>= 8;
    add_low(c, (0u - c->low) & mask);
    while (c->low)
        shift_out(c);
    return c->position;
}

uint64_t coder_bits(const coder *c) {
    return (uint64_t)c->position * 2048 + 8192 - log2_fixed(c->range, 8);
}

/* One bit of which p / 2^16 is the probability to be 1. */
static unsigned code_bit(coder *c, uint32_t p, unsigned bit) {
    uint32_t bound = (uint32_t)(((uint64_t)c->range * p) >> 16);
    if (c->input)
        bit = c->code < bound;
    if (bit) {
        c->range = bound;
    } else {
        c->range -= bound;
        if (c->input)
            c->code -= bound;
        else
            add_low(c, bound);
    }
    while (c->range < 1u << 24) {
        c->range <<= 8;
        if (c->input)
            c->code = c->code << 8 | next_byte(c);
        else
            shift_out(c);
    }
    return bit;
}

/* One bit by a context that moves towards what it sees: by 1 / (n + 2) after n bits. */
static unsigned code_adaptive(coder *c, coder_context *context, unsigned bit) {
    uint32_t p = *context >> 10, n = *context & 1023, q = p >> 6;
    uint32_t rate = 65536 / (n + 2);
    bit = code_bit(c, q < 1 ? 1 : q, bit);
    if (bit)
        p += (uint32_t)(((uint64_t)(0x3FFFFF - p) * rate) >> 16);
    else
        p -= (uint32_t)(((uint64_t)p * rate) >> 16);
    *context = p << 10 | (n < 1023 ? n + 1 : n);
    return bit;
}

uint32_t coder_uniform(coder *c, uint32_t value, unsigned bits) {
    uint32_t result = 0;
    while (bits--)
        result = result << 1 | code_bit(c, 1u << 15, value >> bits & 1);
    return result;
}

/* ---- integers ---- */

/* Elias gamma: the number of binary digits in unary, by adaptive contexts, then the digits below the first. */
uint32_t coder_unsigned(coder *c, uint32_t value, unsigned context) {
    coder_context *lengths = c->lengths[context % CODER_CONTEXTS];
    unsigned length = 0;
    while (length < 32 && code_adaptive(c, &lengths[length], length < 32 && value >> length != 0))
        length++;
    return length < 2 ? length : 1u << (length - 1) | coder_uniform(c, value, length - 1);
}

int32_t coder_signed(coder *c, int32_t value, unsigned context) {
    uint32_t u = coder_unsigned(c, value < 0 ? ~((uint32_t)value << 1) : (uint32_t)value << 1, context);
    return u & 1 ? -(int32_t)(u >> 1) - 1 : (int32_t)(u >> 1);
}

/* ---- distributions of magnitudes ---- */

/* Weights of the magnitudes 0 .. n - 1 when their mean is about 2^(scale / 4), as running sums from sums[0] = 0. */
static void distribution(uint32_t *sums, uint32_t n, unsigned family, int scale) {
    /* 2^(scale / 4) with 6 binary digits after the point */
    uint32_t mean = exp2_negative((uint32_t)(320 - 8 * scale));
    sums[0] = 0;
    for (uint32_t m = 0; m < n; m++) {
        uint32_t u = ((2 * m + 1) << 12) / mean; /* in 1 / 128 of the mean */
        uint32_t weight;
        if (u > 4095)
            u = 4095;
        if (family == 0) /* heavy tail: (1 + u / 2)^-3 */
            weight = exp2_negative((log2_fixed(256 + u, 5) - 256) * 3);
        else if (family == 1) /* Laplace: exp(-u) */
            weight = exp2_negative(u * 46 >> 7);
        else if (family == 2) /* between */
            weight = exp2_negative((u * 23 + u * u * 8 / 128) >> 7);
        else /* Gauss: exp(-u^2 / pi) */
            weight = exp2_negative((u * u / 128 * 15) >> 7);
        sums[m + 1] = sums[m] + weight + 4;
    }
}

/* Contexts of a binary tree over n = 2^digits magnitudes that starts from their distribution. */
static void grow(coder_context *nodes, const uint32_t *sums, unsigned digits, uint32_t trust) {
    for (uint32_t node = 1; node < 1u << digits; node++) {
        unsigned level = 0;
        uint32_t first, middle, last;
        while (node >> (level + 1))
            level++;
        first = (node - (1u << level)) << (digits - level);
        middle = first + (1u << (digits - level - 1));
        last = first + (1u << (digits - level));
        nodes[node] = odds(sums[last] - sums[middle], sums[middle] - sums[first]) << 16 | trust;
    }
}

static uint32_t code_magnitude(coder *c, coder_context *nodes, uint32_t value, unsigned digits) {
    uint32_t node = 1;
    while (digits--)
        node = node << 1 | code_adaptive(c, &nodes[node], value >> digits & 1);
    return node;
}

/* ---- vectors of integers ---- */

enum { BIN_DIGITS = 7, BINS = 1 << BIN_DIGITS };

/* A vector lies on 2 * BINS bins of width 2^shift around its center; a bin has the probability of its number. */
typedef struct {
    uint32_t shift, family, scale;
    int32_t center; /* in units of 4 bins */
} grid;

static void code_grid(coder *c, grid *g) {
    g->shift = coder_uniform(c, g->shift, 5);
    g->family = coder_uniform(c, g->family, 2);
    g->scale = coder_uniform(c, g->scale, 5);
    g->center = coder_signed(c, g->center, 0);
}

static int64_t lowest(const grid *g) {
    return ((int64_t)g->center * 4 - BINS) * ((int64_t)1 << g->shift);
}

/* A number below `limit` <= 2^digits, all equally likely. */
static uint32_t code_below(coder *c, uint32_t value, uint32_t limit, unsigned digits) {
    uint32_t first = 0;
    while (digits--) {
        uint32_t half = 1u << digits;
        if (limit > half) {
            if (code_bit(c, odds(limit - half, half), (value - first) >> digits & 1)) {
                first += half;
                limit -= half;
            } else
                limit = half;
        }
    }
    return first;
}

/* The values in any order: bin, then the place in the bin. */
static int code_vector(coder *c, coder_workspace *w, const grid *g, int32_t *values, uint32_t n) {
    uint32_t sums[BINS + 1];
    distribution(sums, BINS, g->family, (int)g->scale);
    grow(w->nodes[0], sums, BIN_DIGITS, 255);
    for (uint32_t i = 0; i < n; i++) {
        int64_t value = values[i] - lowest(g) - ((int64_t)BINS << g->shift);
        unsigned negative = code_bit(c, 1u << 15, value < 0);
        int64_t place = value < 0 ? ~value : value;
        int64_t bin = code_magnitude(c, w->nodes[0], (uint32_t)(place >> g->shift), BIN_DIGITS) - BINS;
        place = bin << g->shift | coder_uniform(c, (uint32_t)place, g->shift);
        value = (negative ? ~place : place) + lowest(g) + ((int64_t)BINS << g->shift);
        if (value != (int32_t)value || coder_overrun(c))
            return 1;
        values[i] = (int32_t)value;
    }
    return 0;
}

/*
 * The values in ascending order: walks along the bins, each cut into 2^cut parts, and asks in each part whether the
 * next value is there. With r values to come this is so with probability 1 - (S'/S)^r, where S and S' are the
 * probabilities that a value lies behind the begin and the end of the part: no bit is spent on an order.
 */
static int code_ascending(coder *c, const grid *g, int32_t *values, uint32_t n) {
    uint32_t sums[BINS + 1], behind, cut = 0, i = 0, digits;
    distribution(sums, BINS, g->family, (int)g->scale);
    /* parts so small that two values rarely share one */
    while (cut < g->shift && (uint64_t)(sums[1] - sums[0]) * n >> cut > sums[BINS])
        cut++;
    digits = g->shift - cut;
    behind = 2 * sums[BINS];
    for (uint32_t bin = 0; bin < 2 * BINS && i < n; bin++) {
        uint32_t mirrored = bin < BINS ? BINS - 1 - bin : bin - BINS;
        uint32_t after = behind - (sums[mirrored + 1] - sums[mirrored]);
        /* -log2(S'/S) of a bin in 1 / 2^16 */
        uint64_t fall = after ? log2_fixed(behind, 16) - log2_fixed(after, 16) : 32u << 16;
        behind = after;
        if (coder_overrun(c))
            return 1;
        for (uint32_t part = 0; part < 1u << cut && i < n; part++) {
            int64_t first = lowest(g) + ((int64_t)((bin << cut) + part) << digits);
            uint32_t from = 0;
            int last = bin == 2 * BINS - 1 && part == (1u << cut) - 1;
            while (i < n) {
                uint32_t free = (1u << digits) - from;
                uint64_t x = ((((fall * (n - i)) >> cut) * free) >> digits) >> 11;
                uint32_t hit = 65536 - exp2_negative(x < 4096 ? (uint32_t)x : 4096);
                int64_t value = values[i];
                if (!last && !code_bit(c, hit < 65535 ? hit : 65535, value < first + ((int64_t)1 << digits)))
                    break;
                from += code_below(c, (uint32_t)(value - first) - from, free, digits);
                value = first + from;
                if (value != (int32_t)value)
                    return 1;
                values[i++] = (int32_t)value;
            }
        }
    }
    return coder_overrun(c);
}

static int code_values(coder *c, coder_workspace *w, grid *g, int32_t *values, uint32_t n, int ascending) {
    int32_t far;
    code_grid(c, g);
    far = g->shift < 28 ? 1 << (30 - g->shift) : 0; /* no 32-bit integer is further away */
    if (g->center < -far || g->center > far || !far)
        return 1;
    return ascending ? code_ascending(c, g, values, n) : code_vector(c, w, g, values, n);
}

/* Finds the grid that holds all values, and the distribution that makes them small. */
static void search_grid(const coder *c, coder_workspace *w, int32_t *values, uint32_t n, int ascending, grid *best) {
    int64_t sum = 0, least = values[0], most = values[0];
    uint64_t cost = UINT64_MAX;
    uint32_t tried = ascending || n < 2048 ? n : 2048; /* so many tell enough */
    grid g = {0, 0, 0, 0};
    for (uint32_t i = 0; i < n; i++) {
        sum += values[i];
        least = values[i] < least ? values[i] : least;
        most = values[i] > most ? values[i] : most;
    }
    do {
        int64_t unit = (int64_t)4 << g.shift, offset = (int64_t)n * unit;
        /* the mean, rounded down */
        g.center = (int32_t)((sum - (sum < 0 ? offset - 1 : 0)) / offset);
    } while ((least < lowest(&g) || most >= lowest(&g) + ((int64_t)2 * BINS << g.shift)) && ++g.shift);
    for (g.family = 0; g.family < 4; g.family++)
        for (g.scale = 0; g.scale < 32; g.scale++) {
            coder trial = *c;
            trial.output = NULL;
            code_values(&trial, w, &g, values, tried, ascending);
            if (coder_bits(&trial) < cost) {
                cost = coder_bits(&trial);
                *best = g;
            }
        }
}

int coder_integers(coder *c, coder_workspace *w, int32_t *values, uint32_t n, int ascending) {
    grid g = {0, 0, 0, 0};
    if (!n)
        return 0;
    if (!c->input)
        search_grid(c, w, values, n, ascending, &g);
    return code_values(c, w, &g, values, n, ascending);
}

/* ---- matrix ---- */

enum { SAMPLE = 1 << 17 }; /* weights that the search looks at */

enum { ROW, COLUMN, FAMILY, SCALE, TRUST, ROW_SCALE, COLUMN_SCALE };

/* How many bits each parameter takes, and what some of them stand for. */
static const uint8_t DIGITS[CODER_PARAMETERS] = {2, 2, 2, 5, 2, 2, 2};
static const uint16_t TRUSTED[4] = {8, 24, 96, 400}; /* bits that a prior probability counts for */
static const uint16_t STRENGTH[4] = {0, 2, 8, 32};   /* weights that the mean of the matrix counts for */

static void code_model(coder *c, coder_model *m, unsigned bits) {
    m->zeros = (uint8_t)coder_uniform(c, m->zeros, 1);
    for (unsigned i = m->zeros ? 0 : FAMILY; i < (bits > 2 ? CODER_PARAMETERS : FAMILY); i++)
        m->parameters[i] = (uint8_t)coder_uniform(c, m->parameters[i], DIGITS[i]);
}

/* mean * a / b, bounded so that sums over a row or column fit */
static uint32_t predict(uint32_t mean, uint32_t a, uint32_t b) {
    uint64_t x = (uint64_t)mean * a / b;
    return x < 32768 ? (uint32_t)x : 32768;
}

/* Codes the first of every `every` rows. */
static int code_rows(coder *c, coder_workspace *w, int8_t *codes, uint32_t rows, uint32_t columns, uint32_t every,
                     unsigned bits, coder_model *m, coder_cost *cost) {
    uint32_t seen[2] = {1, 1}; /* twice the zeros and nonzeros so far, from one half each */
    uint32_t sums[129];
    uint32_t mean, kr, kc, ks, kt; /* in 1 / 16: mean magnitude, and what shrinks the statistics */
    uint64_t before = coder_bits(c), now;
    unsigned digits = bits - 1;
    const uint8_t *p = m->parameters;

    memset(w->columns, 0, columns * sizeof *w->columns);
    code_model(c, m, bits);
    mean = exp2_negative(320 - 8u * p[SCALE]) >> 2;
    for (int i = 0; i < CODER_CLASSES; i++) {
        if (i != CODER_CLASSES / 2 && !p[ROW_SCALE] && !p[COLUMN_SCALE])
            continue;
        distribution(sums, 1u << digits, p[FAMILY], p[SCALE] + 2 * (i - CODER_CLASSES / 2));
        sums[1u << digits] = sums[(1u << digits) - 1]; /* no code is -2^(bits - 1) */
        grow(w->nodes[i], sums, digits, TRUSTED[p[TRUST]]);
    }
    kr = 16u * STRENGTH[p[ROW]];
    kc = 16u * STRENGTH[p[COLUMN]];
    ks = mean * STRENGTH[p[ROW_SCALE]];
    kt = mean * STRENGTH[p[COLUMN_SCALE]];
    if (cost) {
        now = coder_bits(c);
        cost->model = now - before;
        cost->values = 0;
        before = now;
    }
    for (uint32_t i = 0; i < (rows + every - 1) / every; i++) {
        int8_t *at = codes + (size_t)i * every * columns;
        uint32_t row_count = 0, row_sum = 0, row_expected = 0;
        uint32_t density = odds(seen[1], seen[0]);
        /* nonzeros of a column so far, were all columns alike, in 1 / 16 */
        uint32_t expected = (uint32_t)(((uint64_t)density * i) >> 12);
        uint64_t share = 0; /* sum over the columns so far of the factor by which they are dense */
        uint32_t step = (uint32_t)(((uint64_t)density << 16) / (expected + kc + 1)); /* density per count, 2^32 / 16 */
        for (uint32_t j = 0; j < columns; j++) {
            coder_column *column = &w->columns[j];
            int code = *at;
            unsigned nonzero = 1;
            if (m->zeros) {
                uint64_t a = seen[1], b = seen[0], factor = expected + kc + 1;
                if (p[COLUMN]) {
                    uint32_t x = 16 * column->count + kc;
                    a *= x;
                    b *= expected + kc;
                    factor = x;
                }
                if (p[ROW] && i) {
                    uint64_t e = (share * step) >> 28;
                    a *= 16 * row_count + kr;
                    b *= (e < 1u << 20 ? e : 1u << 20) + kr;
                }
                share += factor;
                nonzero = code_bit(c, odds(a, b), code != 0);
                seen[nonzero] += 2;
                if (seen[0] + seen[1] > 1u << 21) {
                    seen[0] = (seen[0] + 1) / 2;
                    seen[1] = (seen[1] + 1) / 2;
                }
            }
            if (nonzero) {
                uint32_t value, class = CODER_CLASSES / 2, predicted_row = mean, predicted_column = mean;
                uint64_t mark = cost ? coder_bits(c) : 0;
                uint64_t a = 1, b = 1;
                unsigned sign = code_bit(c, 1u << 15, code < 0);
                if (p[ROW_SCALE]) {
                    a = row_sum + ks;
                    b = row_expected + ks;
                    predicted_column = predict(mean, row_sum + ks, row_expected + ks);
                }
                if (p[COLUMN_SCALE]) {
                    predicted_row = predict(mean, column->sum + kt, column->expected + kt);
                    a *= column->sum + kt;
                    b *= column->expected + kt;
                }
                if (p[ROW_SCALE] || p[COLUMN_SCALE]) {
                    int x = (int)log2_fixed(a, 3) - (int)log2_fixed(b, 3);
                    x = (x + 2 + 4 * (CODER_CLASSES / 2)) >> 2;
                    class = x < 0 ? 0 : x >= CODER_CLASSES ? CODER_CLASSES - 1 : (uint32_t)x;
                }
                value = (uint32_t)(code < 0 ? -code : code) - 1;
                value = code_magnitude(c, w->nodes[class], value, digits) - (1u << digits) + 1;
                if (value >> digits)
                    return 1;
                *at = (int8_t)(sign ? -(int)value : (int)value);
                row_sum += 16 * value;
                row_expected += predicted_row;
                row_count++;
                column->sum += 16 * value;
                column->expected += predicted_column;
                column->count++;
                if (cost)
                    cost->values += coder_bits(c) - mark;
            } else
                *at = 0;
            at++;
        }
        if (coder_overrun(c))
            return 1;
    }
    if (cost)
        cost->positions = coder_bits(c) - before - cost->values;
    return 0;
}

int coder_matrix(coder *c, coder_workspace *w, int8_t *codes, uint32_t rows, uint32_t columns, unsigned bits,
                 coder_model *m, coder_cost *cost) {
    return code_rows(c, w, codes, rows, columns, 1, bits, m, cost);
}

/* Keeps `m` in place of `best` where it makes the positions, or the values, smaller. */
static void try_model(coder_workspace *w, int8_t *codes, uint32_t rows, uint32_t columns, uint32_t every,
                      unsigned bits, coder_model *m, coder_model *best, coder_cost *least) {
    coder trial;
    coder_cost cost;
    coder_encode_start(&trial, NULL, 0);
    code_rows(&trial, w, codes, rows, columns, every, bits, m, &cost);
    for (unsigned i = 0; i < CODER_PARAMETERS; i++)
        if (i < FAMILY ? cost.positions < least->positions : cost.values < least->values)
            best->parameters[i] = m->parameters[i];
    if (cost.positions < least->positions)
        least->positions = cost.positions;
    if (cost.values < least->values)
        least->values = cost.values;
}

void coder_matrix_search(coder_workspace *w, int8_t *codes, uint32_t rows, uint32_t columns, unsigned bits,
                         coder_model *best) {
    uint32_t count = 0, sum = 0;
    /* A large matrix tells enough by some of its rows. */
    uint32_t every = rows * columns / SAMPLE + 1 < rows / 16 ? rows * columns / SAMPLE + 1 : rows / 16 + 1;
    coder_cost least = {0, UINT64_MAX, UINT64_MAX};
    coder_model m = {0};
    for (uint32_t i = 0; i < rows * columns; i++) {
        int code = codes[i];
        count += code != 0;
        sum += (uint32_t)(code < 0 ? -code : code);
    }
    m.zeros = count < rows * columns;
    m.parameters[FAMILY] = 2;
    m.parameters[SCALE] = (uint8_t)(count ? log2_fixed(sum, 2) - log2_fixed(count, 2) : 0);
    m.parameters[TRUST] = 1;
    *best = m;
    try_model(w, codes, rows, columns, every, bits, &m, best, &least);
    /* one parameter after the other, twice, each up to 3 steps from its best value so far */
    for (unsigned i = 0; i < 2 * CODER_PARAMETERS; i++) {
        unsigned k = i % CODER_PARAMETERS;
        int center = best->parameters[k];
        if (k < FAMILY ? !m.zeros : bits == 2)
            continue;
        for (int x = center - 3; x <= center + 3; x++)
            if (x != center && x >= 0 && x >> DIGITS[k] == 0) {
                m = *best;
                m.parameters[k] = (uint8_t)x;
                try_model(w, codes, rows, columns, every, bits, &m, best, &least);
            }
    }
}
