/*
 * Entropy coder for small integer networks. One stream holds header integers, vectors (biases) and matrices (weights).
 * Every function runs in both directions: it passes its value to code_bit, which writes it, or replaces it by what it
 * reads. Encoder and decoder therefore always hold the same model. With CODER_DECODE_ONLY, in payload.c for devices, the
 * direction is a constant, so that what only an encoder does falls away.
 *
 * Bits: binary arithmetic coding with a 32-bit range and 16-bit probabilities (Witten, Neal and Cleary, "Arithmetic
 * coding for data compression", 1987; bytewise as in Martin's range coder, 1979). Carries run back into the bytes
 * already written. The last bytes are cut: the decoder reads zeros past the end, at most four of them.
 *
 * Integers: whether it is the last one of its class again, else Elias gamma codes with adaptive lengths.
 *
 * Vectors: a grid of 256 bins around the mean and a symmetric distribution over them; then each value's sign, bin and
 * place in the bin. Sorted vectors are coded as order statistics, so that their order costs nothing.
 *
 * Levels, a few different numbers: whether it is the one before again, else which of the others, all equally likely.
 *
 * Matrices, in C order: a model (about 2 bytes), then for each weight
 *   a zero flag, unless the matrix has no zeros, or many of them, which are magnitudes then. Its odds are those of the
 *     matrix so far, times the ratios of the column's and of the row's nonzeros to what was expected of them, both
 *     shrunk towards 1 by a parameter of the model. Where that pays, the neighbours before and above correct the odds.
 *   the magnitude, along a binary tree of adaptive probabilities. They start from one of four distributions (heavy
 *     tail, Laplace, Gauss, between) with given mean, so that small matrices need not teach 127 probabilities. Each of
 *     nine classes of expected magnitude, from the row's and the column's sums so far, has a tree of its own.
 *   a sign, of even odds, or corrected by the last signs in row and column and by the neighbours.
 *
 * A decoder accepts any bytes without harm; what it reports is reading past the end and values out of range.
 */
#include "coder.h"

#include <string.h>

typedef char coder_needs_int_of_32_bits[sizeof(int) >= 4 ? 1 : -1];

/* What a compiler might copy to each of its callers; a device has no room for that. */
#if defined CODER_DECODE_ONLY && defined __GNUC__
#define APART __attribute__((noinline))
#else
#define APART
#endif

static int decoding(const coder *c) {
#ifdef CODER_DECODE_ONLY
    (void)c;
    return 1;
#else
    return c->input != NULL;
#endif
}

/* ---- arithmetic ---- */

/* round(2^16 * 2^(-i / 32)) - 1 */
static const uint16_t EXP2[32] = {
    65535, 64131, 62757, 61412, 60096, 58809, 57549, 56315, 55108, 53928, 52772, 51641, 50534, 49452, 48392, 47355,
    46340, 45347, 44376, 43425, 42494, 41584, 40693, 39821, 38967, 38132, 37315, 36516, 35733, 34967, 34218, 33485,
};

/* 2^16 * 2^(-x / 32) */
APART static uint32_t exp2_negative(uint32_t x) {
    return x < 544 ? (uint32_t)EXP2[x & 31] >> (x >> 5) : 0;
}

/* log2(x) with `digits` binary digits after the point, for x > 0; each squaring gives a digit. */
static uint32_t log2_fixed(uint64_t x, unsigned digits) {
    uint32_t result = 63;
    for (; !(x >> 63); x <<= 1)
        result--;
    for (; digits; digits--) {
        uint64_t square = (x >> 32) * (x >> 32);
        result = (result << 1) | (uint32_t)(square >> 63);
        x = square >> 63 ? square : square << 1;
    }
    return result;
}

/* 2^16 * a / b for a <= b < 2^40 and b > 0 */
static uint32_t ratio(uint64_t a, uint64_t b) {
#ifdef CODER_DECODE_ONLY
    uint32_t result = 0; /* digit by digit: devices would have to link a division of 64 bits */
    for (unsigned i = 0; i < 17; i++) {
        result <<= 1;
        if (a >= b) {
            a -= b;
            result |= 1;
        }
        a <<= 1;
    }
    return result;
#else
    return (uint32_t)((a << 16) / b);
#endif
}

/* 2^16 * a / (a + b), never 0 or 1, for a + b < 2^63 and not both 0 */
static uint32_t odds(uint64_t a, uint64_t b) {
    uint64_t sum = a + b;
    uint32_t p;
    while (sum >> 40) {
        sum >>= 16;
        a >>= 16;
    }
    p = ratio(a, sum);
    return p < 1 ? 1 : p > 65535 ? 65535 : p;
}

/* 2^11 * log2(1 + i / 32) */
static const uint16_t LOG2[33] = {
    0, 91, 179, 265, 348, 429, 508, 585, 659, 732, 803, 873, 941, 1007, 1072, 1136, 1198,
    1259, 1319, 1377, 1435, 1491, 1546, 1600, 1653, 1706, 1757, 1808, 1857, 1906, 1954, 2001, 2048,
};

