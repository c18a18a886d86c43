/* The portable engine: see engine.h. Compile with -ffp-contract=off, where the compiler can. */
#include "engine.h"

#include <float.h>
#include <string.h>

#include "engine_arm.h"
#include "engine_dsp.h"

#if ENGINE_USE_ENDS
/* 16 concerns half precision alone (GCC, for processors that have it). */
#if defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD != 0 && FLT_EVAL_METHOD != 16
#error "float32 must round as IEEE 754 says: on 32-bit x86 -mfpmath=sse -msse2"
#endif
#if defined(__FAST_MATH__) || defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__) || \
    (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__) || defined(_M_FP_FAST)
#error "float32 must round as IEEE 754 says: compile this without -ffast-math, -Ofast and what they stand for"
#endif
/* No product and sum rounded once, where options say otherwise or nothing, as in Arduino. */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#if defined(__FP_FAST_FMA) || defined(__FP_FAST_FMAF) /* GCC ignores the standard's pragma */
#pragma GCC optimize("fp-contract=off")
#endif
#elif defined(_MSC_VER)
#pragma fp_contract(off)
#else
#pragma STDC FP_CONTRACT OFF
#endif
#endif

typedef char engine_needs_arithmetic_shifts[(-1 >> 1) == -1 ? 1 : -1];
#if ENGINE_USE_ENDS
typedef char engine_needs_double_of_64_bits[sizeof(double) == 8 ? 1 : -1];
#endif

/* Old GCC for AVR would here and there read RAM in the place of flash: a pointer loses its address space. */
#ifdef __AVR__
#pragma GCC optimize("no-ivopts")
#endif

/* Inlined into one another, these functions leave small processors without registers for the inner loops. */
#ifdef __GNUC__
#define APART __attribute__((noinline))
#else
#define APART
#endif
#if ENGINE_USE_KERNELS /* other machines have enough */
#define APART_ON_DEVICES
#else
#define APART_ON_DEVICES APART
#endif

#ifdef __GNUC__
#define INLINED static inline __attribute__((always_inline)) /* its loop too where sizes count more than time */
#else
#define INLINED static inline
#endif
/*
 * GCC, where sizes count more than time, weighs variables of a loop as all others, and has a Cortex-M0 spill them and
 * one with vectors move its sums about.
 */
#if defined(__OPTIMIZE_SIZE__) && defined(__GNUC__) && !defined(__clang__) && \
    (ENGINE_VECTORS || (defined(__thumb__) && !defined(__thumb2__)))
#define FOR_TIME __attribute__((optimize("O2")))
#else
#define FOR_TIME
#endif

/* Keeps the compiler from computing a variable in another way than loops say, which would take registers. */
#if defined(__GNUC__) && defined(__thumb2__)
#define AS_IT_STANDS(variable) __asm__("" : "+r"(variable))
#elif defined(__GNUC__) && defined(__thumb__)
#define AS_IT_STANDS(variable) __asm__("" : "+l"(variable))
#else
#define AS_IT_STANDS(variable) (void)0
#endif
#if defined(__OPTIMIZE_SIZE__) || defined(__ARM_ARCH_6M__)
#define INLINED_FOR_TIME APART static /* compilers spill what the loop needs most */
#else
#define INLINED_FOR_TIME INLINED
#endif

/* ---- codes ---- */

#if ENGINE_USE_LONG || ENGINE_USE_ADD || (ENGINE_USE_CELLS && ENGINE_USE_TABLES)
static int32_t clip(int64_t value, int32_t low, int32_t high) {
    return value < low ? low : value > high ? high : (int32_t)value;
}

static int64_t requantize(int32_t sum, uint8_t multiplier, uint8_t shift) {
    return ((int64_t)sum * multiplier + ((int64_t)1 << (shift - 1))) >> shift;
}
#endif

/*
 * The same in 32 bits, where sums from -2^23 to 2^23 - 1 are requantized in place of those beyond, which are past the
 * limits; a shift is at most 23 then. `half` of 2^shift is given, because a layer needs it once.
 */
INLINED int32_t requantize_narrow(int32_t sum, int32_t multiplier, int32_t half, int32_t shift) {
    const int32_t most = ((int32_t)1 << 23) - 1;
    if (ENGINE_USE_CLIP) /* one instruction on a Cortex-M3 */
        sum = sum < -most - 1 ? -most - 1 : sum > most ? most : sum;
    return (sum * multiplier + half) >> shift;
}

INLINED int32_t clip_narrow(int32_t code, int32_t low, int32_t high) {
    return code < low ? low : code > high ? high : code;
}

#if ENGINE_USE_ADD || ENGINE_USE_WINDOWS || ENGINE_USE_TABLES || ENGINE_USE_STATE
static int32_t get(const unsigned char *tensor, unsigned type, unsigned zero, size_t i) {
    return type == ENGINE_S32 ? ((const int32_t *)(const void *)tensor)[i] : (int32_t)tensor[i] - (int32_t)zero;
}
#endif

static void put(const engine_step *s, unsigned char *target, size_t i, int32_t code) {
    if (s->target_type == ENGINE_S32)
        ((int32_t *)(void *)target)[i] = code;
    else
        target[i] = (unsigned char)(code + s->target_zero);
}

/* ---- layers ---- */

APART ENGINE_API void engine_finish(const engine_step *s, unsigned char *target, size_t i, size_t o, uint32_t sum) {
    int32_t code = (int32_t)sum;
    (void)o;
#if ENGINE_USE_FINISHES
    if (s->finish == ENGINE_KEEP) {
        code = s->relu && code < 0 ? 0 : code;
    } else {
        const size_t at = s->per_output ? o : 0;
        const uint8_t multiplier = s->multiplier[at], shift = s->shift[at];
#if ENGINE_USE_LONG
        if (s->wide)
            code = clip(requantize(code, multiplier, shift), s->low, s->high);
        else
#endif
            code = clip_narrow(requantize_narrow(code, multiplier, (int32_t)1 << (shift - 1), shift), s->low, s->high);
#if ENGINE_USE_TABLES
        if (s->finish == ENGINE_TABLE)
            code = code < 0 ? -s->table[-code] : s->table[code];
        else if (s->finish == ENGINE_BYTES) {
            target[i] = (unsigned char)s->table[code - s->low];
            return;
        }
#endif
    }
#endif
    put(s, target, i, code);
}

/* The same for most layers, codes to bytes in 32 bits; what it takes, read once a layer. */
typedef struct {
    int usual, per_output;
    int32_t multiplier, half, shift, low, high, zero;
} ending;

INLINED ending ending_of(const engine_step *s) {
    const int usual = ENGINE_USE_USUAL && s->finish == ENGINE_REQUANTIZE && !(ENGINE_USE_LONG && s->wide) &&
                      s->target_type == ENGINE_U8;
    ending e = {usual, ENGINE_USE_PER_OUTPUT && s->per_output, 0, 0, 0, 0, 255, 0};
    if (usual) {
        e.multiplier = s->multiplier[0];
        e.shift = s->shift[0];
        e.half = (int32_t)1 << (e.shift - 1);
    }
#if ENGINE_USE_LIMITS
    e.low = s->low;
    e.high = s->high;
    e.zero = s->target_zero;
#endif
    return e;
}

INLINED void finish(const engine_step *s, const ending *e, unsigned char *target, size_t i, size_t o, uint32_t sum) {
    int32_t multiplier = e->multiplier, half = e->half, shift = e->shift;
    if (!ENGINE_USE_USUAL || !e->usual) {
        if (ENGINE_USE_FINISHES)
            engine_finish(s, target, i, o, sum);
        else
            ((int32_t *)(void *)target)[i] = (int32_t)sum;
        return;
    }
    if (e->per_output) {
        multiplier = s->multiplier[o];
        shift = s->shift[o];
        half = (int32_t)1 << (shift - 1);
    }
    target[i] = (unsigned char)(clip_narrow(requantize_narrow((int32_t)sum, multiplier, half, shift), e->low, e->high) +
                                e->zero);
}

/* How a window lies in memory: `lines` runs of neighbours on each of `planes`. */
typedef struct {
    size_t planes, plane, lines, line, run;
} window;

#if ENGINE_USE_IMAGES /* elsewhere a window is the vector */
#define PLANES(v) ((v)->planes)
#define LINES(v) ((v)->lines)
#define RUN(s, v) ((v)->run)
#else
#define PLANES(v) 1
#define LINES(v) 1
#define RUN(s, v) ((s)->channels)
#endif

#if ENGINE_USE_COUNTS
#define COUNTS(s) ((s)->counts)
#else
#define COUNTS(s) ((const ENGINE_ROM uint16_t *)0) /* in code for sparse layers, which never runs then */
#endif

