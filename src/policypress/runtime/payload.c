/* Reads a payload as policypress/policy/payload.py writes it; docs/file-format.md describes it. */

/* The decoder is part of this unit, which makes both smaller. */
#define CODER_DECODE_ONLY
#include "coder.c"

#include "payload.h"

/* Classes of integers, as in policypress/policy/codec.py; those up to FORM are the structure. */
enum { COUNT, INPUT_BITS, INPUT_LIMITS, LIMITS, SIZE, INPUTS, KIND, FLAGS, BITS, GEOMETRY, FORM, MULTIPLIER, SHIFT };
enum { INTEGERS = 13, FLOATS = 15, CONSTANT = 17, EXPONENT = 18 };

/* Kinds of operations. */
enum { LINEAR, CONV, RELU, FLATTEN, MAX_POOL, RESIDUAL, TANH, ACTIVATION, HISTORY, GRU, LSTM };

/* Short forms: of an input, and in the place of its bits where it has zero points, too. */
enum { SHORT = 1, SHORT_ZERO_POINTS = 15, LEAST_POWER = -8 };

enum { MOST_OPERATIONS = 1024, MOST_PARAMETERS = 7, OTHER_LIMITS = 2, ZERO_POINTS = 32, USUAL_EXPONENT = 115, USUAL_FLOAT = 0x42000000 };

typedef payload_memory reader;

/* What tells of the structure. */
static uint32_t told(reader *r, uint32_t value) {
    r->structure = (r->structure ^ value) * 16777619u; /* FNV-1a by words */
    return value;
}

static uint32_t tell(reader *r, unsigned context) {
    return told(r, coder_unsigned(&r->c, 0, context));
}

static uint32_t uniform(reader *r, unsigned bits) {
    return coder_uniform(&r->c, 0, bits);
}

/* `n` sizes; the product of the first two: of a window (kernel, stride and padding, vertical first) the area. */
static uint32_t tell_sizes(reader *r, unsigned n) {
    uint32_t area = 1;
    for (unsigned i = 0; i < n; i++) {
        uint32_t value = tell(r, GEOMETRY);
        if (i < 2)
            area *= value;
    }
    return area;
}

/* A function: its number, its parameters unless they are the usual ones, and what its table gives and takes. */
static void tell_activation(reader *r) {
    tell_sizes(r, 1);
    tell_sizes(r, 2 * (tell(r, FORM) & MOST_PARAMETERS));
    tell(r, BITS);
    tell_sizes(r, 3);
}

static void limits(reader *r, unsigned context) {
    if (tell(r, context) == OTHER_LIMITS)
        tell_sizes(r, 2);
}

/* The next array, if it has this shape. */
static void *array(reader *r, uint32_t rows, uint32_t columns) {
    const payload_array *a = r->next;
    if (a == r->end || a->rows != rows || a->columns != columns) {
        r->failed = 1;
        return NULL;
    }
    r->next++;
    return a->values;
}

static void integers(reader *r, uint32_t n, unsigned context) {
    int32_t *values = array(r, n, 0), constant = 0;
    uint32_t zeros = coder_unsigned(&r->c, 0, context), order = coder_unsigned(&r->c, 0, context + 1);
    if (!order)
        constant = coder_signed(&r->c, 0, CONSTANT);
    else
        r->failed = r->failed || coder_integers(&r->c, &r->w, values, n, order == 2);
    for (uint32_t i = 0; i < n && !r->failed; i++) {
        uint32_t value = (uint32_t)(order ? values[i] : constant) << (zeros & 31);
        values[i] = (int32_t)(context == FLOATS ? value + USUAL_FLOAT : value);
    }
}

/* Multipliers, shifts or scales: one number, or one for each output. */
static void numbers(reader *r, uint32_t outputs, unsigned context) {
    uint32_t form = tell(r, FORM), number = 1, digits, zeros = 0;
    int32_t *values;
    if (form >= 1u + (context == EXPONENT)) {
        integers(r, outputs, context == EXPONENT ? FLOATS : INTEGERS);
        return;
    }
    values = array(r, 1, 0);
    if (context == EXPONENT) {
        number = (uint32_t)coder_signed(&r->c, 0, context) + USUAL_EXPONENT;
        zeros = form ? 0 : 16;
        digits = 23 - zeros;
    } else
        digits = (coder_unsigned(&r->c, 0, context) - 1) & 7;
    number = (number << digits | coder_uniform(&r->c, 0, digits)) << zeros;
    if (values && !r->failed)
        *values = (int32_t)number;
}

/* Inverse scales that are powers of two: the bits of float32. */
static void powers(reader *r, uint32_t n) {
    int32_t *values = array(r, n, 0), least = (int32_t)uniform(r, 5) + LEAST_POWER + 127;
    if (r->failed)
        return;
    coder_levels(&r->c, values, n, uniform(r, CODER_LEVEL_DIGITS) + 1);
    for (uint32_t i = 0; i < n; i++)
        values[i] = (values[i] + least) << 23;
}

