/*
 * Instructions of Arm cores with the DSP extension (Cortex-M4, M7, M33), which add two products at once, and the same in
 * C where ENGINE_EMULATE_DSP is defined: so tests run the very same kernels on another machine of little-endian order.
 */
#ifndef POLICYPRESS_ENGINE_DSP_H
#define POLICYPRESS_ENGINE_DSP_H

#include <stdint.h>
#include <string.h>

#if defined(ENGINE_EMULATE_DSP) || (defined(__GNUC__) && defined(__ARM_FEATURE_DSP) && defined(__ARM_FEATURE_SIMD32) && \
                                    !defined(__ARM_BIG_ENDIAN))
#define ENGINE_DSP 1

/* Four bytes from anywhere. */
static inline uint32_t dsp_word(const void *from) {
    uint32_t word;
    memcpy(&word, from, 4);
    return word;
}

#ifdef ENGINE_EMULATE_DSP
/* Bytes 0 and 2, and 1 and 3, as two numbers of 16 bits. */
static inline uint32_t dsp_even(uint32_t word) {
    return word & 0x00FF00FFu;
}

static inline uint32_t dsp_odd(uint32_t word) {
    return word >> 8 & 0x00FF00FFu;
}

/* Bytes 0 and 2, and 1 and 3, as two signed numbers of 16 bits. */
static inline uint32_t dsp_even_signed(uint32_t word) {
    return ((uint32_t)(int8_t)(word & 0xFF) & 0xFFFFu) | (uint32_t)(int8_t)(word >> 16 & 0xFF) << 16;
}

static inline uint32_t dsp_odd_signed(uint32_t word) {
    return ((uint32_t)(int8_t)(word >> 8 & 0xFF) & 0xFFFFu) | (uint32_t)(int8_t)(word >> 24) << 16;
}

/* The products of the lower and of the upper signed halves of a and b, added to sum, modulo 2^32. */
static inline uint32_t dsp_add_products(uint32_t sum, uint32_t a, uint32_t b) {
    const int32_t low = (int32_t)(int16_t)(a & 0xFFFF) * (int16_t)(b & 0xFFFF);
    const int32_t high = (int32_t)(int16_t)(a >> 16) * (int16_t)(b >> 16);
    return sum + (uint32_t)low + (uint32_t)high;
}

/* The sum with byte 2. */
static inline uintptr_t dsp_add_third(uintptr_t sum, uint32_t word) {
    return sum + (word >> 16 & 0xFF);
}
#else
static inline uint32_t dsp_even(uint32_t word) {
    uint32_t found;
    __asm__("uxtb16 %0, %1" : "=r"(found) : "r"(word));
    return found;
}

static inline uint32_t dsp_odd(uint32_t word) { /* GCC makes two instructions of this in C */
    uint32_t found;
    __asm__("uxtb16 %0, %1, ror #8" : "=r"(found) : "r"(word));
    return found;
}

static inline uint32_t dsp_even_signed(uint32_t word) {
    uint32_t found;
    __asm__("sxtb16 %0, %1" : "=r"(found) : "r"(word));
    return found;
}

static inline uint32_t dsp_odd_signed(uint32_t word) {
    uint32_t found;
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(found) : "r"(word));
    return found;
}

static inline uint32_t dsp_add_products(uint32_t sum, uint32_t a, uint32_t b) {
    uint32_t found;
    __asm__("smlad %0, %1, %2, %3" : "=r"(found) : "r"(a), "r"(b), "r"(sum));
    return found;
}

static inline uintptr_t dsp_add_third(uintptr_t sum, uint32_t word) {
    uintptr_t found;
    __asm__("uxtab %0, %1, %2, ror #16" : "=r"(found) : "r"(sum), "r"(word));
    return found;
}
#endif
#else
#define ENGINE_DSP 0
#endif

#endif