/* Weight k of those packed from `byte` on. With constants for k and bits this is a load or two and a shift or two. */
INLINED uint32_t unpack(const ENGINE_ROM uint8_t *byte, unsigned k, unsigned bits) {
    const unsigned first = k * bits / 8, at = k * bits % 8;
    uint32_t word = byte[first];
    if (at + bits > 8)
        word |= (uint32_t)byte[first + 1] << 8;
    return (uint32_t)((int32_t)(word << (32 - bits - at)) >> (32 - bits));
}

/* Eight of them a turn, in as many bytes as each has bits. */
#define PRODUCT(k, BITS) (unpack(byte, k, BITS) * (uint32_t)from[k])
#define EIGHTS(BITS)                                                                                               \
    if ((ENGINE_USE_PACKED >> BITS & 1) && bits == BITS)                                                           \
        for (; end - from >= 8; byte += BITS, from += 8) {                                                         \
            sum += PRODUCT(0, BITS) + PRODUCT(1, BITS) + PRODUCT(2, BITS) + PRODUCT(3, BITS);                      \
            sum += PRODUCT(4, BITS) + PRODUCT(5, BITS) + PRODUCT(6, BITS) + PRODUCT(7, BITS);                      \
        }

/* Four turns of a loop in one, for those of all weights; a row that fours leave over is not worth the bytes. */
#if ENGINE_USE_FOURS && !ENGINE_USE_KERNELS
#define UNROLL_ROW
#elif defined(__clang__)
#define UNROLL_ROW _Pragma("clang loop unroll_count(4)")
#elif defined(__GNUC__) && __GNUC__ >= 8
#define UNROLL_ROW _Pragma("GCC unroll 4")
#else
#define UNROLL_ROW
#endif

/* Products of n inputs and weights, added to sum. */
#define ROW_SUM(NAME, SOURCE)                                                                                      \
    APART static uint32_t NAME##_row(const SOURCE *x, const ENGINE_ROM int8_t *weight, size_t n, uint32_t sum) {   \
        UNROLL_ROW                                                                                                 \
        for (const SOURCE *const end = x + n; x != end;)                                                           \
            sum += (uint32_t)(int32_t)(*weight++ * *x++);                                                          \
        return sum;                                                                                                \
    }

/*
 * Products of n inputs and weights of four outputs (ENGINE_FOURS), added to sums. On an 8-bit machine a FACTOR has 16
 * bits, which products of two bytes fit.
 */
#define FOUR_SUMS(NAME, SOURCE, FACTOR, QUADS)                                                                     \
    FOR_TIME APART static void NAME##_four(const SOURCE *x, const ENGINE_ROM uint8_t *w, size_t n, uint32_t *sums) {        \
        uint32_t a = sums[0], b = sums[1], c = sums[2], d = sums[3];                                               \
        const SOURCE *end = x + (n & ~(size_t)3);                                                                  \
        for (; x != end; x += 4, w += 16) {                                                                        \
            QUADS(FACTOR)                                                                                          \
            AS_IT_STANDS(x);                                                                                       \
            AS_IT_STANDS(w);                                                                                       \
        }                                                                                                          \
        for (end += n & 3; x != end; x++, w += 4) {                                                                \
            ONE_INPUT(FACTOR, 0, 1)                                                                                   \
            AS_IT_STANDS(x);                                                                                       \
            AS_IT_STANDS(w);                                                                                       \
        }                                                                                                          \
        sums[0] = a;                                                                                               \
        sums[1] = b;                                                                                               \
        sums[2] = c;                                                                                               \
        sums[3] = d;                                                                                               \
    }

/* The products of one input with its weights, which lie so far apart. */
#define ONE_INPUT(FACTOR, k, apart)           \
    {                                      \
        const FACTOR v = (FACTOR)x[k];     \
        a += w[k] * v;                     \
        AS_IT_STANDS(a);                   \
        b += w[k + apart] * v;             \
        AS_IT_STANDS(b);                   \
        c += w[k + 2 * apart] * v;         \
        AS_IT_STANDS(c);                   \
        d += w[k + 3 * apart] * v;         \
        AS_IT_STANDS(d);                   \
    }
#ifdef __AVR__ /* sums take most registers there anyway */
#define QUADS(FACTOR)                 \
    for (uint8_t k = 0; k < 4; k++)   \
        ONE_INPUT(FACTOR, k, 4)
#else
#define QUADS(FACTOR)         \
    ONE_INPUT(FACTOR, 0, 4)   \
    ONE_INPUT(FACTOR, 1, 4)   \
    ONE_INPUT(FACTOR, 2, 4)   \
    ONE_INPUT(FACTOR, 3, 4)
#endif

#if ENGINE_DSP
#define QUAD_ROW(SUM, at)                                \
    word = dsp_word(w + at);                             \
    SUM = dsp_add_products(SUM, dsp_even(word), even);   \
    SUM = dsp_add_products(SUM, dsp_odd(word), odd);
#define QUADS_OF_BYTES(FACTOR)                                   \
    uint32_t word = dsp_word(x);                                 \
    const uint32_t even = dsp_even(word), odd = dsp_odd(word);   \
    QUAD_ROW(a, 0)                                               \
    QUAD_ROW(b, 4)                                               \
    QUAD_ROW(c, 8)                                               \
    QUAD_ROW(d, 12)
#else
#define QUADS_OF_BYTES QUADS
#endif

/*
 * Products of n pairs of a sparse layer, added to sum. Several pairs a turn, because counting turns would cost a small
 * processor as much as multiplying: two, since an output may have few of them.
 */
#define PAIR_SUM(NAME, SOURCE, PAIRS)                                                                              \
    INLINED_FOR_TIME uint32_t NAME##_pairs(const SOURCE *from, const ENGINE_ROM uint8_t *pair, size_t n, uint32_t sum) {      \
        for (const ENGINE_ROM uint8_t *const end = pair + 2 * (n & ~(size_t)1); pair != end; pair += 4) {          \
            PAIRS                                                                                                  \
        }                                                                                                          \
        if (n & 1) {                                                                                               \
            PAIR(0)                                                                                                \
        }                                                                                                          \
        return sum;                                                                                                \
    }
#define PAIR(at)                                                  \
    from += pair[at];                                             \
    sum += (uint32_t)(int32_t)((int8_t)pair[at + 1] * *from);
#define TWO_PAIRS   \
    PAIR(0)         \
    PAIR(2)
#if ENGINE_DSP
#define TWO_PAIRS_OF_BYTES                                              \
    const uint32_t word = dsp_word(pair);                               \
    const uint8_t *const first = from + (word & 0xFF);                  \
    from = (const uint8_t *)dsp_add_third((uintptr_t)first, word);      \
    sum = dsp_add_products(sum, *first | (uint32_t)*from << 16, dsp_odd_signed(word));
#else
#define TWO_PAIRS_OF_BYTES TWO_PAIRS
#endif

#if ENGINE_VECTORS
/* The usual ending of four outputs that have one multiplier and shift. */
INLINED void finish_four(const ending *e, unsigned char *target, uint32x4_t sums) {
    int32x4_t codes = vreinterpretq_s32_u32(sums);
    if (ENGINE_USE_CLIP)
        codes = vmaxq_s32(vminq_s32(codes, vdupq_n_s32((1 << 23) - 1)), vdupq_n_s32(-(1 << 23)));
    codes = vaddq_s32(vmulq_n_s32(codes, e->multiplier), vdupq_n_s32(e->half));
    codes = vshlq_s32(codes, vdupq_n_s32(-e->shift));
    codes = vmaxq_s32(vminq_s32(codes, vdupq_n_s32(e->high)), vdupq_n_s32(e->low));
    vector_store_bytes(target, vaddq_s32(codes, vdupq_n_s32(e->zero)));
}

/* The outputs of a dense layer that come in fours; how many these are. */
FOR_TIME APART static size_t vector_fours(const engine_step *s, const window *v, const uint8_t *x,
                                          unsigned char *target, size_t i) {
    const ending e = ending_of(s);
    const uint32_t *bias = s->bias;
    const uint8_t *weight = s->weight;
    const size_t outputs = s->out_channels & ~(size_t)3, n = RUN(s, v);
    uint32_t more = 0;
    for (size_t b = 0; b < LINES(v); b++) {
        const uint8_t *from = x + b * v->line, *const end = from + n;
        for (; end - from >= 16; from += 16)
            more += vector_sum(vld1q_u8(from));
        while (from != end)
            more += *from++;
    }
    for (size_t o = 0; o < outputs; o += 4) {
        uint32x4_t sums = vsubq_u32(vld1q_u32(bias + o), vdupq_n_u32(128 * more));
        for (size_t b = 0; b < LINES(v); b++, weight += 4 * n)
            sums = vector_products(sums, x + b * v->line, weight, n);
        if (ENGINE_USE_USUAL && e.usual && !e.per_output)
            finish_four(&e, target + i + o, sums);
        else {
            uint32_t each[4];
            vst1q_u32(each, sums);
            for (size_t j = 0; j < 4; j++)
                finish(s, &e, target, i + o + j, o + j, each[j]);
        }
    }
    return outputs;
}