/* 256 * log2(x), for 0 < x < 2^16 */
static int32_t log2_small(uint32_t x) {
    uint32_t digits = 15, i;
    for (; x < 32768; x <<= 1)
        digits--;
    i = (x >> 10) - 32;
    return (int32_t)((digits << 8) + ((LOG2[i] * (1024 - (x & 1023)) + LOG2[i + 1] * (x & 1023)) >> 13));
}

/* Log odds of p / 2^16 in 1 / 2^16, and back. */
static int32_t stretch(uint32_t p) {
    return (log2_small(p) - log2_small(65536 - p)) * 256;
}

static uint32_t squash(int32_t x) {
    uint32_t u = x < 0 ? (uint32_t)-x : (uint32_t)x;
    uint32_t p = UINT32_MAX / (65536 + exp2_negative((u + 1024) >> 11)); /* never 65536 */
    return x < 0 ? 65536 - p : p;
}

/* ---- coder ---- */

/* Classes that vectors and matrices keep to themselves. */
enum { GRID_SHIFT = CODER_CONTEXTS, GRID_FAMILY, GRID_SCALE, GRID_CENTER, MODEL };

/*
 * What the first integer of each class probably is, and in how many of 16 cases; how many digits it has at least in
 * most of the others. The classes of the caller are told as the payload of a policy uses them.
 */
#define P(value, chance, digits) {value, (digits) << 4 | (chance)}
typedef struct {
    uint8_t value, how;
} likely;

static const likely LIKELY[CODER_KINDS] = {
    /* number of operations; bits of the input, its limits; other limits; outputs, inputs; kinds, flags, weight bits */
    P(3, 10, 0), P(8, 14, 0), P(1, 14, 0), P(0, 14, 0), P(24, 4, 4), P(0, 14, 4), P(0, 13, 0), P(3, 12, 0), P(8, 8, 2),
    /* geometry; forms; digits of multipliers, shifts; zeros and order of integers, of floats; constants; exponents */
    P(1, 6, 0), P(0, 14, 0), P(8, 13, 0), P(4, 11, 0), P(0, 13, 0), P(2, 9, 0), P(21, 13, 0),
    P(1, 13, 0), P(0, 4, 0), P(0, 4, 0),
    /* grids: shift, family, scale, center */
    P(2, 4, 0), P(2, 8, 0), P(0, 6, 0), P(0, 6, 0),
    /* models: enum MODE and the following */
    P(0, 8, 0), P(1, 8, 0), P(1, 8, 0), P(0, 14, 0), P(3, 8, 0), P(0, 4, 0), P(1, 8, 0), P(0, 8, 0), P(0, 8, 0),
    P(0, 14, 0),
};

/* The same of the model of a matrix that is the only one, and small. */
static const likely ALONE[CODER_PARAMETERS] = {
    P(2, 12, 0), P(1, 8, 0), P(1, 8, 0), P(0, 14, 0), P(1, 8, 0), P(0, 8, 0), P(1, 11, 0), P(0, 14, 0), P(1, 8, 0),
    P(0, 14, 0),
};
#undef P

APART static void expect(coder_integer *known, likely what) {
    known->last = what.value;
    known->contexts[0] = (uint32_t)what.how << 28 | 2;
    for (unsigned j = 1; j < 34; j++)
        known->contexts[j] = j <= what.how >> 4 ? 7u << 29 : 1u << 31;
}

static void start(coder *c) {
    c->low = c->code = 0;
    c->range = UINT32_MAX;
    c->position = 0;
    for (unsigned i = 0; i < CODER_KINDS; i++)
        expect(&c->integers[i], LIKELY[i]);
}

CODER_PUBLIC void coder_alone(coder *c) {
    for (unsigned i = 0; i < CODER_PARAMETERS; i++)
        expect(&c->integers[MODEL + i], ALONE[i]);
}

APART static void shift_in(coder *c) {
    c->code = c->code << 8 | (c->position < c->size ? c->input[c->position] : 0u);
    c->position++;
}

CODER_PUBLIC void coder_decode_start(coder *c, const uint8_t *input, size_t size) {
    start(c);
    c->input = input;
    c->output = NULL;
    c->size = size;
    for (unsigned i = 0; i < 4; i++)
        shift_in(c);
}

CODER_PUBLIC int coder_overrun(const coder *c) {
    return decoding(c) && c->position > c->size + 4;
}

