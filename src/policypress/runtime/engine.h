/*
 * Inference of frozen policies: raw observation in, environment action out, the same bits everywhere.
 *
 * C99, no allocation, nothing from libc but memcpy and memset, no libm. All state is in memory of the caller, so any
 * number of threads may run one network. engine.c has the portable kernels; `run` of a step may point to a faster one.
 * What is computed: docs/arithmetic.md. The structures are filled by runtime/lower.py and by the C that it exports.
 */
#ifndef POLICYPRESS_ENGINE_H
#define POLICYPRESS_ENGINE_H

#include <stddef.h>
#include <stdint.h>

#include "engine_call.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Linkage: an export holds the engine and the network in one file, so that no other engine can answer for it. */
#ifndef ENGINE_API
#define ENGINE_API
#endif

/*
 * What a build leaves out, to be smaller: padding, pooling and flattening of images, codes wider than 8 bits, each form
 * of integer layers' weights, float. An export defines them on top of its file.
 */
#ifndef ENGINE_USE_IMAGES
#define ENGINE_USE_IMAGES 1
#endif
#ifndef ENGINE_USE_WIDE /* in layers and ReLU */
#define ENGINE_USE_WIDE 1
#endif
#ifndef ENGINE_USE_DENSE
#define ENGINE_USE_DENSE 1
#endif
#ifndef ENGINE_USE_SPARSE
#define ENGINE_USE_SPARSE 1
#endif
#ifndef ENGINE_USE_PACKED /* bit b is set where weights of b bits are to be fast, 2 to 7; others are read bit by bit */
#define ENGINE_USE_PACKED 0xFC
#endif
#ifndef ENGINE_USE_FLOAT /* layers of float activations; 0 keeps float at both ends of the network */
#define ENGINE_USE_FLOAT 1
#endif
#ifndef ENGINE_USE_DOUBLE /* float64 arithmetic (6 kB of library on a Cortex-M0): normalization, int64 observations */
#define ENGINE_USE_DOUBLE 1
#endif
#ifndef ENGINE_USE_ENDS /* observation to codes, accumulators to action: 0 leaves a build without any float */
#if defined(__SIZEOF_DOUBLE__) && __SIZEOF_DOUBLE__ < 8
#define ENGINE_USE_ENDS 0 /* they need a double of 64 bits */
#else
#define ENGINE_USE_ENDS 1
#endif
#endif

/* Sizes and places in memory: 32 bits, or those of size_t where it has fewer. */
#if SIZE_MAX < UINT32_MAX
typedef size_t engine_size;
#else
typedef uint32_t engine_size;
#endif

/* Where constants of layers lie. The ends read theirs from RAM. */
#if ENGINE_USE_ENDS
#define ENGINE_ROM
#else
#define ENGINE_ROM ENGINE_FLASH
#endif

/*
 * Tensors. U8 holds code + zero in a byte, where `zero` is the byte that stands for code 0; S32 holds codes or
 * accumulators; F32 values. Integer images are stored (height, width, channels), float ones (channels, height, width).
 */
enum engine_type { ENGINE_U8, ENGINE_S32, ENGINE_F32 };

enum engine_kind {
    ENGINE_LAYER,    /* convolution without padding; a linear layer is one of 1 x 1 on a vector */
    ENGINE_RELU,     /* elementwise */
    ENGINE_TANH,     /* elementwise, F32 only: integer layers have tables */
    ENGINE_MAX_POOL, /* without padding */
    ENGINE_PAD,      /* `fill` around an image */
    ENGINE_FLATTEN,  /* (height, width, channels) to (channels, height, width) */
    ENGINE_ADD       /* clip(requantized source + requantized second); F32: source + second */
};

/*
 * Weights. DENSE: int8, (outputs, inputs of a window in the order of memory). PACKED: the same in `bits` bits each,
 * lowest bits first, every output from a new byte on. SPARSE: for each output, `counts` pairs of bytes: how far to go
 * on in memory, in elements, and the int8 to multiply with. REAL: float32.
 */
enum engine_form { ENGINE_DENSE, ENGINE_PACKED, ENGINE_SPARSE, ENGINE_REAL };

/* What becomes of the sum of an integer layer: itself; a code; a code that a table of tanh turns into another. */
enum engine_finish { ENGINE_KEEP, ENGINE_REQUANTIZE, ENGINE_TABLE };

typedef struct engine_step engine_step;
typedef void (*engine_kernel)(const engine_step *step, unsigned char *work, size_t rows);

