/* Decodes the payload of an integer policy (docs/file-format.md) into arrays of the caller. C99, no allocation. */
#ifndef POLICYPRESS_PAYLOAD_H
#define POLICYPRESS_PAYLOAD_H

#include "coder.h"

/*
 * One array of a payload. Those who decode one know its structure, and list its arrays in the order of the stream:
 * the inverse scales of the input; of every layer its scale (if stored), multipliers and shifts (if requantized), bias,
 * weights; of a residual block the skip's multipliers and shifts, the branch's multipliers and shifts, then its layers.
 */
typedef struct {
    void *values;     /* int8_t[rows * columns] of weights, else int32_t[rows]; scales are the bits of float32 */
    uint32_t rows;    /* outputs of weights, or how many numbers there are */
    uint32_t columns; /* weights of an output, in C order; 0 if these are no weights */
} payload_array;

/* Needed while decoding only. */
typedef struct {
    const payload_array *next, *end;
    uint32_t structure;
    int failed;
    coder c;
    coder_workspace w; /* set w.columns to an array of two lines more than any weights have columns */
} payload_memory;

enum {
    PAYLOAD_OK,
    PAYLOAD_DAMAGED, /* not what an encoder writes */
    PAYLOAD_OTHER    /* the payload of a policy with other arrays or another structure */
};

/*
 * Decodes `size` bytes into all `count` arrays. `structure` is what `payload_structure` of policypress.policy.payload
 * tells of the policy: one number for everything in the payload that is in none of the arrays (kinds, sizes, limits,
 * strides, ...). Nothing is written outside of the arrays whatever the bytes are; unless the result is PAYLOAD_OK the
 * arrays hold nothing of use. The payload has no checksum: where bytes may be damaged, send one with it.
 */
int payload_decode(const uint8_t *data, size_t size, const payload_array *arrays, size_t count, uint32_t structure,
                   payload_memory *memory);
#endif