CODER_PUBLIC int coder_decode_finish(const coder *c) {
    return c->position - c->size > 4; /* also where it is less */
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

/* What is written so far, in 1/256 bit: bytes and the logarithm of the range. */
static uint64_t coded_bits(const coder *c) {
    return (uint64_t)c->position * 2048 + 8192 - log2_fixed(c->range, 8);
}

/* One bit of which p / 2^16 is the probability to be 1. */
static unsigned code_bit(coder *c, uint32_t p, unsigned bit) {
    uint32_t bound = (c->range >> 16) * p + ((c->range & 65535) * p >> 16); /* range * p / 2^16 */
    if (decoding(c))
        bit = c->code < bound;
    if (bit) {
        c->range = bound;
    } else {
        c->range -= bound;
        if (decoding(c))
            c->code -= bound;
        else
            add_low(c, bound);
    }
    while (c->range < 1u << 24) {
        c->range <<= 8;
        if (decoding(c))
            shift_in(c);
        else
            shift_out(c);
    }
    return bit;
}

/* One bit by a context that moves towards what it sees: by 1 / (n + 2) after n bits. */
static unsigned code_adaptive(coder *c, coder_context *context, unsigned bit) {
    uint32_t p = *context >> 10, n = *context & 1023, q = p >> 6;
    uint32_t rate = 65536 / (n + 2), step;
    bit = code_bit(c, q < 1 ? 1 : q, bit);
    step = (uint32_t)(((uint64_t)(bit ? 0x3FFFFF - p : p) * rate) >> 16);
    p += bit ? step : 0 - step;
    *context = p << 10 | (n < 1023 ? n + 1 : n);
    return bit;
}

CODER_PUBLIC uint32_t coder_uniform(coder *c, uint32_t value, unsigned bits) {
    uint32_t result = 0;
    while (bits--)
        result = result << 1 | code_bit(c, 1u << 15, value >> bits & 1);
    return result;
}

/* ---- integers ---- */

/* Whether it is the last one again; if not, the number of binary digits in unary, then the digits below the first. */
CODER_PUBLIC uint32_t coder_unsigned(coder *c, uint32_t value, unsigned kind) {
    coder_integer *known = &c->integers[kind];
    coder_context *context = known->contexts;
    unsigned length = 0;
    if (!code_adaptive(c, context, value == known->last)) {
        while (length < 32 && code_adaptive(c, ++context, value >> length != 0))
            length++;
        known->last = length < 2 ? length : 1u << (length - 1) | coder_uniform(c, value, length - 1);
    }
    return known->last;
}

CODER_PUBLIC int32_t coder_signed(coder *c, int32_t value, unsigned kind) {
    uint32_t u = coder_unsigned(c, value < 0 ? ~((uint32_t)value << 1) : (uint32_t)value << 1, kind);
    return u & 1 ? -(int32_t)(u >> 1) - 1 : (int32_t)(u >> 1);
}

/* An integer by its distance from a usual one. */
static uint32_t code_near(coder *c, uint32_t value, uint32_t usual, unsigned kind) {
    return (uint32_t)coder_signed(c, (int32_t)(value - usual), kind) + usual;
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

/* ---- levels ---- */

CODER_PUBLIC void coder_levels(coder *c, int32_t *values, uint32_t n, uint32_t count) {
    coder_context again = 0x66666400 | 1; /* two of five, as after one of them */
    uint32_t last = count;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t value = (uint32_t)values[i];
        if (!i || (count > 1 && !code_adaptive(c, &again, value == last))) {
            value = code_below(c, value - (value > last), count - (i > 0), CODER_LEVEL_DIGITS);
            last = value + (value >= last);
        }
        values[i] = (int32_t)last;
    }
}

/* ---- distributions of magnitudes ---- */

/*
 * Weights of the n magnitudes from `least` when their mean is about 2^(scale / 4), and their sum. If it is 0, 0 is one
 * value and every other magnitude stands for two; else it is 1.
 */
static uint32_t distribution(coder_workspace *w, uint32_t n, unsigned family, int scale, uint32_t least) {
    /* 2^(scale / 4) with 6 binary digits after the point */
    uint32_t mean = exp2_negative((uint32_t)(320 - 8 * scale)), sum = 0;
    for (uint32_t m = 0; m < n; m++) {
        uint32_t u = ((2 * m + least) << 12) / mean; /* in 1 / 128 of the mean */
        uint32_t x;
        if (u > 4095)
            u = 4095;
        if (family == 0) /* heavy tail: (1 + u / 2)^-3 */
            x = (log2_fixed(256 + u, 5) - 256) * 3;
        else if (family == 1) /* Laplace: exp(-u) */
            x = u * 46 >> 7;
        else if (family == 2) /* between */
            x = (u * 23 + u * u * 8 / 128) >> 7;
        else /* Gauss: exp(-u^2 / pi) */
            x = (u * u / 128 * 15) >> 7;
        w->weights[m] = (exp2_negative(x) >> (m + least == 0)) + 4;
        sum += w->weights[m];
    }
    return sum;
}

/* Contexts of a binary tree over n magnitudes, a power of two, that starts from their weights; those are used up. */
static void grow(coder_workspace *w, coder_context *nodes, uint32_t n, uint32_t trust) {
    for (n /= 2; n; n /= 2)
        for (uint32_t i = 0; i < n; i++) {
            uint32_t lower = w->weights[2 * i], upper = w->weights[2 * i + 1];
            nodes[n + i] = odds(upper, lower) << 16 | trust;
            w->weights[i] = lower + upper;
        }
}

/* Along a binary tree; `nodes` may start from a distribution. */
APART static uint32_t code_magnitude(coder *c, coder_context *nodes, uint32_t value, unsigned digits) {
    uint32_t node = 1, first = 1u << digits;
    while (digits--)
        node = node << 1 | code_adaptive(c, &nodes[node], value >> digits & 1);
    return node - first;
}

/* ---- vectors of integers ---- */

enum { BIN_DIGITS = 7, BINS = 1 << BIN_DIGITS, MAX_SHIFT = 25, USUAL_SCALE = 22 };

/* A vector lies on 2 * BINS bins of width 2^shift around its center; a bin has the probability of its number. */
typedef struct {
    uint32_t shift, family, scale;
    int32_t center; /* in units of an eighth to a quarter of the mean distance, at least one bin */
    int32_t middle; /* the center itself */
} grid;

static void code_grid(coder *c, grid *g) {
    g->shift = coder_unsigned(c, g->shift, GRID_SHIFT);
    g->family = coder_unsigned(c, g->family, GRID_FAMILY);
    if (g->shift) /* it is the least that holds all values, which tells about how wide they are */
        g->scale = code_near(c, g->scale, USUAL_SCALE, GRID_SCALE);
    else
        g->scale = coder_uniform(c, g->scale, 5);
    g->center = coder_signed(c, g->center, GRID_CENTER);
}

/* Binary digits of the unit of the center. */
static unsigned unit_digits(const grid *g) {
    return g->shift + (g->scale < 12 ? 0 : g->scale / 4 - 2);
}

/* The value so far from the middle; nonzero if it lies beyond the integers of 32 bits, that is, on the other side. */
static int place(const grid *g, uint32_t far, int below, int32_t *value) {
    *value = (int32_t)((uint32_t)g->middle + far);
    return (*value < g->middle) != below;
}

/* The values in any order: bin, then the place in the bin. */
static int code_vector(coder *c, coder_workspace *w, const grid *g, int32_t *values, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        int64_t wanted = decoding(c) ? 0 : (int64_t)values[i] - g->middle;
        unsigned negative = code_bit(c, 1u << 15, wanted < 0);
        uint32_t far = (uint32_t)(wanted < 0 ? ~wanted : wanted);
        uint32_t bin = code_magnitude(c, w->nodes[0], far >> g->shift, BIN_DIGITS);
        far = bin << g->shift | coder_uniform(c, far, g->shift);
        if (place(g, negative ? ~far : far, (int)negative, &values[i]))
            return 1;
    }
    return 0;
}

