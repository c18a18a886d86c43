/* Kernels for AVX-512 with VNNI: 64 products of bytes in an instruction. */
#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

#include "engine_kernels.h"

#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")))
#define NAME(x) x##_avx512
#define LANES 16
#define ROWS 6
#define GROUPS 4
#define SUMS 8
#define REAL_ROWS 8
#define REAL_GROUPS 2
#define REAL_BLOCKS 4
#define INTS __m512i
#define FLOATS __m512
#define LOAD(p) _mm512_loadu_si512(p)
#define STORE(p, x) _mm512_storeu_si512(p, x)
#define SET(x) _mm512_set1_epi32(x)
#define ADD(a, b) _mm512_add_epi32(a, b)
#define SUB(a, b) _mm512_sub_epi32(a, b)
#define MIN(a, b) _mm512_min_epi32(a, b)
#define MAX(a, b) _mm512_max_epi32(a, b)
#define MULTIPLY(a, b) _mm512_mullo_epi32(a, b)
#define SHIFT_EACH(a, b) _mm512_srav_epi32(a, b)
#define GATHER(table, i) _mm512_i32gather_epi32(i, table, 4)
#define DOT(sum, u8, s8) _mm512_dpbusd_epi32(sum, u8, s8)
#define LOAD_BYTES(p) _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(p)))
#define STORE_BYTES(p, x) _mm_storeu_si128((__m128i *)(void *)(p), _mm512_cvtepi32_epi8(x))
#define LOAD_REAL(p) _mm512_loadu_ps(p)
#define STORE_REAL(p, x) _mm512_storeu_ps(p, x)
#define SET_REAL(x) _mm512_set1_ps(x)
#define ADD_REAL(a, b) _mm512_add_ps(a, b)
#define MULTIPLY_REAL(a, b) _mm512_mul_ps(a, b)
#define FIRST(n) ((1u << (n)) - 1)
#define LOAD_SOME(p, n) _mm512_maskz_loadu_ps((__mmask16)FIRST(n), p)
#define STORE_SOME(p, n, x) _mm512_mask_storeu_ps(p, (__mmask16)FIRST(n), x)
#define AND(a, b) _mm512_and_si512(a, b)
#define AND_NOT(a, b) _mm512_andnot_si512(a, b)
#define OR(a, b) _mm512_or_si512(a, b)
#define SHIFT_LEFT(a, n) _mm512_slli_epi32(a, n)
#define BITS(x) _mm512_castps_si512(x)
#define REAL(x) _mm512_castsi512_ps(x)
#define WHOLE(x) _mm512_cvttps_epi32(x)
#define TO_REAL(x) _mm512_cvtepi32_ps(x)
#define SUB_REAL(a, b) _mm512_sub_ps(a, b)
#define DIVIDE_REAL(a, b) _mm512_div_ps(a, b)
#define MAX_REAL(a, b) _mm512_max_ps(a, b)
#define LOAD_WIDE(p) NARROW(_mm512_cvtpd_ps(_mm512_loadu_pd(p)), _mm512_cvtpd_ps(_mm512_loadu_pd((p) + 8)))
#define LOAD_SOME_WIDE(p, n) \
    NARROW(_mm512_cvtpd_ps(_mm512_maskz_loadu_pd((__mmask8)FIRST(n), p)), \
           _mm512_cvtpd_ps(_mm512_maskz_loadu_pd((__mmask8)(FIRST(n) >> 8), (p) + 8)))
#define NARROW(a, b) _mm512_insertf32x8(_mm512_castps256_ps512(a), b, 1)
#define MIN_REAL(a, b) _mm512_min_ps(a, b)
#define SELECT_BELOW(a, b, x, y) _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x)
#define POSITIVE(x) _mm512_max_ps(x, _mm512_setzero_ps()) /* 0 for NaN and -0, as in engine.c */
#include "engine_vector.h"

/*
 * Sparse integer layers. Up to 256 input bytes lie in registers, out of which one instruction picks any 64. A step
 * multiplies four inputs of each of 16 outputs, other ones for every output: 64 indices, then 64 weights.
 */
enum { TABLES = 256 };
#define VBMI __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")))

INLINE VBMI __m512i pick(const __m512i *t, __m512i index, const unsigned tables) {
    if (tables == 1)
        return _mm512_permutexvar_epi8(index, t[0]);
    if (tables == 2)
        return _mm512_permutex2var_epi8(t[0], index, t[1]);
    return _mm512_mask_blend_epi8(_mm512_movepi8_mask(index), _mm512_permutex2var_epi8(t[0], index, t[1]),
                                  _mm512_permutex2var_epi8(t[2], index, t[3]));
}

INLINE VBMI void sparse_position(const engine_step *s, const prepared *p, const unsigned char *x,
                                 unsigned char *target, size_t at, int alone, const unsigned tables) {
    const uint8_t *step = p->sparse;
    const uint16_t *steps = p->steps;
    for (uint32_t g = 0; g < p->groups; g++) {
        __m512i a = _mm512_loadu_si512((const int32_t *)p->bias + 16 * g), b = _mm512_setzero_si512();
        for (uint32_t c = 0; c < p->chunks; c++) {
            __m512i t[4];
            uint32_t n = *steps++;
            for (unsigned i = 0; i < tables; i++)
                t[i] = _mm512_loadu_si512(x + c * TABLES + 64 * i);
            for (; n >= 2; n -= 2, step += 256) {
                a = _mm512_dpbusd_epi32(a, pick(t, _mm512_loadu_si512(step), tables), _mm512_loadu_si512(step + 64));
                b = _mm512_dpbusd_epi32(b, pick(t, _mm512_loadu_si512(step + 128), tables),
                                        _mm512_loadu_si512(step + 192));
            }
            if (n) {
                a = _mm512_dpbusd_epi32(a, pick(t, _mm512_loadu_si512(step), tables), _mm512_loadu_si512(step + 64));
                step += 128;
            }
        }
        finish_avx512(s, p, target, at + 16 * g, 16 * g, _mm512_add_epi32(a, b), alone);
    }
}

static VBMI void sparse_vbmi(const engine_step *s, unsigned char *work, size_t rows) {
    const prepared *p = s->prepared;
    if (rows * s->out_height * s->out_width >= MANY ? !p->batch_sparse : !p->single_sparse) {
        dense_avx512(s, work, rows);
        return;
    }
    const size_t run = (size_t)s->kernel_width * s->channels, line = (size_t)s->width * s->channels;
    const int whole = s->kernel_height == 1;
    unsigned char window[MOST_INPUTS + SLACK_INPUTS];
    positions all = all_positions(s, work, rows);
    const unsigned char *x;
    size_t at;
    while (next_positions(&all, &x, &at, 1)) {
        if (!whole) {
            for (size_t i = 0; i < s->kernel_height; i++)
                memcpy(window + i * run, x + i * line, run);
            x = window;
        }
        if (p->window <= 64)
            sparse_position(s, p, x, all.target, at, 1, 1);
        else if (p->window <= 128)
            sparse_position(s, p, x, all.target, at, 1, 2);
        else
            sparse_position(s, p, x, all.target, at, 1, 4);
    }
}

const kernels engine_avx512 = {.name = "avx512", KERNELS_OF(avx512)};
const kernels engine_avx512vbmi = {
    .name = "avx512vbmi",
    KERNELS_OF(avx512),
    .sparse = sparse_vbmi,
    .chunk = TABLES,
    .step_cost = 10,
    .step_cost_few = 5,
    .chunk_cost = 5,
    .window_cost = 80,
};
#endif
