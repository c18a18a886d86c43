/* What a caller needs of the engine: the same in every export, so that headers of several ones go together. */
#ifndef POLICYPRESS_ENGINE_CALL_H
#define POLICYPRESS_ENGINE_CALL_H

#include <stdint.h>

/* Constants in flash, on an AVR, which GNU C can read; with -std=c99 in RAM. */
#if defined(__FLASH) && !defined(__STRICT_ANSI__) && !defined(__cplusplus)
#define ENGINE_FLASH __flash
#else
#define ENGINE_FLASH
#endif

/* Work memory of n bytes, aligned: `engine_word work[ENGINE_WORDS(n)]`. */
typedef union {
    double wide;
    float real[2];
    int32_t integer[2];
    uint8_t byte[8];
} engine_word;
#define ENGINE_WORDS(n) (((n) + sizeof(engine_word) - 1) / sizeof(engine_word))

/* What predictions return. */
enum engine_status {
    ENGINE_OK,
    ENGINE_NOT_FINITE, /* an observation is NaN, infinite or too large for float32 */
    ENGINE_OVERFLOW    /* outputs are: the observation is too large for the network */
};

#endif