/*
 * The values in ascending order: walks along the bins, each cut into 2^cut parts, and asks in each part whether the
 * next value is there. With r values to come this is so with probability 1 - (S'/S)^r, where S and S' are the
 * probabilities that a value lies behind the begin and the end of the part: no bit is spent on an order.
 */
static int code_ascending(coder *c, const coder_workspace *w, const grid *g, uint32_t sum, int32_t *values, uint32_t n) {
    uint32_t behind = 2 * sum, fall = 0, cut = 0, i = 0, digits;
    /* parts so small that two values rarely share one; weights are below 2^17, n is at most CODER_MAX_LENGTH */
    for (uint32_t crowd = w->weights[0] * n; cut < g->shift && crowd > sum; crowd /= 2)
        cut++;
    digits = g->shift - cut;
    for (uint32_t part = 0; part < 2u * BINS << cut && i < n && !coder_overrun(c); part++) {
        int32_t bin = (int32_t)(part >> cut) - BINS, first = (int32_t)part - (int32_t)(BINS << cut);
        uint32_t from = 0;
        if (!(part & ((1u << cut) - 1))) {
            /* -log2(S'/S) of a bin in 1 / 2^16 */
            uint32_t after = behind - w->weights[bin < 0 ? ~bin : bin];
            fall = after ? log2_fixed(behind, 16) - log2_fixed(after, 16) : 32u << 16;
            behind = after;
        }
        while (i < n) {
            uint32_t rest = (1u << digits) - from;
            uint64_t x = ((((uint64_t)fall * (n - i)) >> cut) * rest) >> (digits + 11);
            uint32_t hit = 65536 - exp2_negative(x < 511 ? (uint32_t)x : 511); /* never 65536 */
            /* as seen from the begin of the part */
            int64_t wanted = (int64_t)values[i] - g->middle - (int64_t)first * ((int64_t)1 << digits);
            if (part + 1 < 2u * BINS << cut && !code_bit(c, hit, wanted < 1u << digits))
                break;
            from += code_below(c, (uint32_t)wanted - from, rest, digits);
            if (place(g, ((uint32_t)first << digits) + from, bin < 0, &values[i++]))
                return 1;
        }
    }
    return 0;
}

static int code_values(coder *c, coder_workspace *w, grid *g, int32_t *values, uint32_t n, int ascending) {
    uint32_t sum;
    code_grid(c, g);
    if (g->shift > MAX_SHIFT || g->family > 3 || g->scale > 31)
        return 1;
    g->middle = (int32_t)((uint32_t)g->center << unit_digits(g));
    if (g->middle >> unit_digits(g) != g->center)
        return 1;
    sum = distribution(w, BINS, g->family, (int)g->scale, 1);
    if (ascending)
        return code_ascending(c, w, g, sum, values, n);
    grow(w, w->nodes[0], BINS, 255);
    return code_vector(c, w, g, values, n);
}