APART static void matrix(reader *r, uint32_t outputs, uint32_t inputs, uint32_t bits) {
    int8_t *weights = array(r, outputs, inputs);
    if (!r->failed)
        r->failed = bits < 2 || bits > 8 || coder_matrix(&r->c, &r->w, weights, outputs, inputs, bits, NULL, NULL);
}

/* A policy of one layer in its short form. */
static void read_linear(reader *r, uint32_t inputs) {
    uint32_t bits = told(r, uniform(r, 3)) + 2, outputs = tell(r, SIZE), shift, width;
    int32_t *scale = array(r, 1, 0), *bias = array(r, outputs, 0);
    if (r->failed)
        return;
    *scale = (127 - (int32_t)uniform(r, 5)) << 23;
    shift = uniform(r, 5);
    width = uniform(r, 4);
    for (uint32_t i = 0; i < outputs; i++)
        bias[i] = (int32_t)((uniform(r, width) - (1u << width >> 1)) << shift);
    coder_alone(&r->c);
    matrix(r, outputs, inputs, bits);
}

static void read_layer(reader *r, int conv, uint32_t *width) {
    uint32_t flags = tell(r, FLAGS), bits = tell(r, BITS), outputs = tell(r, SIZE), inputs = tell(r, INPUTS);
    if (!inputs)
        inputs = *width;
    *width = outputs;
    if (conv)
        inputs *= tell_sizes(r, 6);
    if (flags & 4)
        numbers(r, outputs, EXPONENT);
    if (flags & 2) {
        limits(r, LIMITS);
        numbers(r, outputs, MULTIPLIER);
        numbers(r, outputs, SHIFT);
    }
    integers(r, outputs, INTEGERS);
    matrix(r, outputs, inputs, bits);
}

/* A recurrent cell: bits of its state, a sigmoid and a tanh, ratios, and two layers of `gates` outputs a unit. */
static void read_cell(reader *r, uint32_t gates, uint32_t states, uint32_t ratios, uint32_t *width) {
    while (states--)
        tell(r, BITS);
    for (unsigned i = 0; i < 2; i++) {
        uint32_t kind = tell(r, KIND);
        if (kind == TANH)
            tell(r, BITS);
        else if (kind == ACTIVATION)
            tell_activation(r);
        else
            r->failed = 1;
    }
    while (ratios--) {
        told(r, uniform(r, 8));
        told(r, uniform(r, 5));
    }
    for (unsigned i = 0; i < 2; i++) {
        r->failed |= tell(r, KIND) != LINEAR;
        read_layer(r, 0, width);
        *width /= gates;
    }
}

PAYLOAD_API int payload_decode(const uint8_t *data, size_t size, const payload_array *arrays, size_t count,
                               uint32_t structure, payload_memory *r) {
    uint32_t bits, width, left = 0;
    int is_short;
    r->next = arrays;
    r->end = arrays + count;
    r->structure = 0;
    r->failed = 0;
    coder_decode_start(&r->c, data, size);
    bits = tell(r, INPUT_BITS);
    is_short = PAYLOAD_SHORT && bits == SHORT;
    if (is_short && told(r, uniform(r, 4)) == SHORT_ZERO_POINTS)
        bits = ZERO_POINTS + told(r, uniform(r, 4));
    limits(r, INPUT_LIMITS);
    width = tell(r, SIZE);
    if (is_short)
        powers(r, width);
    else
        integers(r, width, FLOATS);
    if (bits >= ZERO_POINTS)
        integers(r, width, INTEGERS);
    if (is_short && told(r, uniform(r, 1)))
        read_linear(r, width);
    else
        left = tell(r, COUNT);
    for (; left && !r->failed; left--) {
        uint32_t kind = tell(r, KIND);
        r->failed |= left > MOST_OPERATIONS;
        if (kind <= CONV)
            read_layer(r, kind == CONV, &width);
        if (kind == TANH)
            tell(r, BITS);
        if (kind == ACTIVATION)
            tell_activation(r);
        if (kind == MAX_POOL)
            tell_sizes(r, 6);
        if (PAYLOAD_RECURRENT && kind == HISTORY)
            tell_sizes(r, 1);
        if (PAYLOAD_RECURRENT && kind == GRU)
            read_cell(r, 3, 1, 5, &width);
        if (PAYLOAD_RECURRENT && kind == LSTM)
            read_cell(r, 4, 2, 6, &width);
        if (kind == RESIDUAL) {
            limits(r, LIMITS);
            for (unsigned i = 0; i < 4; i++)
                integers(r, tell(r, SIZE), INTEGERS);
            left += tell(r, COUNT); /* the body follows */
        }
    }
    return r->failed | (r->next != r->end) | (r->structure != structure) | coder_decode_finish(&r->c);
}