/* `first`: how many outputs are done. */
#define FOURS_OF_BYTES                                                  \
    const size_t first = n == 4 ? vector_fours(s, v, x, target, i) : 0; \
    left -= first;                                                      \
    weight += first * LINES(v) * RUN(s, v);                             \
    n = 1;
#else
#define FOURS_OF_BYTES FOURS_OF_WORDS
#endif
#define FOURS_OF_WORDS enum { first };

/*
 * One position of an integer layer for every source type: sums of products, modulo 2^32. That is exact, because the
 * final sum lies within int32 (policy/checks.py proves it); only the shares of source_zero, and of what weights of
 * ENGINE_FOURS are more than they stand for, may pass it on the way.
 */
#define INTEGER_POSITION(NAME, SOURCE, FACTOR, PAIRS, QUADS, FOURS)                                                \
    PAIR_SUM(NAME, SOURCE, PAIRS)                                                                                  \
    APART static void NAME##_sparse(const engine_step *s, const SOURCE *x, unsigned char *target, size_t i) {      \
        const ending e = ending_of(s);                                                                             \
        const ENGINE_ROM uint32_t *bias = s->bias;                                                                 \
        const ENGINE_ROM uint8_t *pair = s->weight;                                                                \
        const ENGINE_ROM uint16_t *const counts = COUNTS(s);                                                       \
        const size_t outputs = s->out_channels;                                                                    \
        for (size_t o = 0; o < outputs; o++) {                                                                     \
            const size_t n = counts[o];                                                                            \
            finish(s, &e, target, i + o, o, NAME##_pairs(x, pair, n, bias[o]));                                    \
            pair += 2 * n;                                                                                         \
        }                                                                                                          \
    }                                                                                                              \
    APART static void NAME##_packed(const engine_step *s, const window *v, const SOURCE *x, unsigned char *target, \
                                    size_t i) {                                                                    \
        const ending e = ending_of(s);                                                                             \
        const ENGINE_ROM uint32_t *bias = s->bias;                                                                 \
        const ENGINE_ROM uint8_t *byte = s->weight;                                                                \
        const uint32_t bits = s->bits, sign = 1u << (bits - 1), mask = 2 * sign - 1;                               \
        for (size_t o = 0; o < s->out_channels; o++) {                                                             \
            uint32_t sum = bias[o], held = 0, word = 0;                                                            \
            for (size_t b = 0; b < LINES(v); b++) {                                                                \
                const SOURCE *from = x + b * v->line, *const end = from + RUN(s, v);                               \
                if (!held) { /* at the start of a byte */                                                          \
                    EIGHTS(2)                                                                                      \
                    EIGHTS(3)                                                                                      \
                    EIGHTS(4)                                                                                      \
                    EIGHTS(5)                                                                                      \
                    EIGHTS(6)                                                                                      \
                    EIGHTS(7)                                                                                      \
                }                                                                                                  \
                for (; from < end; from++) {                                                                       \
                    if (held < bits) {                                                                             \
                        word |= (uint32_t)*byte++ << held;                                                         \
                        held += 8;                                                                                 \
                    }                                                                                              \
                    sum += (uint32_t)((int32_t)((word & mask) ^ sign) - (int32_t)sign) * (uint32_t)*from;          \
                    word >>= bits;                                                                                 \
                    held -= bits;                                                                                  \
                }                                                                                                  \
            }                                                                                                      \
            finish(s, &e, target, i + o, o, sum);                                                                  \
        }                                                                                                          \
    }                                                                                                              \
    ROW_SUM(NAME, SOURCE)                                                                                          \
    FOUR_SUMS(NAME, SOURCE, FACTOR, QUADS)                                                                         \
    APART static void NAME##_dense(const engine_step *s, const window *v, const SOURCE *x, unsigned char *target,  \
                                   size_t i) {                                                                     \
        const ending e = ending_of(s);                                                                             \
        const ENGINE_ROM uint32_t *bias = s->bias;                                                                 \
        const ENGINE_ROM uint8_t *weight = s->weight;                                                              \
        size_t left = s->out_channels, n = ENGINE_USE_FOURS && s->form == ENGINE_FOURS ? 4 : 1;                    \
        uint32_t sums[4], more = 0;                                                                                \
        FOURS                                                                                                      \
        if (ENGINE_USE_FOURS && n == 4)                                                                            \
            for (size_t b = 0; b < LINES(v); b++)                                                                  \
                for (const SOURCE *from = x + b * v->line, *const end = from + RUN(s, v); from != end;)            \
                    more += (uint32_t)*from++;                                                                     \
        for (size_t o = first; left; left -= n) {                                                                  \
            const SOURCE *from = x;                                                                                \
            if (ENGINE_USE_FOURS && left < 4) {                                                                    \
                n = 1;                                                                                             \
                more = 0;                                                                                          \
            }                                                                                                      \
            for (size_t j = 0; j < n; j++)                                                                         \
                sums[j] = bias[o + j] - 128 * more;                                                                \
            for (size_t b = 0; b < LINES(v); b++, from += v->line, weight += n * RUN(s, v)) {                      \
                if (ENGINE_USE_FOURS && n == 4)                                                                    \
                    NAME##_four(from, weight, RUN(s, v), sums);                                                    \
                else                                                                                               \
                    sums[0] = NAME##_row(from, (const ENGINE_ROM int8_t *)weight, RUN(s, v), sums[0]);             \
            }                                                                                                      \
            for (size_t j = 0; j < n; j++, o++)                                                                    \
                finish(s, &e, target, i + o, o, sums[j]);                                                          \
        }                                                                                                          \
    }                                                                                                              \
    static void NAME(const engine_step *s, const window *v, const SOURCE *x, unsigned char *target, size_t i) {    \
        if (ENGINE_USE_SPARSE && s->form == ENGINE_SPARSE)                                                         \
            NAME##_sparse(s, x, target, i);                                                                        \
        else if (ENGINE_USE_PACKED && s->form == ENGINE_PACKED)                                                    \
            NAME##_packed(s, v, x, target, i);                                                                     \
        else if (ENGINE_USE_DENSE)                                                                                 \
            NAME##_dense(s, v, x, target, i);                                                                      \
    }

INTEGER_POSITION(position_u8, uint8_t, unsigned, TWO_PAIRS_OF_BYTES, QUADS_OF_BYTES, FOURS_OF_BYTES)
#if ENGINE_USE_WIDE
INTEGER_POSITION(position_s32, int32_t, uint32_t, TWO_PAIRS, QUADS, FOURS_OF_WORDS)
#endif

#if ENGINE_USE_QUARTERS
/*
 * Layers of QUARTERS. With DSP instructions two products are one: of two weights, and of two inputs that lie together in
 * a table of all pairs of two fours.
 */
#if ENGINE_DSP
/* Loads do not run ahead of sums: compilers would spill them. */
#ifdef ENGINE_EMULATE_DSP
#define ONE_BY_ONE(sum, from) (void)0
#else
#define ONE_BY_ONE(sum, from) __asm__("" : "+r"(sum), "+r"(from))
#endif
#define QUARTERS_OF(SUM, w, at)                                                       \
    word = dsp_word(w + at);                                                          \
    SUM = dsp_add_products(SUM, pair[w[at + 8]], dsp_even_signed(word));              \
    SUM = dsp_add_products(SUM, pair[w[at + 9]], dsp_odd_signed(word));               \
    ONE_BY_ONE(SUM, w);                                                               \
    word = dsp_word(w + at + 4);                                                      \
    SUM = dsp_add_products(SUM, pair[w[at + 10]], dsp_even_signed(word));             \
    SUM = dsp_add_products(SUM, pair[w[at + 11]], dsp_odd_signed(word));              \
    ONE_BY_ONE(SUM, w);
#define QUARTERS_BLOCK(at)       \
    QUARTERS_OF(sum, w, at)      \
    QUARTERS_OF(other, v, at)
#define QUARTERS_PAIRS(j)                                 \
    pair[4 * j] = a | (high >> 8 * j & 0xFF) << 16;       \
    pair[4 * j + 1] = b | (high >> 8 * j & 0xFF) << 16;   \
    pair[4 * j + 2] = c | (high >> 8 * j & 0xFF) << 16;   \
    pair[4 * j + 3] = d | (high >> 8 * j & 0xFF) << 16;