#ifndef CODER_DECODE_ONLY
/* Finds the grid that holds all values, and the distribution that makes them small. */
static void search_grid(const coder *c, coder_workspace *w, int32_t *values, uint32_t n, int ascending, grid *best) {
    int64_t sum = 0, least = values[0], most = values[0];
    uint64_t cost = UINT64_MAX;
    uint32_t tried = ascending || n < 2048 ? n : 2048; /* so many tell enough */
    for (uint32_t i = 0; i < n; i++) {
        sum += values[i];
        least = values[i] < least ? values[i] : least;
        most = values[i] > most ? values[i] : most;
    }
    for (unsigned k = 0; k < 256; k++) {
        grid g = {0, k >> 5 & 3, k & 31, 0, 0};
        coder trial = *c;
        trial.output = NULL;
        for (;; g.shift++) {
            int64_t width = (int64_t)n << unit_digits(&g), reach = (int64_t)BINS << g.shift, middle;
            /* the mean, rounded down; or none, which takes fewer bits */
            g.center = k < 128 ? (int32_t)((sum - (sum < 0 ? width - 1 : 0)) / width) : 0;
            middle = g.center * ((int64_t)1 << unit_digits(&g));
            if (least >= middle - reach && most < middle + reach)
                break;
        }
        code_values(&trial, w, &g, values, tried, ascending);
        if (coded_bits(&trial) < cost) {
            cost = coded_bits(&trial);
            *best = g;
        }
    }
}

#endif

CODER_PUBLIC int coder_integers(coder *c, coder_workspace *w, int32_t *values, uint32_t n, int ascending) {
    grid g = {0, 0, 0, 0, 0};
#ifndef CODER_DECODE_ONLY
    if (!decoding(c))
        search_grid(c, w, values, n, ascending, &g);
#endif
    return code_values(c, w, &g, values, n, ascending);
}

/* ---- matrix ---- */

enum { SAMPLE = 1 << 17 }; /* weights that the search looks at */

/* Of a model: what codes zeros; then what changes the bits of positions, and of values. */
enum { MODE, ROW, COLUMN, NEAR, FAMILY, SCALE, TRUST, ROW_SCALE, COLUMN_SCALE, SIGNS };

/* No weight is zero; a flag before each weight; zero is one of the magnitudes. */
enum { DENSE, FLAGGED, MAGNITUDES };

/* NEAR: what corrects the odds of flags; from PATTERN on one of PATTERNS, of so many columns so many are not zero. */
enum { BY_NOTHING, NEARBY, PATTERN };
static const uint8_t PATTERNS[4][2] = {{8, 1}, {4, 1}, {2, 1}, {4, 2}};

static const uint8_t MOST[CODER_PARAMETERS] = {2, 3, 3, CODER_PATTERNS ? PATTERN + 3 : NEARBY, 3, 31, 3, 3, 3, 1};
static const uint8_t TRUSTED[4] = {1, 3, 12, 50}; /* bits that a prior probability counts for, by eights */

/* Weights that the mean of the matrix counts for: 0, 2, 8, 32. */
APART static uint32_t strength(uint32_t parameter) {
    return 1u << 2 * parameter >> 1;
}

/* Whether the stream has a parameter of this model. */
static int has(const coder_model *m, unsigned i, unsigned bits) {
    return i == MODE || i == SIGNS || (i <= NEAR ? m->parameters[MODE] == FLAGGED : bits > 2);
}

/*
 * Corrections of log odds: each context adds what its bits so far ask for, by damped Newton steps that start small, so
 * that contexts that say nothing cost next to nothing. One that has learned from its MEMORY (of p (1 - p), in 1 / 2^12)
 * starts to forget: density changes slowly, signs change fast. No offset gets large: once p is next to 0 or 1, steps in
 * that direction are rounded to none.
 */
enum { CAUTION = 6 << 12, FLAG_MEMORY = 64 << 12, SIGN_MEMORY = 2 << 12, STEP = 3200 };

/*
 * Contexts of corrections: the five flags before in the row, or the place in the group of a pattern and what is live
 * before in it; three flags of the row above; the three signs before in the row, and in the column; whether the weights
 * before and above are negative, zero or positive.
 */
enum { FLAG_ROW = 1, FLAG_ABOVE = 33, SIGN_ROW = 41, SIGN_COLUMN = 49, SIGN_NEAR = 61, CORRECTIONS = 66 };

/* Added to log odds in one context, in 1 / 2^16, and how much it has learned from. */
typedef struct {
    int32_t offset;
    uint32_t weight;
} correction;

/* A matrix on its way. */
typedef struct {
    coder *c;
    coder_workspace *w;
    coder_model model;
    uint32_t columns, row;
    uint32_t seen[2];      /* twice the zeros and nonzeros so far, from one half each */
    uint32_t mean, k[4];   /* in 1 / 16: mean magnitude, and what shrinks the statistics, for ROW .. COLUMN_SCALE */
    unsigned digits, least; /* of the magnitudes */

    /* The row so far. */
    coder_line line;
    coder_line *lines[2]; /* this one, and the column */
    uint32_t usual; /* nonzeros of a column so far, were all columns alike, in 1 / 16 */
    uint32_t step;  /* density per count, 2^32 / 16 */
    uint64_t share; /* sum over the columns so far of the factor by which they are dense */
    int left;       /* the code before */

    correction corrections[CORRECTIONS];
} pass;

