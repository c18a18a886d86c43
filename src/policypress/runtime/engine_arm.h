/*
 * What Arm cores with vectors multiply and store by them: Helium (Cortex-M55, M85), and NEON on AArch64, with dot products
 * (Armv8.2) or without. By intrinsics alone, most of which both have: tests emulate them in C (tests/runtime/arm).
 */
#ifndef POLICYPRESS_ENGINE_ARM_H
#define POLICYPRESS_ENGINE_ARM_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* With options of their own, functions are else not inlined into one another. */
#define VECTOR_INLINE static inline __attribute__((always_inline))

#if defined(__ARM_FEATURE_MVE) && defined(__GNUC__) && !defined(__clang__)
/* Helium takes subnormal numbers for zero, and with -O3 GCC would have it multiply floats. */
#pragma GCC optimize("no-tree-vectorize")
#endif

#if defined(__ARM_FEATURE_MVE) && !defined(__ARM_BIG_ENDIAN)
#include <arm_mve.h>
#define ENGINE_VECTORS 1
#define ENGINE_ALIGNED __attribute__((aligned(4))) /* of weights, which are loaded by words: Helium takes aligned ones */
#define vector_sum vaddvq_u8
#define vector_load_bytes vldrbq_u32
#define vector_store_bytes(target, codes) vstrbq_u32(target, vreinterpretq_u32_s32(codes))

/* Products of n bytes, a multiple of 4, with their weights of four outputs (ENGINE_FOURS), added to sums. */
VECTOR_INLINE uint32x4_t vector_blocks(uint32x4_t sums, const uint8_t *x, const uint8_t *w, size_t n) {
    uint32_t each[4], a, b, c, d;
    vst1q_u32(each, sums);
    a = each[0], b = each[1], c = each[2], d = each[3];
#define ADD_ROW(sum, row) sum = vmladavaq_u8(sum, bytes, vreinterpretq_u8_u32(row))
    for (; n >= 16; n -= 16, x += 16, w += 64) {
        const uint8x16_t bytes = vld1q_u8(x);
        const uint32x4x4_t rows = vld4q_u32((const uint32_t *)(const void *)w); /* of four blocks those of each output */
        ADD_ROW(a, rows.val[0]);
        ADD_ROW(b, rows.val[1]);
        ADD_ROW(c, rows.val[2]);
        ADD_ROW(d, rows.val[3]);
    }
    if (n) {
        const mve_pred16_t left = vctp8q((uint32_t)n);
        const uint8x16_t bytes = vldrbq_z_u8(x, left);
        const uint32x4_t blocks = vidupq_n_u32(0, 4);
        const uint32_t *row = (const uint32_t *)(const void *)w;
        ADD_ROW(a, vldrwq_gather_shifted_offset_z_u32(row, blocks, left));
        ADD_ROW(b, vldrwq_gather_shifted_offset_z_u32(row + 1, blocks, left));
        ADD_ROW(c, vldrwq_gather_shifted_offset_z_u32(row + 2, blocks, left));
        ADD_ROW(d, vldrwq_gather_shifted_offset_z_u32(row + 3, blocks, left));
    }
#undef ADD_ROW
    each[0] = a, each[1] = b, each[2] = c, each[3] = d;
    return vld1q_u32(each);
}
#elif defined(__ARM_NEON) && defined(__aarch64__) && !defined(__ARM_BIG_ENDIAN)
#include <arm_neon.h>
#define ENGINE_VECTORS 1
#define vector_sum vaddlvq_u8

static inline uint32_t vector_word(const uint8_t *from) {
    uint32_t word;
    memcpy(&word, from, 4);
    return word;
}

static inline uint32x4_t vector_load_bytes(const uint8_t *from) {
    return vmovl_u16(vget_low_u16(vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(vector_word(from))))));
}

static inline void vector_store_bytes(uint8_t *target, int32x4_t codes) {
    const uint16x4_t narrow = vmovn_u32(vreinterpretq_u32_s32(codes));
    const uint32_t four = vget_lane_u32(vreinterpret_u32_u8(vmovn_u16(vcombine_u16(narrow, narrow))), 0);
    memcpy(target, &four, 4);
}

/* As above: a block is a vector, and its four inputs are multiplied with the weights of each output. */
VECTOR_INLINE uint32x4_t vector_blocks(uint32x4_t sums, const uint8_t *x, const uint8_t *w, size_t n) {
#ifdef __ARM_FEATURE_DOTPROD
    for (; n >= 16; n -= 16, x += 16, w += 64) {
        const uint8x16_t bytes = vld1q_u8(x);
        sums = vdotq_laneq_u32(sums, vld1q_u8(w), bytes, 0);
        sums = vdotq_laneq_u32(sums, vld1q_u8(w + 16), bytes, 1);
        sums = vdotq_laneq_u32(sums, vld1q_u8(w + 32), bytes, 2);
        sums = vdotq_laneq_u32(sums, vld1q_u8(w + 48), bytes, 3);
    }
    for (; n; n -= 4, x += 4, w += 16)
        sums = vdotq_u32(sums, vld1q_u8(w), vreinterpretq_u8_u32(vdupq_n_u32(vector_word(x))));
    return sums;
#else
    uint32x4_t low = vdupq_n_u32(0), high = low; /* of the first two outputs, in halves, and of the others */
    for (; n; n -= 4, x += 4, w += 16) {
        const uint8x16_t weights = vld1q_u8(w);
        const uint8x8_t bytes = vreinterpret_u8_u32(vdup_n_u32(vector_word(x)));
        low = vpadalq_u16(low, vmull_u8(vget_low_u8(weights), bytes));
        high = vpadalq_u16(high, vmull_u8(vget_high_u8(weights), bytes));
    }
    return vaddq_u32(sums, vpaddq_u32(low, high));
#endif
}
#else
#define ENGINE_VECTORS 0
#endif
#ifndef ENGINE_ALIGNED
#define ENGINE_ALIGNED
#endif

#if ENGINE_VECTORS
/* The same of any n. */
VECTOR_INLINE uint32x4_t vector_products(uint32x4_t sums, const uint8_t *x, const uint8_t *w, size_t n) {
    const size_t whole = n & ~(size_t)3;
    sums = vector_blocks(sums, x, w, whole);
    for (size_t k = whole; k < n; k++)
        sums = vmlaq_n_u32(sums, vector_load_bytes(w + 4 * k), x[k]);
    return sums;
}
#endif

#endif
