/* The entropy coder of policypress: see coder.c for the format. C99, integers only, no allocation. */
#ifndef POLICYPRESS_CODER_H
#define POLICYPRESS_CODER_H

#include <stddef.h>
#include <stdint.h>

#define CODER_CONTEXTS 8     /* classes of `unsigned` and `signed` integers that adapt apart */
#define CODER_MAX_SIDE 65535 /* rows and columns of a matrix, length of a vector */
#define CODER_PARAMETERS 7
#define CODER_CLASSES 9      /* scales of a magnitude, relative to the matrix */

typedef uint32_t coder_context; /* probability of a one (22 bits), then the number of bits seen (10 bits) */

typedef struct {
    uint32_t low, range, code;
    size_t position, size; /* position may pass size: the decoder reads zeros there, the encoder writes nothing */
    const uint8_t *input;  /* NULL when encoding */
    uint8_t *output;       /* NULL when decoding, or when only the cost is asked for */
    coder_context lengths[CODER_CONTEXTS][33];
} coder;

/*
 * How a matrix is modelled; part of the stream.
 * row, column: how freely their densities may differ from the matrix's (0: not at all, 3: a little);
 * family, scale: shape of the distribution of magnitudes, and its mean, 2^(scale / 4);
 * trust: how slowly the distribution adapts;
 * row_scale, column_scale: how freely their mean magnitudes may differ, as row and column.
 */
typedef struct {
    uint8_t zeros; /* 0: no weight is zero, and the first two parameters are not in the stream */
    uint8_t parameters[CODER_PARAMETERS];
} coder_model;

typedef struct {
    uint32_t count, sum, expected;
} coder_column;

/* Scratch memory of one call; columns holds as many elements as the matrix has columns. */
typedef struct {
    coder_column *columns;
    coder_context nodes[CODER_CLASSES][128];
} coder_workspace;

/* Bits of a matrix in 1/256 bit. */
typedef struct {
    uint64_t model, positions, values;
} coder_cost;

void coder_encode_start(coder *c, uint8_t *output, size_t size);
void coder_decode_start(coder *c, const uint8_t *input, size_t size);

/* The length of the stream; the encoder writes up to 4 bytes more, larger than `size` if they did not fit. */
size_t coder_encode_finish(coder *c);
/* 0: all bytes are read; 1: the stream is longer; -1: it ended too early. */
int coder_decode_finish(const coder *c);
/* Nonzero once the decoder has read past the end what no encoder leaves out. */
int coder_overrun(const coder *c);
/* What is written so far, in 1/256 bit: bytes and the logarithm of the range. */
uint64_t coder_bits(const coder *c);

/* Each of these encodes its arguments, or decodes over them. */
/* A number of `bits` bits, all values equally likely. */
uint32_t coder_uniform(coder *c, uint32_t value, unsigned bits);
uint32_t coder_unsigned(coder *c, uint32_t value, unsigned context);
int32_t coder_signed(coder *c, int32_t value, unsigned context);
/* Nonzero: the input is not valid. */
int coder_integers(coder *c, coder_workspace *w, int32_t *values, uint32_t n, int ascending);
int coder_matrix(coder *c, coder_workspace *w, int8_t *codes, uint32_t rows, uint32_t columns, unsigned bits,
                 coder_model *model, coder_cost *cost);

/* The encoder's search for the model that makes a matrix small. */
void coder_matrix_search(coder_workspace *w, int8_t *codes, uint32_t rows, uint32_t columns, unsigned bits,
                         coder_model *best);
#endif