/* Adds the bits of what values need to `values`, unless NULL. */
static int code_model(pass *s, unsigned bits, uint64_t *values) {
    uint8_t *p = s->model.parameters;
    uint64_t before = 0;
    for (unsigned i = 0; i < CODER_PARAMETERS; i++) {
        if (i == FAMILY && values && !decoding(s->c))
            before = coded_bits(s->c);
        if (has(&s->model, i, bits)) {
            uint32_t value = p[i], usual = 4 * bits - (p[MODE] == MAGNITUDES ? 4 : 12);
            value = i == SCALE ? code_near(s->c, value, usual, MODEL + i) : coder_unsigned(s->c, value, MODEL + i);
            if (value > MOST[i])
                return 1;
            p[i] = (uint8_t)value;
        }
    }
    if (values && !decoding(s->c))
        *values += coded_bits(s->c) - before;
    return 0;
}

APART static void start_matrix(pass *s, unsigned bits) {
    coder_workspace *w = s->w;
    const uint8_t *p = s->model.parameters;
    uint32_t n = 1u << (bits - 1);
    int scale = p[MODE] == MAGNITUDES ? p[SCALE] - 8 : p[SCALE]; /* it is smaller where zeros count */
    memset(w->columns, 0, (s->columns + 2) * sizeof *w->columns);
    s->seen[0] = s->seen[1] = 1;
    s->least = p[MODE] != MAGNITUDES;
    s->digits = bits - 1;
    s->mean = exp2_negative((uint32_t)(320 - 8 * scale)) >> 2;
    for (int i = 0; i < CODER_CLASSES; i++) {
        if (i != CODER_CLASSES / 2 && !p[ROW_SCALE] && !p[COLUMN_SCALE])
            continue;
        distribution(w, n, p[FAMILY], scale + 2 * (i - CODER_CLASSES / 2), s->least);
        if (s->least)
            w->weights[n - 1] = 0; /* no code is -2^(bits - 1) */
        grow(w, w->nodes[i], n, 8u * TRUSTED[p[TRUST]]);
    }
    for (unsigned i = 0; i < 2; i++) {
        s->k[i] = 16u * strength(p[ROW + i]);
        s->k[2 + i] = s->mean * strength(p[ROW_SCALE + i]);
    }
}

static void start_row(pass *s) {
    uint32_t density = odds(s->seen[1], s->seen[0]);
    memset(&s->line, 0, sizeof s->line);
    s->lines[0] = &s->line;
    s->usual = (density * s->row) >> 12;
    s->step = (density << 16) / (s->usual + s->k[1] + 1);
    s->share = 0;
    s->left = 0;
}

/* 2^16 times the probability that the next weight is not zero, by the counts so far. */
APART static uint32_t density(pass *s) {
    const uint8_t *p = s->model.parameters;
    uint64_t a = s->seen[1], b = s->seen[0];
    uint32_t factor = s->usual + s->k[1] + 1;
    if (p[COLUMN]) {
        factor = 16u * s->lines[1]->count + s->k[1];
        a *= factor;
        b *= s->usual + s->k[1];
    }
    if (p[ROW] && s->row) {
        uint64_t e = (s->share * s->step) >> 28;
        a *= 16u * s->line.count + s->k[0];
        b *= (e < 1u << 20 ? (uint32_t)e : 1u << 20) + s->k[0];
    }
    s->share += factor;
    return odds(a, b);
}

static unsigned remembered(pass *s, unsigned kind, unsigned bit) {
    for (unsigned i = 0; i < 2; i++) {
        uint8_t *events = &s->lines[i]->events[kind];
        *events = (uint8_t)(2u * *events | bit);
    }
    return bit;
}

/*
 * A flag (kind 0) or a sign (1), which its row and its column remember. Up to three contexts, a byte each, correct p;
 * 0 for none.
 */
static unsigned code_event(pass *s, unsigned kind, uint32_t p, uint32_t contexts, unsigned bit) {
    int32_t x = 0;
    uint32_t weight, error;
    for (uint32_t k = contexts; k; k >>= 8)
        x += s->corrections[k & 255].offset;
    if (contexts)
        p = squash(stretch(p) + x);
    bit = code_bit(s->c, p, bit);
    error = bit ? 65536 - p : p;
    weight = (p >> 2) * ((65536 - p) >> 2) >> 16;
    for (uint32_t k = contexts; k; k >>= 8) {
        correction *one = &s->corrections[k & 255];
        int32_t step;
        if (one->weight < (kind ? SIGN_MEMORY : FLAG_MEMORY))
            one->weight += weight;
        step = (int32_t)(error * STEP / (CAUTION + one->weight));
        one->offset += bit ? step : -step;
    }
    return remembered(s, kind, bit);
}

static unsigned code_flag(pass *s, unsigned nonzero) {
    const coder_line *column = s->lines[1];
    uint32_t p = density(s), contexts = 0;
    if (CODER_PATTERNS && s->model.parameters[NEAR] >= PATTERN) {
        const uint8_t *pattern = PATTERNS[s->model.parameters[NEAR] - PATTERN];
        const uint32_t place = (uint32_t)(column - s->w->columns - 1) & (pattern[0] - 1u);
        uint32_t left = pattern[1];
        for (unsigned before = s->line.events[0] & ((1u << place) - 1); before; before &= before - 1)
            left--;
        if (!left)
            return remembered(s, 0, 0);
        p = (left << 16) / (pattern[0] - place);
        p = p < 65280 ? p : 65280; /* zero it may be nevertheless */
        contexts = FLAG_ROW + 2 * place + left - 1;
    } else if (s->model.parameters[NEAR]) {
        unsigned above = (column[-1].events[0] & 2u) << 1 | (column->events[0] & 1u) << 1 | (column[1].events[0] & 1u);
        contexts = (FLAG_ROW + (s->line.events[0] & 31u)) | (FLAG_ABOVE + above) << 8;
    }
    nonzero = code_event(s, 0, p, contexts, nonzero);
    s->seen[nonzero] += 2;
    if (s->seen[0] + s->seen[1] > 1u << 21) {
        s->seen[0] = (s->seen[0] + 1) / 2;
        s->seen[1] = (s->seen[1] + 1) / 2;
    }
    return nonzero;
}

