/* What the kernels of all instruction sets share. */
#ifndef POLICYPRESS_ENGINE_KERNELS_H
#define POLICYPRESS_ENGINE_KERNELS_H

#include <string.h>

#include "engine.h"

#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16") /* so that sums stay in registers */
#endif

enum {
    MOST_COLUMNS = 1024, /* inputs of a sparse float layer: 128 kB on the stack at most */
    MOST_INPUTS = 8192,  /* of a window of a sparse integer layer, which is copied to the stack */
    SLACK_INPUTS = 256   /* of these that may be read past its end */
};

/* What one step's kernel wants. Vectors are padded to whole groups of outputs. */
typedef struct {
    const char *name;
    uint32_t inputs, groups; /* bytes by four, or floats, of a window; groups of outputs */
    int narrow;              /* codes are bytes and requantized in 32 bits */
    int zeros;               /* float layers: there are zero weights */
    int single_sparse, batch_sparse; /* leave them out for few positions, for many */
    size_t plane;            /* floats from one output of a position to the next */
    const void *weight;
    const uint32_t *places; /* where in a window inputs lie, in elements */
    const void *bias;
    const int32_t *multiplier, *half, *shift, *table;
    const float *scale;
    const uint16_t *columns, *counts; /* nonzero weights of float layers */
    const float *values;
    const uint8_t *sparse;   /* integer layers without their zero weights */
    const uint16_t *steps;   /* of each group and chunk of inputs, as `chunk` of kernels says */
    uint32_t window, chunks; /* inputs of a position, and in how many parts */
} prepared;

/* One instruction set: its vectors, and a kernel for each kind of step, NULL where it has none. */
typedef struct {
    const char *name;
    uint32_t lanes, groups, real_groups; /* of a vector; of a block, most of them */
    engine_kernel *dense, *sparse, *real, *add;
    engine_observe *observe;
    engine_to_values *scale;
    engine_to_actions *squash;
    uint32_t chunk; /* inputs out of which a sparse step picks any */
    /* Of a sparse step, for many positions and for few, of a chunk, and of copying a window, in halves of what a product
       of a vector of bytes takes a dense layer (benchmarks/kernels.py). */
    uint32_t step_cost, step_cost_few, chunk_cost, window_cost;
} kernels;

/* What every set of kernels has of its instructions. */
#define KERNELS_OF(isa) \
    .lanes = LANES, .groups = GROUPS, .real_groups = REAL_GROUPS, .dense = dense_##isa, .real = real_##isa, \
    .add = add_##isa, .observe = observe_##isa, .scale = scale_##isa, .squash = squash_##isa

extern const kernels engine_avx512vbmi, engine_avx512, engine_avxvnnisparse, engine_avxvnni, engine_avx2sparse,
    engine_avx2;

/*
 * Groups of outputs whose weights lie together: as many as `most`, or the largest power of two of those that are left.
 * The weights of a block follow one another, input for input.
 */
static inline uint32_t block_width(uint32_t left, uint32_t most) {
    while (most > left)
        most /= 2;
    return most;
}

/* From so many positions on a dense layer holds the sums of several at once, and its products take less. */
enum { MANY = 6 };

/* Every place of a window, over all rows. */
typedef struct {
    const engine_step *s;
    const unsigned char *source;
    unsigned char *target;
    size_t rows, row, row_bytes, pixel_bytes, line_bytes;
    uint32_t y, x;
} positions;

static inline positions all_positions(const engine_step *s, unsigned char *work, size_t rows) {
    const int real = s->source_type == ENGINE_F32;
    positions p = {s, work + s->source * rows, work + s->target * rows, rows, 0, 0, 0, 0, 0, 0};
    p.pixel_bytes = real ? 4 : s->channels;
    p.line_bytes = p.pixel_bytes * s->width;
    p.row_bytes = (size_t)s->height * s->width * s->channels * (real ? 4 : 1);
    return p;
}

/* The next positions, `most` at most: where their windows begin and their elements of the target lie. */
static inline unsigned next_positions(positions *p, const unsigned char **x, size_t *at, unsigned most) {
    const engine_step *s = p->s;
    const size_t pixels = (size_t)s->out_height * s->out_width;
    unsigned n = 0;
    if (pixels == 1) {
        for (; n < most && p->row < p->rows; n++, p->row++) {
            x[n] = p->source + p->row * p->row_bytes;
            at[n] = p->row * s->out_channels;
        }
        return n;
    }
    for (; n < most && p->row < p->rows; n++) {
        const size_t pixel = (size_t)p->y * s->out_width + p->x;
        x[n] = p->source + p->row * p->row_bytes + p->y * s->stride_height * p->line_bytes +
               p->x * s->stride_width * p->pixel_bytes;
        at[n] = s->source_type == ENGINE_F32 ? p->row * pixels * s->out_channels + pixel
                                             : (p->row * pixels + pixel) * s->out_channels;
        if (++p->x == s->out_width) {
            p->x = 0;
            if (++p->y == s->out_height) {
                p->y = 0;
                p->row++;
            }
        }
    }
    return n;
}

#endif