/* The pairs of eight inputs. */
INLINED void quarters_pairs(const uint8_t *x, uint32_t *pair) {
    const uint32_t low = dsp_word(x), high = dsp_word(x + 4);
    const uint32_t a = low & 0xFF, b = low >> 8 & 0xFF, c = low >> 16 & 0xFF, d = low >> 24;
    QUARTERS_PAIRS(0)
    QUARTERS_PAIRS(1)
    QUARTERS_PAIRS(2)
    QUARTERS_PAIRS(3)
}

FOR_TIME APART static void position_quarters(const engine_step *s, const uint8_t *x, unsigned char *target) {
    const ending e = ending_of(s);
    const uint32_t *bias = s->bias;
    const uint8_t *w = s->weight;
    const size_t n = s->channels, blocks = (n + 31) / 32, outputs = s->out_channels;
    uint32_t table[64 * ENGINE_USE_QUARTERS], *pair = table, word;
    uint8_t last[32] = {0}; /* a block that is not whole */
    for (const uint8_t *const end = x + (n & ~(size_t)31); x != end; x += 8, pair += 16)
        quarters_pairs(x, pair);
    memcpy(last, x, n & 31);
    for (size_t k = 0; k < (n & 31); k += 8, pair += 16)
        quarters_pairs(last + k, pair);
    for (size_t o = 0; o < outputs; o += 2) { /* two at a time: loops cost as much as products */
        const size_t both = outputs - o > 1;
        const uint8_t *v = w + both * 12 * blocks;
        uint32_t sum = bias[o], other = bias[o + both];
        pair = table;
        for (const uint32_t *const end = table + 64 * (blocks & ~(size_t)1); pair != end; pair += 128) {
            QUARTERS_BLOCK(0)
            QUARTERS_BLOCK(12)
            w += 24;
            v += 24;
        }
        if (blocks & 1) {
            QUARTERS_BLOCK(0)
            v += 12;
        }
        finish(s, &e, target, o, o, sum);
        if (both)
            finish(s, &e, target, o + 1, o + 1, other);
        w = v;
    }
}
#else
/* The product of the one weight of four k. */
#define QUARTER(k)                                                                                                 \
    sum += (uint32_t)(int32_t)((int8_t)w[((k)&4) + ((k)&1) * 2 + ((k) >> 1 & 1)] *                                   \
                               x[4 * (k) + (w[8 + (k) / 2] >> ((k)&1) * 2 & 3)]);

APART static uint32_t quarters_sum(const uint8_t *x, const ENGINE_ROM uint8_t *w, size_t fours, uint32_t sum) {
    for (; fours >= 8; fours -= 8, x += 32, w += 12) {
        QUARTER(0)
        QUARTER(1)
        QUARTER(2)
        QUARTER(3)
        QUARTER(4)
        QUARTER(5)
        QUARTER(6)
        QUARTER(7)
    }
    for (size_t k = 0; k < fours; k++) {
        QUARTER(k)
    }
    return sum;
}

APART static void position_quarters(const engine_step *s, const uint8_t *x, unsigned char *target) {
    const ending e = ending_of(s);
    const ENGINE_ROM uint32_t *bias = s->bias;
    const ENGINE_ROM uint8_t *w = s->weight;
    const size_t fours = ((size_t)s->channels + 3) / 4, outputs = s->out_channels;
    for (size_t o = 0; o < outputs; o++, w += 12 * ((fours + 7) / 8))
        finish(s, &e, target, o, o, quarters_sum(x, w, fours, bias[o]));
}
#endif
#endif

#if ENGINE_USE_FLOAT
/* Whether every value of a window is finite. */
static int all_finite(const engine_step *s, const window *v, const float *x) {
    int finite = 1;
    (void)s;
#ifdef __SOFTFP__ /* to leave products out saves more than the answer */
    (void)v, (void)x;
    finite = 0;
#else
    for (size_t a = 0; a < PLANES(v); a++)
        for (size_t b = 0; b < LINES(v); b++)
            for (size_t k = 0; k < RUN(s, v); k++) {
                uint32_t bits;
                memcpy(&bits, x + a * v->plane + b * v->line + k, 4);
                finite &= (bits & 0x7F800000u) != 0x7F800000u;
            }
#endif
    return finite;
}

/* Products of n values and weights, added to sum one after another; zero weights are left out unless all are `finite`. */
APART_ON_DEVICES static float real_sum(const float *x, const ENGINE_ROM float *weight, size_t n, float sum, int finite) {
    const float *const end = x + n;
    if (finite) {
        for (const float *const even = end - n % 4; x != even; x += 4, weight += 4) {
            sum += weight[0] * x[0];
            sum += weight[1] * x[1];
            sum += weight[2] * x[2];
            sum += weight[3] * x[3];
        }
        for (; x != end; x++, weight++)
            sum += *weight * *x;
    } else
        for (; x != end; x++, weight++) {
            uint32_t bits;
            memcpy(&bits, weight, 4);
            if (bits << 1)
                sum += *weight * *x;
        }
    return sum;
}

/* Sums over the inputs ascending, zero weights left out, every product and every sum rounded. */
APART_ON_DEVICES static void position_f32(const engine_step *s, const window *v, const float *x, float *target,
                                          size_t step) {
    const ENGINE_ROM float *bias = s->bias;
    const ENGINE_ROM uint8_t *pair = s->weight;
    const ENGINE_ROM int8_t *weight = s->weight;
    const ENGINE_ROM float *real = s->weight;
    const int finite = s->form == ENGINE_REAL && all_finite(s, v, x);
    for (size_t o = 0; o < s->out_channels; o++) {
        const float *from = x;
        float sum = 0.0f;
        if (s->form == ENGINE_SPARSE) {
            for (uint32_t n = COUNTS(s)[o]; n; n--, pair += 2) {
                from += pair[0];
                if (pair[1])
                    sum += (float)(int8_t)pair[1] * *from;
            }
        } else {
            for (size_t a = 0; a < PLANES(v); a++)
                for (size_t b = 0; b < LINES(v); b++) {
                    from = x + a * v->plane + b * v->line;
                    if (s->form == ENGINE_REAL) {
                        sum = real_sum(from, real, RUN(s, v), sum, finite);
                        real += RUN(s, v);
                    } else
                        for (size_t k = 0; k < RUN(s, v); k++)
                            sum += (float)*weight++ * from[k];
                }
        }
        sum = sum * s->scale[s->per_output ? o : 0] + bias[o];
        target[o * step] = s->relu && !(sum > 0.0f) ? 0.0f : sum;
    }
}
#endif

/* Position i of `positions`, whose window begins with element `at` of the source. */
static inline void position(const engine_step *s, const window *v, const unsigned char *source, size_t at,
                            unsigned char *target, size_t i, size_t positions) {
#if ENGINE_USE_FLOAT
    if (s->source_type == ENGINE_F32) {
        position_f32(s, v, (const float *)(const void *)source + at, (float *)(void *)target + i, positions);
        return;
    }
#endif
#if ENGINE_USE_WIDE
    if (s->source_type == ENGINE_S32) {
        position_s32(s, v, (const int32_t *)(const void *)source + at, target, i * s->out_channels);
        return;
    }
#endif
    (void)positions;
#if ENGINE_USE_QUARTERS
    if (s->form == ENGINE_QUARTERS) {
        position_quarters(s, source, target);
        return;
    }
#endif
    position_u8(s, v, source + at, target, i * s->out_channels);
}

#if ENGINE_USE_IMAGES
static void layer(const engine_step *s, const unsigned char *source, unsigned char *target) {
    const int real = s->source_type == ENGINE_F32;
    const size_t pixel = real ? 1 : s->channels, line = s->width * pixel;
    const size_t positions = (size_t)s->out_height * s->out_width, plane = (size_t)s->height * s->width;
    window v = {real ? s->channels : 1, plane, s->kernel_height, line, s->kernel_width * pixel};
    size_t i = 0;
    if (plane == 1) { /* all planes follow one another */
        v.planes = 1;
        v.run = s->channels;
    }
    for (uint32_t y = 0; y < s->out_height; y++)
        for (uint32_t x = 0; x < s->out_width; x++, i++)
            position(s, &v, source, (size_t)y * s->stride_height * line + (size_t)x * s->stride_width * pixel, target,
                     i, positions);
}
#else
static void layer(const engine_step *s, const unsigned char *source, unsigned char *target) {
    const window v = {1, s->channels, 1, s->channels, s->channels};
    position(s, &v, source, 0, target, 0, 1);
}
#endif

#if ENGINE_USE_ENDS
/* ---- functions of floats ---- */

static uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}

static float from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