/* -1, 0 or 1 */
APART static int sign_of(int code) {
    return (code > 0) - (code < 0);
}

static unsigned code_sign(pass *s, int above, unsigned sign) {
    uint32_t contexts = 0;
    if (s->model.parameters[SIGNS])
        contexts = (SIGN_ROW + (s->line.events[1] & 7u)) | (SIGN_COLUMN + (s->lines[1]->events[1] & 7u)) << 8 |
                   (uint32_t)(SIGN_NEAR + 3 * sign_of(s->left) + sign_of(above)) << 16;
    return code_event(s, 1, 1u << 15, contexts, sign);
}

/* One more magnitude on a line; what is far back counts less. */
APART static void count(coder_line *line, unsigned memory, uint32_t value, uint32_t expected) {
    uint32_t sum = line->sum;
    line->count++;
    line->sum = (uint16_t)(sum + 16 * value - (sum >> memory));
    line->expected += expected - (line->expected >> memory);
}

/* The magnitude, by the scale that its row and column lead to expect. */
static uint32_t code_value(pass *s, uint32_t value) {
    const uint8_t *scaled = &s->model.parameters[ROW_SCALE];
    uint32_t class = CODER_CLASSES / 2, expected[2];
    uint64_t a = 1, b = 1;
    for (unsigned i = 0; i < 2; i++) {
        expected[i] = s->mean;
        if (scaled[i]) {
            /* below 2^18 and 2^21, and the mean below 2^12 */
            uint32_t sum = s->lines[i]->sum + s->k[2 + i], usual = s->lines[i]->expected + s->k[2 + i];
            a *= sum;
            b *= usual;
            expected[i] = s->mean * sum / usual;
            if (expected[i] > 32768)
                expected[i] = 32768;
        }
    }
    if (scaled[0] || scaled[1]) {
        int x = (int)log2_fixed(a, 3) - (int)log2_fixed(b, 3);
        x = (x + 2 + 4 * (CODER_CLASSES / 2)) >> 2;
        class = x < 0 ? 0 : x >= CODER_CLASSES ? CODER_CLASSES - 1 : (uint32_t)x;
    }
    value = code_magnitude(s->c, s->w->nodes[class], value - s->least, s->digits);
    value += s->least;
    count(s->lines[0], 5, value, expected[1]);
    count(s->lines[1], 4, value, expected[0]);
    return value;
}

/* One weight, below `above`; nonzero if it cannot be. Adds the bits that its value takes to `cost`, unless NULL. */
APART static int code_weight(pass *s, int8_t *code, int above, coder_cost *cost) {
    uint32_t value = (uint32_t)(*code < 0 ? -*code : *code);
    unsigned negative = 0;
    if (s->model.parameters[MODE] != FLAGGED || code_flag(s, value != 0)) {
        uint64_t before = cost ? coded_bits(s->c) : 0;
        value = code_value(s, value);
        if (value >> s->digits)
            return 1;
        if (value)
            negative = code_sign(s, above, *code < 0);
        if (cost)
            cost->values += coded_bits(s->c) - before;
    } else
        value = 0;
    *code = (int8_t)(negative ? -(int)value : (int)value);
    s->left = *code;
    return 0;
}

/* Codes the first of every `every` rows. */
static int code_rows(coder *c, coder_workspace *w, int8_t *codes, uint32_t rows, uint32_t columns, uint32_t every,
                     unsigned bits, const coder_model *m, coder_cost *cost) {
    pass s = {0};
    uint64_t before = cost ? coded_bits(c) : 0;
    if (cost)
        cost->values = 0;
    s.c = c;
    s.w = w;
    s.columns = columns;
    if (!decoding(c))
        s.model = *m;
    if (code_model(&s, bits, cost ? &cost->values : NULL))
        return 1;
    start_matrix(&s, bits);
    for (uint32_t i = 0; i < rows && !coder_overrun(c); i += every, s.row++) {
        int8_t *row = codes + (size_t)i * columns;
        start_row(&s);
        for (uint32_t j = 0; j < columns; j++) {
            s.lines[1] = &w->columns[j + 1];
            if (code_weight(&s, &row[j], i ? codes[(size_t)(i - every) * columns + j] : 0, cost))
                return 1;
        }
    }
    if (cost)
        cost->positions = coded_bits(c) - before - cost->values;
    return 0;
}

