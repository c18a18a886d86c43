/*
 * Decodes the payload of an integer policy (docs/file-format.md) into arrays of the caller: C99, no allocation, nothing
 * of the C library but memset. Compile payload.c alone: it includes what it needs of coder.c.
 */
#ifndef POLICYPRESS_PAYLOAD_H
#define POLICYPRESS_PAYLOAD_H

#include "coder.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Linkage: an export holds the decoder in the file that calls it. */
#ifndef PAYLOAD_API
#define PAYLOAD_API
#endif

/* Whether payloads may have the short forms of inputs and linear policies; 0 leaves out 0.5 kB of code. */
#ifndef PAYLOAD_SHORT
#define PAYLOAD_SHORT 1
#endif

/* Whether they may be of policies that remember; 0 leaves out 0.3 kB of code. */
#ifndef PAYLOAD_RECURRENT
#define PAYLOAD_RECURRENT 1
#endif

/*
 * One array of a payload. Who decodes a payload knows its structure, and lists its arrays in the order of the stream:
 * the inverse scales of the input; of every layer its scale (if stored), multipliers and shifts (if requantized), bias
 * and weights; of a residual block the skip's multipliers and shifts, the branch's multipliers and shifts, its layers.
 */
typedef struct {
    void *values;     /* int8_t[rows * columns] of weights, int32_t[rows] of others; of scales the bits of float32 */
    uint32_t rows;    /* outputs of weights, at most CODER_MAX_SIDE; of others how many, at most CODER_MAX_LENGTH */
    uint32_t columns; /* weights of an output, at most CODER_MAX_SIDE; 0 if these are no weights */
} payload_array;

/* Needed while decoding only. The caller sets w.columns, to two lines more than any weights have columns. */
typedef struct {
    const payload_array *next, *end;
    uint32_t structure;
    int failed;
    coder c;
    coder_workspace w;
} payload_memory;

/*
 * Decodes `size` bytes into all arrays; 0 if they are a payload of these arrays and of this structure.
 *
 * `structure` is what `payload_structure` (policypress/policy/payload.py) tells of the payload: one number for all that
 * is in none of the arrays (kinds, sizes, limits, strides, ...). Nothing is written outside of the arrays whatever the
 * bytes are; if the result is not 0, the arrays hold nothing of use. Bytes that were damaged on their way may well be
 * another payload of the same structure: where that can happen, send a checksum.
 */
PAYLOAD_API int payload_decode(const uint8_t *data, size_t size, const payload_array *arrays, size_t count,
                               uint32_t structure, payload_memory *memory);

#ifdef __cplusplus
}
#endif
#endif