/* Minimax fits made for this project (policy/activations.py). */
ENGINE_API float engine_tanh(float x) {
    const uint32_t sign = bits_of(x) & 0x80000000u;
    float a = from_bits(bits_of(x) ^ sign), result;
    if (a != a)
        return x; /* NaN must reach the outputs, which are refused then */
    if (a > 10.0f)
        a = 10.0f;
    if (a < 0.625f) {
        const float z = a * a;
        float p = -0x1.76abf6p-8f;
        p = p * z + 0x1.5256cep-6f;
        p = p * z + -0x1.b84448p-5f;
        p = p * z + 0x1.110768p-3f;
        p = p * z + -0x1.555534p-2f;
        result = a + a * (z * p);
    } else {
        const float y = a + a;
        const uint32_t whole = (uint32_t)(y * 0x1.715476p+0f + 0.5f); /* floor: it is positive */
        const float n = (float)whole, s = (n * 0x1.62ep-1f - y) + n * 0x1.0bfbe8p-15f;
        float q = 0x1.6db4e4p-10f, e;
        q = q * s + 0x1.123be0p-7f;
        q = q * s + 0x1.55545ep-5f;
        q = q * s + 0x1.55548ep-3f;
        q = q * s + 0x1p-1f;
        e = ((s + (s * s) * q) + 1.0f) * from_bits((127 - whole) << 23);
        result = 1.0f - (e + e) / (1.0f + e);
    }
    return from_bits(bits_of(result) | sign);
}

#if ENGINE_USE_FLOAT
/*
 * What stands in policy/activations.py, in the same order: float32 +, -, * and / give the same bits everywhere. NaN
 * fails every comparison, and comes out.
 */
static float absolute(float x) {
    return from_bits(bits_of(x) & 0x7FFFFFFFu);
}

static float sigmoid(float x) {
    return (engine_tanh(x * 0.5f) + 1.0f) * 0.5f;
}

/* exp(-a) of a >= 0. */
static float exp_of_minus(float a) {
    const float t = engine_tanh(a * 0.5f);
    return (1.0f - t) / (1.0f + t);
}

/* x above 0, else alpha (exp(x) - 1); with x / wide in the place of x below. */
static float elu(float x, float wide, float alpha) {
    const float t = engine_tanh((x > 0.0f ? 0.0f : x / wide) * 0.5f);
    return x > 0.0f ? x : (t + t) / (1.0f - t) * alpha;
}

static float softplus(float x, float beta) {
    const float y = x * beta, e = exp_of_minus(absolute(y)), z = e / (e + 2.0f), w = z * z;
    float p = w * 0x1.231d7cp-2f + 0x1.1dc352p-2f, log;
    p = p * w + 0x1.99e3c6p-2f;
    p = p * w + 0x1.5554d0p-1f;
    log = (z + z) + (z * w) * p;
    return (y > 0.0f ? y + log : log) / beta;
}

static float mish(float x) {
    const float e = exp_of_minus(absolute(x)), twice = e + e, square = e * e;
    const float above = (twice + 1.0f) / ((twice + 1.0f) + (square + square));
    const float below = (square + twice) / ((square + twice) + 2.0f);
    return x * (x > 0.0f ? above : below);
}

/* The normal distribution's cumulative function. */
static float normal(float x) {
    const float u = absolute(x) * 0.70710678f, t = 1.0f / (u * 0.39f + 1.0f);
    float p = t * -0x1.cedceap-3f + 0x1.c2d436p-1f, half;
    p = p * t + -0x1.405094p-1f;
    p = p * t + 0x1.489c36p-1f;
    p = p * t + 0x1.82c7b2p-4f;
    p = p * t + 0x1.e0f9bap-3f;
    half = ((t * p) * exp_of_minus(u * u)) * 0.5f;
    return x > 0.0f ? 1.0f - half : half;
}

static float gelu_tanh(float x) {
    return (x * 0.5f) * (engine_tanh((x + ((x * x) * x) * 0.044715f) * 0.79788456f) + 1.0f);
}

static float clip32(float x, float low, float high) {
    return x < low ? low : x > high ? high : x;
}

static float hardsigmoid(float x) {
    return clip32(x + 3.0f, 0.0f, 6.0f) / 6.0f;
}

/* A row a function, by the number that it has there. Of one that is not here NaN comes out, which is refused. */
#define FUNCTION(number, value)                  \
    case number:                                 \
        if (ENGINE_USE_FUNCTIONS >> number & 1)  \
            return value;                        \
        break
static float function_of(unsigned number, const ENGINE_ROM float *parameter, float x) {
    switch (number) {
        FUNCTION(0, engine_tanh(x));
        FUNCTION(1, x > 0.0f ? x : x * parameter[0]);        /* leaky ReLU */
        FUNCTION(2, elu(x, 1.0f, parameter[0]));             /* ELU */
        FUNCTION(3, elu(x, 1.0f, 1.6732632f) * 1.0507010f);  /* SELU */
        FUNCTION(4, elu(x, parameter[0], parameter[0]));     /* CELU */
        FUNCTION(5, x * sigmoid(x));                         /* SiLU */
        FUNCTION(6, x * normal(x));                          /* GELU */
        FUNCTION(7, gelu_tanh(x));                           /* GELU by tanh */
        FUNCTION(8, mish(x));
        FUNCTION(9, softplus(x, parameter[0]));
        FUNCTION(10, sigmoid(x));
        FUNCTION(11, x / (absolute(x) + 1.0f));              /* softsign */
        FUNCTION(12, clip32(x, parameter[0], parameter[1])); /* hardtanh */
        FUNCTION(13, hardsigmoid(x));
        FUNCTION(14, x * hardsigmoid(x));                    /* hardswish */
        FUNCTION(15, softplus(x * -1.0f, 1.0f) * -1.0f);     /* log-sigmoid */
    default:
        break;
    }
    return from_bits(0x7FC00000u);
}
#endif
#endif

/* ---- other steps ---- */

static size_t source_size(const engine_step *s) {
#if ENGINE_USE_IMAGES
    return (size_t)s->height * s->width * s->channels;
#else
    return s->channels;
#endif
}

static size_t target_size(const engine_step *s) {
#if ENGINE_USE_IMAGES
    return (size_t)s->out_height * s->out_width * s->out_channels;
#else
    return s->out_channels;
#endif
}

#if ENGINE_USE_RELU
static void relu(const engine_step *s, const unsigned char *source, unsigned char *target) {
    const size_t n = source_size(s);
    if (ENGINE_USE_FLOAT && s->source_type == ENGINE_F32) {
        const float *from = (const void *)source;
        float *to = (void *)target;
        for (size_t i = 0; i < n; i++)
            to[i] = from[i] > 0.0f ? from[i] : 0.0f;
    } else if (ENGINE_USE_WIDE && s->source_type == ENGINE_S32) {
        const int32_t *from = (const void *)source;
        int32_t *to = (void *)target;
        for (size_t i = 0; i < n; i++)
            to[i] = from[i] > 0 ? from[i] : 0;
    } else
        for (size_t i = 0; i < n; i++)
            target[i] = source[i] > s->source_zero ? source[i] : s->source_zero;
}
#endif

#if ENGINE_USE_TABLES
APART static void look_up(const engine_step *s, const unsigned char *source, unsigned char *target) {
    const size_t n = source_size(s);
    for (size_t i = 0; i < n; i++)
        target[i] = (unsigned char)s->table[get(source, s->source_type, s->source_zero, i) - s->low];
}
#endif

#if ENGINE_USE_FLOAT && ENGINE_USE_ENDS
APART static void activate(const engine_step *s, const unsigned char *source, unsigned char *target) {
    const size_t n = source_size(s);
    const float *from = (const void *)source;
    float *to = (void *)target;
    for (size_t i = 0; i < n; i++)
        to[i] = function_of(s->function, s->parameters, from[i]);
}
#endif

#if ENGINE_USE_LAYER_NORM && ENGINE_USE_FLOAT && ENGINE_USE_ENDS
/*
 * The square root of v >= FLT_MIN, rounded to the nearest float: that of the 24 bits of v and 25 or 26 zeros, a bit after
 * another. It has one bit more than a float, and is never half way. NaN of what has overflowed, which is refused.
 */
static float square_root(float v) {
    const uint32_t bits = bits_of(v);
    const int32_t exponent = (int32_t)(bits >> 23) - 150;  /* v is a significand times 2 to this power */
    const uint32_t zeros = exponent & 1 ? 25 : 26;
    const uint64_t wanted = (uint64_t)((bits & 0x7FFFFFu) | 0x800000u) << zeros;
    uint32_t root = 0;
    if (!(v <= FLT_MAX))
        return from_bits(0x7FC00000u);
    for (uint32_t bit = 1u << 24; bit; bit >>= 1)
        if ((uint64_t)(root | bit) * (root | bit) <= wanted)
            root |= bit;
    return (float)((root + 1) >> 1) * from_bits((uint32_t)((exponent - (int32_t)zeros) / 2 + 1 + 127) << 23);
}