CODER_PUBLIC int coder_matrix(coder *c, coder_workspace *w, int8_t *codes, uint32_t rows, uint32_t columns, unsigned bits,
                 const coder_model *m, coder_cost *cost) {
    return code_rows(c, w, codes, rows, columns, 1, bits, m, decoding(c) ? NULL : cost);
}

#ifndef CODER_DECODE_ONLY
/* ---- encoder ---- */

void coder_encode_start(coder *c, uint8_t *output, size_t size) {
    start(c);
    c->input = NULL;
    c->output = output;
    c->size = size;
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
    return coded_bits(c);
}

/* What a search looks at, and what it has found. */
typedef struct {
    const coder *c;
    coder_workspace *w;
    int8_t *codes;
    uint32_t rows, columns, every;
    unsigned bits;
    coder_model best;
    coder_cost least;
} search;

/* Keeps `m` in place of the best where it makes the positions, or the values, smaller. */
static void try_model(search *s, coder_model m) {
    coder trial = *s->c;
    coder_cost cost = {0, 0};
    trial.output = NULL;
    code_rows(&trial, s->w, s->codes, s->rows, s->columns, s->every, s->bits, &m, &cost);
    for (unsigned i = 0; i < CODER_PARAMETERS; i++)
        if (i < FAMILY ? cost.positions < s->least.positions : cost.values < s->least.values)
            s->best.parameters[i] = m.parameters[i];
    if (cost.positions < s->least.positions)
        s->least.positions = cost.positions;
    if (cost.values < s->least.values)
        s->least.values = cost.values;
}

/* One parameter after the other, twice, each up to 3 steps from its best value so far. */
static void search_mode(search *s, coder_model m) {
    s->best = m;
    s->least.positions = s->least.values = UINT64_MAX;
    try_model(s, m);
    for (unsigned n = 0; n < 2 * CODER_PARAMETERS; n++) {
        unsigned i = n % CODER_PARAMETERS;
        int center = s->best.parameters[i], most = i == NEAR ? NEARBY : MOST[i];
        if (i == MODE || !has(&m, i, s->bits) || (i == NEAR && center > most))
            continue;
        for (int x = center - 3; x <= center + 3; x++)
            if (x != center && x >= 0 && x <= most) {
                m = s->best;
                m.parameters[i] = (uint8_t)x;
                try_model(s, m);
            }
    }
}

/* Four times the binary logarithm of a / b >= 1, 0 for 0 / 0, as far as it can be told. */
static uint8_t search_scale(uint64_t a, uint64_t b) {
    uint32_t scale = b ? log2_fixed(a, 2) - log2_fixed(b, 2) : 0;
    return (uint8_t)(scale < MOST[SCALE] ? scale : MOST[SCALE]);
}

/* The parameter NEAR of the first pattern that holds everywhere and of which weights seldom are less; else 0. */
static uint8_t pattern_of(const int8_t *codes, uint32_t rows, uint32_t columns, uint32_t count) {
    for (unsigned n = 0; n < 4; n++) {
        const uint32_t size = PATTERNS[n][0], most = PATTERNS[n][1], groups = rows * ((columns + size - 1) / size);
        uint32_t i = 0, live = 0;
        for (; i < rows * columns && live <= most; i++) {
            live = i % columns % size ? live : 0;
            live += codes[i] != 0;
        }
        /* Fewer look like it by chance. */
        if (live <= most && groups >= 64 && 5 * (uint64_t)count >= 3 * (uint64_t)most * groups)
            return (uint8_t)(PATTERN + n);
    }
    return 0;
}

void coder_matrix_search(const coder *c, coder_workspace *w, int8_t *codes, uint32_t rows, uint32_t columns,
                         unsigned bits, int alone, coder_model *best) {
    uint32_t size = rows * columns, count = 0;
    uint64_t sum = 0, cost;
    coder_model m = {{FLAGGED, 1, 1, 0, 3, 0, 1, 0, 0, 0}};
    search s = {c, w, codes, rows, columns, 1, bits, m, {0, 0}};
    /* A large matrix tells enough by some of its rows. */
    s.every = size / SAMPLE + 1 < rows / 16 ? size / SAMPLE + 1 : rows / 16 + 1;
    for (uint32_t i = 0; i < size; i++) {
        count += codes[i] != 0;
        sum += (uint64_t)(codes[i] < 0 ? -codes[i] : codes[i]);
    }
    m.parameters[MODE] = count < size ? FLAGGED : DENSE;
    m.parameters[NEAR] = count < size ? pattern_of(codes, rows, columns, count) : 0;
    m.parameters[SCALE] = search_scale(sum, count);
    search_mode(&s, m);
    *best = s.best;
    if (count == size || bits == 2 || count <= size / 4)
        return;
    cost = s.least.positions + s.least.values;
    m.parameters[MODE] = MAGNITUDES;
    m.parameters[NEAR] = 0;
    m.parameters[SCALE] = search_scale(4 * sum, size);
    search_mode(&s, m);
    if (s.least.positions + s.least.values < cost) {
        cost = s.least.positions + s.least.values;
        *best = s.best;
    }
    if (!alone)
        return;
    m.parameters[SCALE] = (uint8_t)(4 * bits - 4); /* what takes next to no bits to tell */
    search_mode(&s, m);
    if (s.least.positions + s.least.values < cost)
        *best = s.best;
}
#endif
