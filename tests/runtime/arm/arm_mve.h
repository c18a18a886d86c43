/* Helium's intrinsics that engine_arm.h calls, in C; as Helium does, it takes words from where words may lie alone. */
#include "vectors.h"

typedef struct {
    uint32x4_t val[4];
} uint32x4x4_t;
typedef unsigned mve_pred16_t; /* how many bytes at the beginning take part */

EMULATED mve_pred16_t vctp8q(uint32_t n) {
    return n < 16 ? n : 16;
}

EMULATED uint8x16_t vldrbq_z_u8(const uint8_t *from, mve_pred16_t n) {
    uint8x16_t found = {0};
    for (unsigned k = 0; k < n; k++)
        found[k] = from[k];
    return found;
}

LANES(vldrbq_u32, uint32x4_t, (const uint8_t *from), from[k])
LANES(vidupq_n_u32, uint32x4_t, (uint32_t first, int step), first + (uint32_t)(k * step))
LANES(vldrwq_gather_shifted_offset_z_u32, uint32x4_t, (const uint32_t *from, uint32x4_t at, mve_pred16_t n),
      4 * (unsigned)k < n ? from[at[k]] : 0)

EMULATED uint32x4x4_t vld4q_u32(const uint32_t *from) {
    uint32x4x4_t found;
    for (int k = 0; k < 16; k++)
        found.val[k % 4][k / 4] = from[k];
    return found;
}

EMULATED void vstrbq_u32(uint8_t *to, uint32x4_t a) {
    for (int k = 0; k < 4; k++)
        to[k] = (uint8_t)a[k];
}

EMULATED uint32_t vmladavaq_u8(uint32_t sum, uint8x16_t a, uint8x16_t b) {
    for (int k = 0; k < 16; k++)
        sum += (uint32_t)a[k] * b[k];
    return sum;
}

EMULATED uint32_t vaddvq_u8(uint8x16_t a) {
    uint32_t sum = 0;
    for (int k = 0; k < 16; k++)
        sum += a[k];
    return sum;
}
