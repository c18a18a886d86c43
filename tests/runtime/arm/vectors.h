/* Intrinsics that Helium and NEON both have, in C: those that engine_arm.h and engine.c call. */
#include <stdint.h>
#include <string.h>

#define VECTOR(TYPE, NAME, BYTES) typedef TYPE NAME __attribute__((vector_size(BYTES), may_alias));
VECTOR(uint8_t, uint8x16_t, 16)
VECTOR(uint16_t, uint16x8_t, 16)
VECTOR(uint32_t, uint32x4_t, 16)
VECTOR(int32_t, int32x4_t, 16)

#define EMULATED static inline __attribute__((unused))
#define LOAD(NAME, TYPE, FROM)                      \
    EMULATED TYPE NAME(const FROM *from) {          \
        TYPE found;                                 \
        for (unsigned k = 0; k < 16 / sizeof(FROM); k++) \
            found[k] = from[k];                     \
        return found;                               \
    }
LOAD(vld1q_u8, uint8x16_t, uint8_t)
LOAD(vld1q_u32, uint32x4_t, uint32_t)

#define LANES(NAME, TYPE, PARAMETERS, VALUE)  \
    EMULATED TYPE NAME PARAMETERS {           \
        TYPE found;                           \
        for (int k = 0; k < 4; k++)           \
            found[k] = VALUE;                 \
        return found;                         \
    }
LANES(vdupq_n_u32, uint32x4_t, (uint32_t a), a)
LANES(vdupq_n_s32, int32x4_t, (int32_t a), a)
LANES(vaddq_u32, uint32x4_t, (uint32x4_t a, uint32x4_t b), a[k] + b[k])
LANES(vsubq_u32, uint32x4_t, (uint32x4_t a, uint32x4_t b), a[k] - b[k])
LANES(vmlaq_n_u32, uint32x4_t, (uint32x4_t a, uint32x4_t b, uint32_t c), a[k] + b[k] * c)
LANES(vaddq_s32, int32x4_t, (int32x4_t a, int32x4_t b), a[k] + b[k])
LANES(vmulq_n_s32, int32x4_t, (int32x4_t a, int32_t b), a[k] * b)
LANES(vminq_s32, int32x4_t, (int32x4_t a, int32x4_t b), a[k] < b[k] ? a[k] : b[k])
LANES(vmaxq_s32, int32x4_t, (int32x4_t a, int32x4_t b), a[k] > b[k] ? a[k] : b[k])
LANES(vshlq_s32, int32x4_t, (int32x4_t a, int32x4_t b), a[k] >> -b[k]) /* to the right, as it is called */

EMULATED void vst1q_u32(uint32_t *to, uint32x4_t a) {
    for (int k = 0; k < 4; k++)
        to[k] = a[k];
}

#define vreinterpretq_u8_u32(a) ((uint8x16_t)(a))
#define vreinterpretq_u32_s32(a) ((uint32x4_t)(a))
#define vreinterpretq_s32_u32(a) ((int32x4_t)(a))
