/* NEON's intrinsics that engine_arm.h calls, in C. */
#include "vectors.h"

VECTOR(uint8_t, uint8x8_t, 8)
VECTOR(uint16_t, uint16x4_t, 8)
VECTOR(uint32_t, uint32x2_t, 8)

/* Element k of `count`. */
#define EACH(NAME, TYPE, PARAMETERS, count, VALUE) \
    EMULATED TYPE NAME PARAMETERS {                \
        TYPE found;                                \
        for (int k = 0; k < count; k++)            \
            found[k] = VALUE;                      \
        return found;                              \
    }
EACH(vdup_n_u32, uint32x2_t, (uint32_t a), 2, a)
EACH(vget_low_u8, uint8x8_t, (uint8x16_t a), 8, a[k])
EACH(vget_high_u8, uint8x8_t, (uint8x16_t a), 8, a[8 + k])
EACH(vget_low_u16, uint16x4_t, (uint16x8_t a), 4, a[k])
EACH(vmovl_u8, uint16x8_t, (uint8x8_t a), 8, a[k])
EACH(vmovl_u16, uint32x4_t, (uint16x4_t a), 4, a[k])
EACH(vmovn_u32, uint16x4_t, (uint32x4_t a), 4, (uint16_t)a[k])
EACH(vmovn_u16, uint8x8_t, (uint16x8_t a), 8, (uint8_t)a[k])
EACH(vcombine_u16, uint16x8_t, (uint16x4_t a, uint16x4_t b), 8, k < 4 ? a[k] : b[k - 4])
EACH(vmull_u8, uint16x8_t, (uint8x8_t a, uint8x8_t b), 8, (uint16_t)(a[k] * b[k]))
EACH(vpadalq_u16, uint32x4_t, (uint32x4_t a, uint16x8_t b), 4, a[k] + b[2 * k] + b[2 * k + 1])
EACH(vpaddq_u32, uint32x4_t, (uint32x4_t a, uint32x4_t b), 4, k < 2 ? a[2 * k] + a[2 * k + 1] : b[2 * k - 4] + b[2 * k - 3])

EMULATED uint32x4_t vdotq_u32(uint32x4_t sums, uint8x16_t a, uint8x16_t b) {
    for (int k = 0; k < 16; k++)
        sums[k / 4] += (uint32_t)a[k] * b[k];
    return sums;
}

EMULATED uint32x4_t vdotq_laneq_u32(uint32x4_t sums, uint8x16_t a, uint8x16_t b, int lane) {
    return vdotq_u32(sums, a, (uint8x16_t)vdupq_n_u32(((uint32x4_t)b)[lane]));
}

EMULATED uint16_t vaddlvq_u8(uint8x16_t a) {
    uint16_t sum = 0;
    for (int k = 0; k < 16; k++)
        sum = (uint16_t)(sum + a[k]);
    return sum;
}

#define vreinterpret_u8_u32(a) ((uint8x8_t)(a))
#define vreinterpret_u32_u8(a) ((uint32x2_t)(a))
#define vget_lane_u32(a, lane) ((a)[lane])