/* What stands in policy/norms.py, in the same order. */
APART static void layer_norm(const engine_step *s, const float *from, float *to) {
    const ENGINE_ROM float *weight = s->weight, *bias = s->bias;
    const size_t n = s->channels;
    const float count = (float)n;
    float sum = from[0], squares = 0.0f, mean, deviation;
    for (size_t i = 1; i < n; i++)
        sum += from[i];
    mean = sum / count;
    for (size_t i = 0; i < n; i++) {
        to[i] = from[i] - mean;
        squares += to[i] * to[i];
    }
    deviation = square_root(squares / count + s->parameters[0]);
    for (size_t i = 0; i < n; i++)
        to[i] = to[i] / deviation * weight[i] + bias[i];
}
#endif

#if ENGINE_USE_WINDOWS
/* Whether b takes the place of a as the largest so far; NaN does, and stays. */
#define LARGER(a, b) ((b) > (a) || (b) != (b))

/* `inner` neighbours at a time, whose windows lie alike: the channels of a pixel, or one value. */
#define MAX_POOL(NAME, TYPE)                                                                                    \
    static void NAME(const engine_step *s, const TYPE *source, TYPE *target, size_t inner) {                   \
        for (uint32_t y = 0; y < s->out_height; y++)                                                            \
            for (uint32_t x = 0; x < s->out_width; x++, target += inner) {                                      \
                const TYPE *from = source + ((size_t)y * s->stride_height * s->width + x * s->stride_width) * inner; \
                memcpy(target, from, inner * sizeof *target);                                                   \
                for (size_t i = 0; i < s->kernel_height; i++)                                                   \
                    for (size_t j = 0; j < s->kernel_width; j++)                                                \
                        for (size_t c = 0; c < inner; c++) {                                                    \
                            const TYPE value = from[(i * s->width + j) * inner + c];                            \
                            target[c] = LARGER(target[c], value) ? value : target[c];                           \
                        }                                                                                       \
            }                                                                                                   \
    }

MAX_POOL(max_pool_u8, uint8_t)
MAX_POOL(max_pool_s32, int32_t)
#if ENGINE_USE_FLOAT
MAX_POOL(max_pool_f32, float)
#endif

static void max_pool(const engine_step *s, const unsigned char *source, unsigned char *target) {
    if (s->source_type == ENGINE_U8) {
        max_pool_u8(s, source, target, s->channels);
        return;
    }
    if (s->source_type == ENGINE_S32) {
        max_pool_s32(s, (const void *)source, (void *)target, s->channels);
        return;
    }
#if ENGINE_USE_FLOAT
    const size_t plane = (size_t)s->height * s->width, out = (size_t)s->out_height * s->out_width;
    for (size_t c = 0; c < s->channels; c++)
        max_pool_f32(s, (const float *)(const void *)source + c * plane, (float *)(void *)target + c * out, 1);
#endif
}

static void pad(const engine_step *s, const unsigned char *source, unsigned char *target) {
    const int real = s->source_type == ENGINE_F32;
    const size_t size = s->source_type == ENGINE_U8 ? 1 : 4, pixel = real ? 1 : s->channels;
    const size_t line = s->width * pixel * size, out_line = s->out_width * pixel * size;
    const size_t planes = real ? s->channels : 1, n = target_size(s);
    if (s->source_type == ENGINE_U8)
        memset(target, (int)s->fill, n);
    else if (s->source_type == ENGINE_S32)
        for (size_t i = 0; i < n; i++)
            ((int32_t *)(void *)target)[i] = s->fill;
    else {
        const uint32_t bits = s->fill ? 0xFF800000u : 0; /* minus infinity, or 0 */
        float value;
        memcpy(&value, &bits, 4);
        for (size_t i = 0; i < n; i++)
            ((float *)(void *)target)[i] = value;
    }
    target += s->padding_height * out_line + s->padding_width * pixel * size;
    for (size_t p = 0; p < planes; p++)
        for (size_t y = 0; y < s->height; y++)
            memcpy(target + (p * s->out_height + y) * out_line, source + (p * s->height + y) * line, line);
}

static void flatten(const engine_step *s, const unsigned char *source, unsigned char *target) {
    const size_t pixels = (size_t)s->height * s->width, channels = s->channels;
    for (size_t p = 0; p < pixels; p++)
        for (size_t c = 0; c < channels; c++)
            put(s, target, c * pixels + p, get(source, s->source_type, s->source_zero, p * channels + c));
}
#endif

#if ENGINE_USE_ADD
static void add(const engine_step *s, const unsigned char *source, const unsigned char *second,
                unsigned char *target) {
    const size_t n = source_size(s);
    if (ENGINE_USE_FLOAT && s->source_type == ENGINE_F32) {
        const float *a = (const void *)source, *b = (const void *)second;
        float *to = (void *)target;
        for (size_t i = 0; i < n; i++)
            to[i] = a[i] + b[i];
        return;
    }
    for (size_t i = 0; i < n; i++) {
        const size_t c = i % s->channels, j = s->per_output ? c : 0, k = s->second_per_output ? c : 0;
        const int64_t a = requantize(get(source, s->source_type, s->source_zero, i), s->multiplier[j], s->shift[j]);
        const int64_t b =
            requantize(get(second, s->second_type, s->second_zero, i), s->second_multiplier[k], s->second_shift[k]);
        put(s, target, i,
            clip((int64_t)clip(a, INT32_MIN, INT32_MAX) + clip(b, INT32_MIN, INT32_MAX), s->low, s->high));
    }
}
#endif

#if ENGINE_USE_STATE
/* ---- what is remembered ---- */

/* `n` values of a state: int16_t, or float where the target holds values. */
static void recall(const engine_step *s, size_t n, const void *state, unsigned char *target) {
    if (ENGINE_USE_FLOAT && s->target_type == ENGINE_F32)
        memcpy(target, state, n * sizeof(float));
    else
        for (size_t i = 0; i < n; i++)
            put(s, target, i, ((const int16_t *)state)[i]);
}

static void history(const engine_step *s, const unsigned char *source, void *state, unsigned char *target) {
    const size_t fresh = s->channels, kept = s->out_channels - fresh;
    recall(s, kept, state, target);
    if (ENGINE_USE_FLOAT && s->target_type == ENGINE_F32) {
        memcpy(target + kept * sizeof(float), source, fresh * sizeof(float));
        memcpy(state, target + fresh * sizeof(float), kept * sizeof(float));
        return;
    }
    for (size_t i = 0; i < fresh; i++)
        put(s, target, kept + i, get(source, s->source_type, s->source_zero, i));
    for (size_t i = 0; i < kept; i++)
        ((int16_t *)state)[i] = (int16_t)get(target, s->target_type, s->target_zero, fresh + i);
}

#if ENGINE_USE_CELLS
#if ENGINE_USE_TABLES
/* Places of ratios. */
enum { CELL_GATE, CELL_CANDIDATE, CELL_FORGET, CELL_INPUT, GRU_RESET, LSTM_CELL = GRU_RESET, LSTM_OUTPUT };

/* The values i of both sources. */
#define CELL_X(i) get(x, s->source_type, s->source_zero, i)
#define CELL_Y(i) get(y, s->second_type, s->second_zero, i)

static int32_t cell_scaled(const engine_step *s, unsigned ratio, int32_t value) {
    const ENGINE_ROM int16_t *number = s->cell + ENGINE_CELL_RATIOS + 2 * ratio;
    return clip(requantize(value, (uint8_t)number[0], (uint8_t)number[1]), INT32_MIN, INT32_MAX);
}

static int32_t cell_within(const engine_step *s, unsigned limit, int64_t value) {
    return clip(value, -s->cell[limit], s->cell[limit]);
}

static int32_t cell_sigmoid(const engine_step *s, int32_t value) {
    return s->sigmoid[cell_within(s, ENGINE_CELL_SIGMOID, cell_scaled(s, CELL_GATE, value)) + s->cell[ENGINE_CELL_SIGMOID]];
}

static int32_t cell_tanh(const engine_step *s, unsigned ratio, int32_t value) {
    const int32_t code = cell_within(s, ENGINE_CELL_TANH, cell_scaled(s, ratio, value));
    return code < 0 ? -s->table[-code] : s->table[code];
}

