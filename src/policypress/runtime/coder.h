/* The entropy coder of policypress: see coder.c for the format. C99, integers only, no allocation. */
#ifndef POLICYPRESS_CODER_H
#define POLICYPRESS_CODER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CODER_CONTEXTS 19      /* classes of `unsigned` and `signed` integers that adapt apart */
#define CODER_KINDS 33         /* with those that vectors and matrices keep to themselves */
#define CODER_MAX_SIDE 65535   /* rows and columns of a matrix */
#define CODER_MAX_LENGTH 32768 /* of a vector */
#define CODER_LEVEL_DIGITS 3
#define CODER_PARAMETERS 10
#define CODER_CLASSES 9 /* scales of a magnitude, relative to the matrix */

/* Whether matrices may have patterns N:M; 0 leaves out 0.1 kB of a decoder's code. */
#ifndef CODER_PATTERNS
#define CODER_PATTERNS 1
#endif

/* A decoder is part of payload.c. */
#ifdef CODER_DECODE_ONLY
#define CODER_PUBLIC static
#else
#define CODER_PUBLIC
#endif

typedef uint32_t coder_context; /* probability of a one (22 bits), then the number of bits seen (10 bits) */

/* What is known of a class of integers: the last one; how often it comes again, and the lengths of the others. */
typedef struct {
    uint32_t last;
    coder_context contexts[34];
} coder_integer;

typedef struct {
    uint32_t low, range, code;
    size_t position, size; /* position may pass size: the decoder reads zeros there, the encoder writes nothing */
    const uint8_t *input;  /* NULL when encoding */
    uint8_t *output;       /* NULL when decoding, or when only the cost is asked for */
    coder_integer integers[CODER_KINDS];
} coder;

/* How a matrix is modelled; part of the stream. The indices are in coder.c. */
typedef struct {
    uint8_t parameters[CODER_PARAMETERS];
} coder_model;

/* A row or a column so far: nonzeros, their magnitudes and what was expected of them, newer ones more. */
typedef struct {
    uint16_t count, sum;
    uint32_t expected;
    uint8_t events[2]; /* the last flags, the last signs */
} coder_line;

/* Scratch memory of one call; columns holds one more element than the matrix has columns on either side. */
typedef struct {
    coder_line *columns;
    uint32_t weights[128]; /* of magnitudes, or of the bins of a grid */
    coder_context nodes[CODER_CLASSES][128];
} coder_workspace;

/* Bits of a matrix in 1/256 bit, those of its model included. */
typedef struct {
    uint64_t positions, values;
} coder_cost;

CODER_PUBLIC void coder_decode_start(coder *c, const uint8_t *input, size_t size);
/* 0: all bytes are read; otherwise the stream is longer, or it ended too early, which coder_overrun tells. */
CODER_PUBLIC int coder_decode_finish(const coder *c);
/* Nonzero once the decoder has read past the end what no encoder leaves out. */
CODER_PUBLIC int coder_overrun(const coder *c);

/* Each of these encodes its arguments, or decodes over them. */
/* A number of `bits` bits, all values equally likely. */
CODER_PUBLIC uint32_t coder_uniform(coder *c, uint32_t value, unsigned bits);
CODER_PUBLIC uint32_t coder_unsigned(coder *c, uint32_t value, unsigned context);
CODER_PUBLIC int32_t coder_signed(coder *c, int32_t value, unsigned context);
/* Numbers from 0 to count - 1, for a count of 1 to 2^CODER_LEVEL_DIGITS. */
CODER_PUBLIC void coder_levels(coder *c, int32_t *values, uint32_t n, uint32_t count);
/* Nonzero: the input is not valid; whether it ended too early, coder_overrun tells. A decoder ignores `model` and `cost`: they may be NULL. */
CODER_PUBLIC int coder_integers(coder *c, coder_workspace *w, int32_t *values, uint32_t n, int ascending);
/* Of the next matrix the model is probably one of the usual of a small matrix, the only one of its stream. */
CODER_PUBLIC void coder_alone(coder *c);
CODER_PUBLIC int coder_matrix(coder *c, coder_workspace *w, int8_t *codes, uint32_t rows, uint32_t columns, unsigned bits,
                 const coder_model *model, coder_cost *cost);

#ifndef CODER_DECODE_ONLY
/* The encoder. */
void coder_encode_start(coder *c, uint8_t *output, size_t size);
/* The length of the stream; the encoder writes up to 4 bytes more, larger than `size` if they did not fit. */
size_t coder_encode_finish(coder *c);
/* What is written so far, in 1/256 bit: bytes and the logarithm of the range. */
uint64_t coder_bits(const coder *c);
/* The encoder's search for the model that makes a matrix small; `alone`: after coder_alone. */
void coder_matrix_search(const coder *c, coder_workspace *w, int8_t *codes, uint32_t rows, uint32_t columns,
                         unsigned bits, int alone, coder_model *best);
#endif

#ifdef __cplusplus
}
#endif
#endif
