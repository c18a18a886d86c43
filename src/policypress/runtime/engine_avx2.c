/* Kernels for AVX2, and for AVX2 with VNNI. */
#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

#include "engine_kernels.h"

#define LANES 8
#define ROWS 4
#define GROUPS 2
#define SUMS 8
#define REAL_ROWS 4
#define REAL_GROUPS 2
#define REAL_BLOCKS 4
#define INTS __m256i
#define FLOATS __m256
#define LOAD(p) _mm256_loadu_si256((const __m256i *)(const void *)(p))
#define STORE(p, x) _mm256_storeu_si256((__m256i *)(void *)(p), x)
#define SET(x) _mm256_set1_epi32(x)
#define ADD(a, b) _mm256_add_epi32(a, b)
#define SUB(a, b) _mm256_sub_epi32(a, b)
#define MIN(a, b) _mm256_min_epi32(a, b)
#define MAX(a, b) _mm256_max_epi32(a, b)
#define MULTIPLY(a, b) _mm256_mullo_epi32(a, b)
#define SHIFT_EACH(a, b) _mm256_srav_epi32(a, b)
#define GATHER(table, i) _mm256_i32gather_epi32(table, i, 4)
#define WINDOW(p) _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)(p)))
#define PICK(window, index) _mm256_shuffle_epi8(window, index)
#define LOAD_BYTES(p) _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(p)))
#define STORE_BYTES(p, x) \
    _mm_storel_epi64((__m128i *)(void *)(p), \
                     _mm_packus_epi16(_mm_packus_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1)), \
                                      _mm_setzero_si128()))
#define LOAD_REAL(p) _mm256_loadu_ps(p)
#define STORE_REAL(p, x) _mm256_storeu_ps(p, x)
#define SET_REAL(x) _mm256_set1_ps(x)
#define ADD_REAL(a, b) _mm256_add_ps(a, b)
#define MULTIPLY_REAL(a, b) _mm256_mul_ps(a, b)
#define FIRST(n) _mm256_cmpgt_epi32(_mm256_set1_epi32((int)(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
#define LOAD_SOME(p, n) _mm256_maskload_ps(p, FIRST(n))
#define STORE_SOME(p, n, x) _mm256_maskstore_ps(p, FIRST(n), x)
#define AND(a, b) _mm256_and_si256(a, b)
#define AND_NOT(a, b) _mm256_andnot_si256(a, b)
#define OR(a, b) _mm256_or_si256(a, b)
#define SHIFT_LEFT(a, n) _mm256_slli_epi32(a, n)
#define BITS(x) _mm256_castps_si256(x)
#define REAL(x) _mm256_castsi256_ps(x)
#define WHOLE(x) _mm256_cvttps_epi32(x)
#define TO_REAL(x) _mm256_cvtepi32_ps(x)
#define SUB_REAL(a, b) _mm256_sub_ps(a, b)
#define DIVIDE_REAL(a, b) _mm256_div_ps(a, b)
#define MAX_REAL(a, b) _mm256_max_ps(a, b)
#define LOAD_WIDE(p) _mm256_set_m128(_mm256_cvtpd_ps(_mm256_loadu_pd((p) + 4)), _mm256_cvtpd_ps(_mm256_loadu_pd(p)))
#define LOAD_SOME_WIDE(p, n) load_some_wide(p, n)
#define MIN_REAL(a, b) _mm256_min_ps(a, b)
#define SELECT_BELOW(a, b, x, y) _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_LT_OQ))
#define POSITIVE(x) _mm256_max_ps(x, _mm256_setzero_ps())

INLINE __attribute__((target("avx2"))) __m256 load_some_wide(const double *p, size_t n) {
    double each[8] = {0};
    memcpy(each, p, n * sizeof *each);
    return LOAD_WIDE(each);
}

#define TARGET __attribute__((target("avx2,avxvnni")))
#define NAME(x) x##_avxvnni
#define DOT(sum, u8, s8) _mm256_dpbusd_avx_epi32(sum, u8, s8)
#include "engine_vector.h"
#undef TARGET
#undef NAME
#undef DOT

/* Products of bytes by two, in 16 bits each: exact, where the instruction for bytes would saturate. */
INLINE __attribute__((target("avx2"))) __m256i dot_avx2(__m256i sum, __m256i u8, __m256i s8) {
    const __m256i even = _mm256_madd_epi16(_mm256_and_si256(u8, _mm256_set1_epi32(0x00FF00FF)),
                                           _mm256_srai_epi16(_mm256_slli_epi16(s8, 8), 8));
    const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(u8, 8), _mm256_srai_epi16(s8, 8));
    return _mm256_add_epi32(sum, _mm256_add_epi32(even, odd));
}

#define TARGET __attribute__((target("avx2")))
#define NAME(x) x##_avx2
#define DOT(sum, u8, s8) dot_avx2(sum, u8, s8)
#include "engine_vector.h"

#define SPARSE_OF(isa, cost) \
    .sparse = sparse_##isa, .chunk = 16, .step_cost = cost, .step_cost_few = 4, .chunk_cost = 1, .window_cost = 80

const kernels engine_avxvnnisparse = {.name = "avxvnnisparse", KERNELS_OF(avxvnni), SPARSE_OF(avxvnni, 3)};
const kernels engine_avxvnni = {.name = "avxvnni", KERNELS_OF(avxvnni)};
const kernels engine_avx2sparse = {.name = "avx2sparse", KERNELS_OF(avx2), SPARSE_OF(avx2, 2)};
const kernels engine_avx2 = {.name = "avx2", KERNELS_OF(avx2)};
#endif