static int16_t cell_updated(const engine_step *s, unsigned limit, int16_t old, int32_t lost, int32_t added) {
    const int64_t less = cell_scaled(s, CELL_FORGET, lost * old), more = cell_scaled(s, CELL_INPUT, added);
    return (int16_t)cell_within(s, limit, old - less + more);
}

APART static void gru(const engine_step *s, const unsigned char *x, const unsigned char *y, int16_t *h,
                      unsigned char *target) {
    const size_t units = s->out_channels;
    for (size_t u = 0; u < units; u++) {
        const size_t v = units + u, w = units + v;
        const int32_t reset = cell_sigmoid(s, CELL_X(u) + CELL_Y(u));
        const int32_t lost = s->cell[ENGINE_CELL_ONE] - cell_sigmoid(s, CELL_X(v) + CELL_Y(v));
        const int32_t part = CELL_X(w) + cell_scaled(s, GRU_RESET, reset * CELL_Y(w));
        h[u] = cell_updated(s, ENGINE_CELL_H, h[u], lost, lost * cell_tanh(s, CELL_CANDIDATE, part));
        put(s, target, u, h[u]);
    }
}

APART static void lstm(const engine_step *s, const unsigned char *x, const unsigned char *y, int16_t *h,
                       unsigned char *target) {
    const size_t units = s->out_channels;
    int16_t *c = h + units;
    for (size_t u = 0; u < units; u++) {
        const size_t v = units + u, w = units + v, o = units + w;
        const int32_t taken = cell_sigmoid(s, CELL_X(u) + CELL_Y(u));
        const int32_t lost = s->cell[ENGINE_CELL_ONE] - cell_sigmoid(s, CELL_X(v) + CELL_Y(v));
        const int32_t candidate = cell_tanh(s, CELL_CANDIDATE, CELL_X(w) + CELL_Y(w));
        const int32_t given = cell_sigmoid(s, CELL_X(o) + CELL_Y(o));
        c[u] = cell_updated(s, ENGINE_CELL_C, c[u], lost, taken * candidate);
        h[u] = (int16_t)cell_within(s, ENGINE_CELL_H, cell_scaled(s, LSTM_OUTPUT, given * cell_tanh(s, LSTM_CELL, c[u])));
        put(s, target, u, h[u]);
    }
}

#endif

#if ENGINE_USE_FLOAT && ENGINE_USE_ENDS
static void gru_f32(const engine_step *s, const float *x, const float *y, float *h) {
    const size_t units = s->out_channels;
    for (size_t u = 0; u < units; u++) {
        const size_t v = units + u, w = units + v;
        const float reset = sigmoid(x[u] + y[u]), update = sigmoid(x[v] + y[v]);
        const float candidate = engine_tanh(x[w] + reset * y[w]);
        h[u] = (1.0f - update) * candidate + update * h[u];
    }
}

static void lstm_f32(const engine_step *s, const float *x, const float *y, float *h) {
    const size_t units = s->out_channels;
    float *c = h + units;
    for (size_t u = 0; u < units; u++) {
        const size_t v = units + u, w = units + v, o = units + w;
        const float taken = sigmoid(x[u] + y[u]), kept = sigmoid(x[v] + y[v]), given = sigmoid(x[o] + y[o]);
        c[u] = kept * c[u] + taken * engine_tanh(x[w] + y[w]);
        h[u] = given * engine_tanh(c[u]);
    }
}
#endif

static void cell(const engine_step *s, const unsigned char *x, const unsigned char *y, void *state,
                 unsigned char *target) {
#if ENGINE_USE_FLOAT && ENGINE_USE_ENDS
    if (s->source_type == ENGINE_F32) {
        if (ENGINE_USE_GRU && s->kind == ENGINE_GRU)
            gru_f32(s, (const void *)x, (const void *)y, state);
        else if (ENGINE_USE_LSTM)
            lstm_f32(s, (const void *)x, (const void *)y, state);
        memcpy(target, state, s->out_channels * sizeof(float));
        return;
    }
#endif
#if ENGINE_USE_TABLES
    if (ENGINE_USE_GRU && s->kind == ENGINE_GRU)
        gru(s, x, y, state, target);
    else if (ENGINE_USE_LSTM)
        lstm(s, x, y, state, target);
#endif
}
#endif

ENGINE_API void engine_step_remember(const engine_step *s, unsigned char *work, size_t rows, void *state, size_t size) {
    const size_t source = source_size(s) * (s->source_type == ENGINE_U8 ? 1 : 4);
    const size_t target = target_size(s) * (s->target_type == ENGINE_U8 ? 1 : 4);
    const size_t value = s->target_type == ENGINE_F32 ? sizeof(float) : sizeof(int16_t);
    for (size_t r = 0; r < rows; r++) {
        const unsigned char *from = work + s->source * rows + r * source;
        unsigned char *to = work + s->target * rows + r * target;
        void *part = (unsigned char *)state + (r * size + s->state) * value;
        switch (s->kind) {
        case ENGINE_RECALL:
            recall(s, target_size(s), part, to);
            break;
        case ENGINE_HISTORY:
            history(s, from, part, to);
            break;
#if ENGINE_USE_CELLS
        case ENGINE_GRU:
        case ENGINE_LSTM:
            cell(s, from, work + s->second * rows + r * source_size(s) * (s->second_type == ENGINE_U8 ? 1 : 4), part, to);
            break;
#endif
        default:
            break;
        }
    }
}
#endif

/* ---- network ---- */

ENGINE_API void engine_step_run(const engine_step *s, unsigned char *work, size_t rows) {
    const size_t source = source_size(s) * (s->source_type == ENGINE_U8 ? 1 : 4);
#if ENGINE_USE_ADD
    const size_t second = source_size(s) * (s->second_type == ENGINE_U8 ? 1 : 4);
#endif
    const size_t target = target_size(s) * (s->target_type == ENGINE_U8 ? 1 : 4);
    for (size_t r = 0; r < rows; r++) {
        const unsigned char *from = work + s->source * rows + r * source;
        unsigned char *to = work + s->target * rows + r * target;
        switch (s->kind) {
        case ENGINE_LAYER:
            layer(s, from, to);
            break;
#if ENGINE_USE_RELU
        case ENGINE_RELU:
            relu(s, from, to);
            break;
#endif
#if ENGINE_USE_ADD
        case ENGINE_ADD:
            add(s, from, work + s->second * rows + r * second, to);
            break;
#endif
#if ENGINE_USE_TABLES
        case ENGINE_LOOK_UP:
            look_up(s, from, to);
            break;
#endif
#if ENGINE_USE_WINDOWS
        case ENGINE_MAX_POOL:
            max_pool(s, from, to);
            break;
        case ENGINE_PAD:
            pad(s, from, to);
            break;
        case ENGINE_FLATTEN:
            flatten(s, from, to);
            break;
#endif
#if ENGINE_USE_FLOAT && ENGINE_USE_ENDS
        case ENGINE_ACTIVATE:
            activate(s, from, to);
            break;
#endif
#if ENGINE_USE_LAYER_NORM && ENGINE_USE_FLOAT && ENGINE_USE_ENDS
        case ENGINE_LAYER_NORM:
            layer_norm(s, (const void *)from, (void *)to);
            break;
#endif
        default:
            break;
        }
    }
}

#if ENGINE_USE_ENDS
ENGINE_API void engine_run(const engine_network *network, unsigned char *work, size_t rows, void *state) {
    (void)state;
    for (uint32_t i = 0; i < network->step_count; i++) {
        const engine_step *s = &network->steps[i];
#if ENGINE_USE_STATE
        if (s->kind >= ENGINE_RECALL) {
            engine_step_remember(s, work, rows, state, network->state_size);
            continue;
        }
#endif
#if ENGINE_USE_KERNELS
        (s->run ? s->run : engine_step_run)(s, work, rows);
#else
        engine_step_run(s, work, rows);
#endif
    }
}

/* ---- float at both ends ---- */

static int finite32(float x) {
    return (bits_of(x) & 0x7F800000u) != 0x7F800000u;
}

#ifdef ENGINE_OBSERVES /* an export does, by integers alone */
static int observe(const engine_input *in, const void *observation, unsigned char *target);
#else

#if ENGINE_USE_DOUBLE
static int finite64(double x) {
    return x - x == 0.0;
}

static double wide_value(unsigned dtype, const void *from, uint32_t i) {
#define WIDE_VALUE(number, TYPE)                           \
    if (ENGINE_USE_DTYPES >> number & 1 && dtype == number) \
        return (double)((const TYPE *)from)[i];
    ENGINE_OF_DTYPES(WIDE_VALUE)
    return 0.0;
}
#endif

enum { TOGETHER = 8 }; /* values of an observation that are on their way at once */