struct engine_step {
    uint8_t kind, form, finish;
    uint8_t relu;                     /* of a layer that is not requantized */
    uint8_t wide;                     /* requantization needs 64 bits, because limits do not decide beyond +-2^23 */
    uint8_t bits;                     /* of PACKED weights */
    uint8_t source_type, target_type; /* `second` has its own */
    uint8_t second_type;
    uint8_t source_zero, second_zero, target_zero;
    uint8_t per_output, second_per_output;       /* whether there is a multiplier and shift (or scale) for each output */
    engine_size source, second, target;          /* where tensors lie in the work memory, in bytes a row */
    engine_size height, width, channels;         /* of the source; a vector is 1 x 1 */
    engine_size out_height, out_width, out_channels;
    uint16_t kernel_height, kernel_width, stride_height, stride_width;
    uint16_t padding_height, padding_width;      /* of PAD, before the first line and column */
    int32_t low, high;                           /* of the codes that come out */
    int32_t fill;                                /* of PAD: a byte, an S32; INT32_MIN is minus infinity in F32 */
    const ENGINE_ROM void *weight;
    const ENGINE_ROM uint16_t *counts;
    const ENGINE_ROM void *bias;                 /* int32_t, the share of source_zero taken off; or float */
    const ENGINE_ROM uint8_t *multiplier, *shift;
    const ENGINE_ROM uint8_t *second_multiplier, *second_shift;
    const ENGINE_ROM float *scale;
    const ENGINE_ROM int8_t *table;              /* 256 codes of tanh */
    engine_kernel run;                           /* of this machine, or NULL */
    const void *prepared;                        /* what `run` wants */
};

enum engine_dtype {
    ENGINE_FLOAT32, ENGINE_FLOAT64, ENGINE_UINT8, ENGINE_INT8, ENGINE_INT16, ENGINE_INT32, ENGINE_INT64
};

/* Observation to the first tensor. */
typedef struct engine_input engine_input;
struct engine_input {
    uint8_t dtype;                    /* of observations */
    uint8_t image;                    /* divided by 255 */
    uint8_t target_type, target_zero;
    uint8_t per_feature;              /* one inverse scale each */
    uint8_t pixel_codes;              /* bytes to bytes: by `codes`, or as they are */
    uint32_t target;                  /* in the work memory, in bytes a row */
    uint32_t size;                    /* values of an observation */
    uint32_t channels, pixels;        /* both above 1 where (channels, pixels) are to be (pixels, channels) */
    int32_t low, high;
    double clip;
    const double *mean, *deviation;   /* or NULL */
    const float *inverse_scale;
    const int32_t *zero_point;        /* like inverse_scale; or NULL */
    const uint8_t *codes;             /* of all 256 pixels */
    int (*run)(const engine_input *in, const void *observations, size_t rows, unsigned char *target);
    const void *prepared;             /* `run` is of this machine, or NULL */
};

enum engine_action { ENGINE_BOX, ENGINE_DISCRETE, ENGINE_MULTI_DISCRETE, ENGINE_MULTI_BINARY };

/* The last tensor to the action. */
typedef struct engine_output engine_output;
struct engine_output {
    uint8_t kind, squash;
    uint8_t wide;                     /* box actions are float64 */
    uint8_t source_type, per_output;
    uint32_t source, target;          /* sums and float outputs in the work memory, in bytes a row */
    uint32_t outputs, groups;         /* groups of multi-discrete actions */
    int64_t start;
    const float *scale, *low, *high;
    const uint32_t *nvec;
    void (*to_values)(const engine_output *out, const int32_t *sums, size_t total, float *values);
    void (*to_actions)(const engine_output *out, const float *values, size_t rows, float *actions);
    const void *prepared;             /* both are of this machine, or NULL */
};

typedef struct {
    const engine_step *steps;
    uint32_t step_count;
    uint32_t work_size;               /* bytes of work memory that a row takes; 8 bytes aligned */
    uint32_t observation_size, action_size; /* bytes of one */
    engine_input input;
    engine_output output;
} engine_network;

/* One step by the portable kernels. */
ENGINE_API void engine_step_run(const engine_step *step, unsigned char *work, size_t rows);

/* For kernels: the sum of output o becomes element i of the target of an integer layer. */
ENGINE_API void engine_finish(const engine_step *step, unsigned char *target, size_t i, size_t o, uint32_t sum);

#if ENGINE_USE_ENDS
/* All steps, from codes (or values) at the first tensor to the last one, for `rows` observations. */
ENGINE_API void engine_run(const engine_network *network, unsigned char *work, size_t rows);

/* Actions of `rows` observations, one after another; `work` holds rows * work_size bytes. */
ENGINE_API int engine_predict(const engine_network *network, const void *observations, size_t rows, void *actions, void *work);

/* The same up to the float outputs before the action, (rows, outputs). */
ENGINE_API int engine_outputs(const engine_network *network, const void *observations, size_t rows, float *outputs, void *work);

/* tanh by float32 +, -, * and / alone. */
ENGINE_API float engine_tanh(float x);
#endif

#ifdef __cplusplus
}
#endif
#endif