/* `n` values of an observation from `first` on as float32, normalized; not finite if they cannot be. */
static void read(const engine_input *in, const void *observation, uint32_t first, uint32_t n, float *x) {
    static const uint8_t size[] = {4, 8, 1, 1, 2, 4, 8};
    const unsigned char *from = (const unsigned char *)observation + (size_t)first * size[in->dtype];
#define READ(number, TYPE)                                     \
    if (ENGINE_USE_DTYPES >> number & 1 && in->dtype == number) \
        for (uint32_t i = 0; i < n; i++)                       \
            x[i] = (float)((const TYPE *)from)[i];
    ENGINE_OF_DTYPES(READ)
#if ENGINE_USE_DOUBLE
    for (uint32_t i = 0; in->mean && i < n; i++) {
        const double value = wide_value(in->dtype, from, i);
        const double y = (value - in->mean[first + i]) / in->deviation[first + i];
        x[i] = !finite64(value) ? from_bits(0x7F800000u) : (float)(y < -in->clip ? -in->clip : y > in->clip ? in->clip : y);
    }
#endif
    for (uint32_t i = 0; in->image && i < n; i++)
        x[i] = x[i] / 255.0f;
}

/* Codes of `n` values from `first` on. Limits are integers, so clipping may come before rounding halves to even. */
static void quantize(const engine_input *in, const float *x, uint32_t first, uint32_t n, int32_t *codes) {
    const float half = 12582912.0f; /* 1.5 * 2^23 */
    const float *inverse_scale = in->inverse_scale + (in->per_feature ? first : 0);
    for (uint32_t i = 0; i < n; i++) {
        const int32_t zero = in->zero_point ? in->zero_point[in->per_feature ? first + i : 0] : 0;
        const float low = (float)(in->low + zero), high = (float)(in->high + zero);
        float y = x[i] * inverse_scale[in->per_feature ? i : 0];
        y = y < low ? low : y > high ? high : y;
        codes[i] = (int32_t)((y + half) - half) - zero;
    }
}

static int observe(const engine_input *in, const void *observation, unsigned char *target) {
    uint32_t at = 0;
    for (uint32_t first = 0; first < in->size; first += TOGETHER) {
        const uint32_t n = in->size - first < TOGETHER ? in->size - first : TOGETHER;
        float x[TOGETHER];
        int32_t codes[TOGETHER];
        int finite = 1;
        read(in, observation, first, n, x);
        for (uint32_t i = 0; i < n; i++)
            finite &= finite32(x[i]);
        if (!finite)
            return ENGINE_NOT_FINITE;
        if (in->target_type == ENGINE_F32) {
            memcpy(target + (size_t)first * 4, x, n * sizeof *x);
            continue;
        }
        quantize(in, x, first, n, codes);
        for (uint32_t i = 0; i < n; i++) {
            if (in->target_type == ENGINE_S32)
                ((int32_t *)(void *)target)[at] = codes[i];
            else
                target[at] = (unsigned char)(codes[i] + in->target_zero);
#if ENGINE_USE_IMAGES
            at += in->channels; /* to the same channel of the next pixel, or the next channel of the first one */
            if (at >= in->size)
                at -= in->size - 1;
#else
            at++;
#endif
        }
    }
    return ENGINE_OK;
}

#endif /* ENGINE_OBSERVES */

#if ENGINE_USE_IMAGES
/* Pixels whose codes are known: by `codes`, or themselves. */
static void observe_pixels(const engine_input *in, const uint8_t *pixel, unsigned char *target) {
    const uint32_t channels = in->channels, pixels = in->pixels;
    if (!in->codes && channels == 4)
        for (uint32_t p = 0; p < pixels; p++, target += 4) { /* in one step a pixel: vectors, where there are any */
            target[0] = pixel[p];
            target[1] = pixel[pixels + p];
            target[2] = pixel[2 * pixels + p];
            target[3] = pixel[3 * pixels + p];
        }
    else
        for (uint32_t p = 0; p < pixels; p++)
            for (uint32_t c = 0; c < channels; c++) {
                const uint8_t value = pixel[c * pixels + p];
                *target++ = in->codes ? in->codes[value] : value;
            }
}
#endif

static uint32_t largest(const float *values, uint32_t n) {
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        if (values[i] > values[best])
            best = i;
    return best;
}

static void act(const engine_output *out, const float *values, unsigned char *action) {
    if (ENGINE_USE_ACTIONS >> ENGINE_DISCRETE & 1 && out->kind == ENGINE_DISCRETE) {
        const int64_t choice = (int64_t)largest(values, out->outputs) + out->start;
        memcpy(action, &choice, 8);
        return;
    }
    if (ENGINE_USE_ACTIONS >> ENGINE_MULTI_DISCRETE & 1 && out->kind == ENGINE_MULTI_DISCRETE) {
        for (uint32_t g = 0; g < out->groups; values += out->nvec[g++]) {
            const int64_t choice = (int64_t)largest(values, out->nvec[g]);
            memcpy(action + 8 * (size_t)g, &choice, 8);
        }
        return;
    }
    if (ENGINE_USE_ACTIONS >> ENGINE_MULTI_BINARY & 1 && out->kind == ENGINE_MULTI_BINARY) {
        for (uint32_t i = 0; i < out->outputs; i++) {
            const int64_t choice = values[i] > 0.0f;
            memcpy(action + 8 * (size_t)i, &choice, 8);
        }
        return;
    }
    for (uint32_t i = 0; ENGINE_USE_ACTIONS >> ENGINE_BOX & 1 && i < out->outputs; i++) {
        const float low = out->low[i], high = out->high[i];
        float y = values[i];
        if (ENGINE_USE_SQUASH && out->squash) {
            const float half = 0.5f * (engine_tanh(y) + 1.0f);
            y = low + half * (high - low);
        } else {
            y = y > low ? y : low;
            y = y < high ? y : high;
        }
        if (ENGINE_USE_WIDE_ACTIONS && out->wide) {
            const double wide = (double)y;
            memcpy(action + 8 * (size_t)i, &wide, 8);
        } else
            memcpy(action + 4 * (size_t)i, &y, 4);
    }
}

static int to_outputs(const engine_network *n, const void *observations, size_t rows, void *state, unsigned char *work) {
    const engine_input *in = &n->input;
    const engine_output *out = &n->output;
    const size_t size = (size_t)in->size * (in->target_type == ENGINE_U8 ? 1 : 4), total = rows * out->outputs;
    float *values = (float *)(void *)(work + out->target * rows);
    int finite = 1;
#if ENGINE_USE_KERNELS
    if (in->run) {
        if (in->run(in, observations, rows, work + in->target * rows))
            return ENGINE_NOT_FINITE;
    } else
#endif
        for (size_t r = 0; r < rows; r++) {
            const unsigned char *from = (const unsigned char *)observations + r * n->observation_size;
            unsigned char *to = work + in->target * rows + r * size;
#if ENGINE_USE_IMAGES
            if (in->pixel_codes) {
                observe_pixels(in, from, to);
                continue;
            }
#endif
            if (observe(in, from, to))
                return ENGINE_NOT_FINITE;
        }
    engine_run(n, work, rows, state);
    if (out->source_type == ENGINE_S32) {
        const int32_t *sums = (const int32_t *)(const void *)(work + out->source * rows);
#if ENGINE_USE_KERNELS
        if (out->to_values)
            out->to_values(out, sums, total, values);
        else
#endif
            for (size_t r = 0; r < total; r += out->outputs)
                for (size_t i = 0; i < out->outputs; i++)
                    values[r + i] = (float)sums[r + i] * out->scale[out->per_output ? i : 0];
    }
    for (size_t i = 0; i < total; i++)
        finite &= finite32(values[i]);
    return finite ? ENGINE_OK : ENGINE_OVERFLOW;
}

ENGINE_API int engine_predict(const engine_network *n, const void *observations, size_t rows, void *actions, void *state,
                              void *work) {
    const float *values = (const float *)(const void *)((unsigned char *)work + n->output.target * rows);
    const int status = to_outputs(n, observations, rows, state, work);
    if (status)
        return status;
#if ENGINE_USE_KERNELS
    if (n->output.to_actions) {
        n->output.to_actions(&n->output, values, rows, actions);
        return ENGINE_OK;
    }
#endif
    for (size_t r = 0; r < rows; r++)
        act(&n->output, values + r * n->output.outputs, (unsigned char *)actions + r * n->action_size);
    return ENGINE_OK;
}

ENGINE_API int engine_outputs(const engine_network *n, const void *observations, size_t rows, float *outputs, void *state,
                              void *work) {
    const int status = to_outputs(n, observations, rows, state, work);
    if (!status)
        memcpy(outputs, (unsigned char *)work + n->output.target * rows, rows * n->output.outputs * sizeof(float));
    return status;
}
#endif
