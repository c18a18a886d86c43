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
 * What a build leaves out, to be smaller: kernels of a machine, images, their padding, pooling and flattening, residual
 * sums, states and cells, codes wider than 8 bits, each form of integer layers' weights, tables, float. An export
 * defines them on top of its file. Fields of the structures that nothing needs then are left out too.
 */
#ifndef ENGINE_USE_KERNELS /* steps that point to a kernel of this machine */
#define ENGINE_USE_KERNELS 1
#endif
#ifndef ENGINE_USE_IMAGES /* 0: everything is a vector */
#define ENGINE_USE_IMAGES 1
#endif
#ifndef ENGINE_USE_WINDOWS /* steps that pad, pool or flatten images */
#define ENGINE_USE_WINDOWS 1
#endif
#ifndef ENGINE_USE_RELU /* as a step of its own */
#define ENGINE_USE_RELU 1
#endif
#ifndef ENGINE_USE_ADD
#define ENGINE_USE_ADD 1
#endif
#ifndef ENGINE_USE_STATE /* what is remembered from one observation to the next */
#define ENGINE_USE_STATE 1
#endif
#ifndef ENGINE_USE_CELLS /* recurrent ones, of either kind */
#define ENGINE_USE_CELLS 1
#endif
#ifndef ENGINE_USE_GRU
#define ENGINE_USE_GRU 1
#endif
#ifndef ENGINE_USE_LSTM
#define ENGINE_USE_LSTM 1
#endif
#ifndef ENGINE_USE_SECOND /* steps of two sources: residual sums and cells */
#define ENGINE_USE_SECOND 1
#endif
#ifndef ENGINE_USE_WIDE /* in layers and ReLU */
#define ENGINE_USE_WIDE 1
#endif
#ifndef ENGINE_USE_LONG /* layers whose sums are requantized in 64 bits */
#define ENGINE_USE_LONG 1
#endif
#ifndef ENGINE_USE_CLIP /* in 32 bits: sums that may pass +-2^23 */
#define ENGINE_USE_CLIP 1
#endif
#ifndef ENGINE_USE_PER_OUTPUT /* layers of a multiplier and shift for each output */
#define ENGINE_USE_PER_OUTPUT 1
#endif
#ifndef ENGINE_USE_LIMITS /* layers whose codes are not all bytes from 0 to 255 */
#define ENGINE_USE_LIMITS 1
#endif
#ifndef ENGINE_USE_CODES /* limits of codes that steps read */
#define ENGINE_USE_CODES 1
#endif
#ifndef ENGINE_USE_USUAL /* layers whose sums are requantized to bytes in 32 bits */
#define ENGINE_USE_USUAL 1
#endif
#ifndef ENGINE_USE_FINISHES /* layers that neither do that nor keep their sums, without ReLU */
#define ENGINE_USE_FINISHES 1
#endif
#ifndef ENGINE_USE_DENSE /* and rows of FOURS */
#define ENGINE_USE_DENSE 1
#endif
#ifndef ENGINE_USE_FOURS
#define ENGINE_USE_FOURS 1
#endif
#ifndef ENGINE_USE_SPARSE
#define ENGINE_USE_SPARSE 1
#endif
#ifndef ENGINE_USE_QUARTERS /* the most blocks of 32 inputs that a layer of QUARTERS has */
#define ENGINE_USE_QUARTERS 0
#endif
#ifndef ENGINE_USE_COUNTS /* what sparse layers have, of integers or float */
#define ENGINE_USE_COUNTS 1
#endif
#ifndef ENGINE_USE_PACKED /* bit b is set where weights of b bits are to be fast, 2 to 7; others are read bit by bit */
#define ENGINE_USE_PACKED 0xFC
#endif
#ifndef ENGINE_USE_TABLES /* functions of codes */
#define ENGINE_USE_TABLES 1
#endif
#ifndef ENGINE_USE_FLOAT /* layers of float activations; 0 keeps float at both ends of the network */
#define ENGINE_USE_FLOAT 1
#endif
#ifndef ENGINE_USE_FUNCTIONS /* bit n is set where function n of floats is needed */
#define ENGINE_USE_FUNCTIONS 0xFFFFFFFF
#endif
#ifndef ENGINE_USE_LAYER_NORM
#define ENGINE_USE_LAYER_NORM 1
#endif
#ifndef ENGINE_USE_DOUBLE /* float64 arithmetic (6 kB of library on a Cortex-M0): normalization, int64 observations */
#define ENGINE_USE_DOUBLE 1
#endif
#ifndef ENGINE_USE_DTYPES /* bit n is set where observations have type n */
#define ENGINE_USE_DTYPES 0xFF
#endif
#ifndef ENGINE_USE_ACTIONS /* bit n is set where actions are of kind n */
#define ENGINE_USE_ACTIONS 0xFF
#endif
#ifndef ENGINE_USE_SQUASH /* box actions by tanh */
#define ENGINE_USE_SQUASH 1
#endif
#ifndef ENGINE_USE_WIDE_ACTIONS /* box actions in float64 */
#define ENGINE_USE_WIDE_ACTIONS 1
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
 * Every list of names here is a macro, so that Python has it from engine_module.c and no second one: ENGINE_NAME makes
 * an enumeration of it, ENGINE_MEMBER a structure.
 */
#define ENGINE_NAME(name) name,
#define ENGINE_MEMBER(USE, TYPE, NAME) ENGINE_MEMBER_IF(ENGINE_USE_##USE, TYPE NAME;)
#define ENGINE_MEMBER_IF(USED, MEMBER) ENGINE_MEMBER_OF(USED, MEMBER)
#define ENGINE_MEMBER_OF(USED, MEMBER) ENGINE_MEMBER_##USED(MEMBER)
#define ENGINE_MEMBER_0(MEMBER)
#define ENGINE_MEMBER_1(MEMBER) MEMBER
#define ENGINE_USE_ALWAYS 1

/*
 * Tensors. U8 holds code + zero in a byte, where `zero` is the byte that stands for code 0; S32 holds codes or
 * accumulators; F32 values. Integer images are stored (height, width, channels), float ones (channels, height, width).
 */
#define ENGINE_TYPES(NAME) NAME(ENGINE_U8) NAME(ENGINE_S32) NAME(ENGINE_F32)
enum engine_type { ENGINE_TYPES(ENGINE_NAME) };

#define ENGINE_KINDS(NAME)                                                                                             \
    NAME(ENGINE_LAYER)    /* convolution without padding; a linear layer is one of 1 x 1 on a vector */                \
    NAME(ENGINE_RELU)     /* elementwise */                                                                            \
    NAME(ENGINE_LOOK_UP)  /* elementwise: a byte of the table for each code, from `low` on */                          \
    NAME(ENGINE_ACTIVATE) /* elementwise: a function of floats */                                                      \
    NAME(ENGINE_LAYER_NORM) /* of a vector of floats: `weight`, `bias`, and in `parameters` epsilon */                 \
    NAME(ENGINE_MAX_POOL) /* without padding */                                                                        \
    NAME(ENGINE_PAD)      /* `fill` around an image */                                                                 \
    NAME(ENGINE_FLATTEN)  /* (height, width, channels) to (channels, height, width) */                                 \
    NAME(ENGINE_ADD)      /* clip(requantized source + requantized second); F32: source + second */                   \
    NAME(ENGINE_RECALL)   /* the first values of its part of the state */                                              \
    NAME(ENGINE_HISTORY)  /* its part of the state, then the source; the part becomes the last values of both */       \
    NAME(ENGINE_GRU)      /* new outputs, which are its part of the state; what layers made of the present vector */   \
    NAME(ENGINE_LSTM)     /* is the source, and of the last outputs the second; here the part holds c behind them */
enum engine_kind { ENGINE_KINDS(ENGINE_NAME) };

/*
 * Weights. DENSE: int8, (outputs, inputs of a window in the order of memory). PACKED: the same in `bits` bits each,
 * lowest bits first, every output from a new byte on. SPARSE: for each output, `counts` pairs of bytes: how far to go
 * on in memory, in elements, and the int8 to multiply with. REAL: float32. FOURS: those of DENSE for four outputs at a
 * time, line after line of the window: blocks of four inputs, (4 outputs, 4 inputs), and behind them the inputs that are
 * left, (inputs, 4 outputs), each byte 128 more than its weight; outputs that are left at the end are as in DENSE.
 * QUARTERS: of every four neighbouring inputs of a vector one at most has a weight. For each output 12 bytes for 32
 * inputs: the int8 of fours 0, 2, 1, 3, 4, 6, 5 and 7, and for fours 2k and 2k + 1, k from 0 to 3, 16 k + i + 4 j, where
 * i and j are the places in them that have the weights; every second time 64 more.
 */
#define ENGINE_FORMS(NAME)                                                                                             \
    NAME(ENGINE_DENSE) NAME(ENGINE_PACKED) NAME(ENGINE_SPARSE) NAME(ENGINE_REAL) NAME(ENGINE_FOURS)                    \
    NAME(ENGINE_QUARTERS)
enum engine_form { ENGINE_FORMS(ENGINE_NAME) };

/*
 * What becomes of the sum of an integer layer: itself; a code; a code that a table turns into another one. That of TABLE
 * is an odd function's: int8 codes of 0 and of what is above. BYTES has a byte of the target for each code from `low` on.
 */
#define ENGINE_FINISHES(NAME) NAME(ENGINE_KEEP) NAME(ENGINE_REQUANTIZE) NAME(ENGINE_TABLE) NAME(ENGINE_BYTES)
enum engine_finish { ENGINE_FINISHES(ENGINE_NAME) };

/*
 * Numbers of a cell of codes: the largest codes that its tables take; the code that would stand for 1 of what the sigmoid
 * gives; the largest codes of h and of c; then multiplier and shift of each ratio, in the order of policy/ops.py.
 */
#define ENGINE_CELL_NUMBERS(NAME)                                                                                      \
    NAME(ENGINE_CELL_SIGMOID) NAME(ENGINE_CELL_TANH) NAME(ENGINE_CELL_ONE) NAME(ENGINE_CELL_H) NAME(ENGINE_CELL_C)     \
    NAME(ENGINE_CELL_RATIOS)
enum engine_cell { ENGINE_CELL_NUMBERS(ENGINE_NAME) };

typedef struct engine_step engine_step;
typedef void engine_kernel(const engine_step *step, unsigned char *work, size_t rows);

#define ENGINE_STEP(FIELD)                                                                                             \
    FIELD(ALWAYS, uint8_t, kind)                                                                                       \
    FIELD(ALWAYS, uint8_t, form)                                                                                       \
    FIELD(ALWAYS, uint8_t, finish)                                                                                     \
    FIELD(ALWAYS, uint8_t, relu)        /* of a layer that is not requantized */                                       \
    FIELD(ALWAYS, uint8_t, wide)        /* requantized in 64 bits: limits do not decide beyond +-2^23 */               \
    FIELD(ALWAYS, uint8_t, bits)        /* of PACKED weights */                                                        \
    FIELD(FLOAT, uint8_t, function)     /* of ACTIVATE: its number in policy/activations.py */                         \
    FIELD(ALWAYS, uint8_t, source_type) /* `second` has its own */                                                     \
    FIELD(ALWAYS, uint8_t, target_type)                                                                                \
    FIELD(SECOND, uint8_t, second_type)                                                                                \
    FIELD(ALWAYS, uint8_t, source_zero)                                                                                \
    FIELD(SECOND, uint8_t, second_zero)                                                                                \
    FIELD(ALWAYS, uint8_t, target_zero)                                                                                \
    FIELD(ALWAYS, uint8_t, per_output)  /* whether there is a multiplier and shift (or scale) for each output */       \
    FIELD(ADD, uint8_t, second_per_output)                                                                             \
    FIELD(ALWAYS, engine_size, source)  /* where tensors lie in the work memory, in bytes a row */                     \
    FIELD(SECOND, engine_size, second)                                                                                 \
    FIELD(ALWAYS, engine_size, target)                                                                                 \
    FIELD(STATE, engine_size, state)    /* where the step's part of the state begins, in values */                     \
    FIELD(IMAGES, engine_size, height)  /* of the source; a vector is 1 x 1 */                                         \
    FIELD(IMAGES, engine_size, width)                                                                                  \
    FIELD(ALWAYS, engine_size, channels)                                                                               \
    FIELD(IMAGES, engine_size, out_height)                                                                             \
    FIELD(IMAGES, engine_size, out_width)                                                                              \
    FIELD(ALWAYS, engine_size, out_channels)                                                                           \
    FIELD(IMAGES, uint16_t, kernel_height)                                                                             \
    FIELD(IMAGES, uint16_t, kernel_width)                                                                              \
    FIELD(IMAGES, uint16_t, stride_height)                                                                             \
    FIELD(IMAGES, uint16_t, stride_width)                                                                              \
    FIELD(WINDOWS, uint16_t, padding_height) /* of PAD, before the first line and column */                            \
    FIELD(WINDOWS, uint16_t, padding_width)                                                                            \
    FIELD(CODES, int32_t, low)          /* of the codes that come out, or that a table is for */                       \
    FIELD(CODES, int32_t, high)                                                                                        \
    FIELD(WINDOWS, int32_t, fill)       /* of PAD: a byte, an S32; INT32_MIN is minus infinity in F32 */               \
    FIELD(ALWAYS, const ENGINE_ROM void *, weight)                                                                     \
    FIELD(COUNTS, const ENGINE_ROM uint16_t *, counts)                                                                 \
    FIELD(ALWAYS, const ENGINE_ROM void *, bias) /* int32_t, the share of source_zero taken off; or float */           \
    FIELD(ALWAYS, const ENGINE_ROM uint8_t *, multiplier)                                                              \
    FIELD(ALWAYS, const ENGINE_ROM uint8_t *, shift)                                                                   \
    FIELD(ADD, const ENGINE_ROM uint8_t *, second_multiplier)                                                          \
    FIELD(ADD, const ENGINE_ROM uint8_t *, second_shift)                                                               \
    FIELD(FLOAT, const ENGINE_ROM float *, scale)                                                                      \
    FIELD(FLOAT, const ENGINE_ROM float *, parameters) /* of the function, or of LAYER_NORM */                         \
    FIELD(TABLES, const ENGINE_ROM int8_t *, table)                                                                    \
    FIELD(CELLS, const ENGINE_ROM int16_t *, cell) /* its numbers; `table` is that of tanh from 0 on */                \
    FIELD(CELLS, const ENGINE_ROM uint8_t *, sigmoid) /* its codes, from the least that it takes on */                 \
    FIELD(KERNELS, engine_kernel *, run) /* of this machine, or NULL */                                                \
    FIELD(KERNELS, const void *, prepared) /* what `run` wants */
struct engine_step {
    ENGINE_STEP(ENGINE_MEMBER)
};

#define ENGINE_DTYPES(NAME)                                                                                            \
    NAME(ENGINE_FLOAT32) NAME(ENGINE_FLOAT64) NAME(ENGINE_UINT8) NAME(ENGINE_INT8) NAME(ENGINE_INT16)                  \
    NAME(ENGINE_INT32) NAME(ENGINE_INT64)
enum engine_dtype { ENGINE_DTYPES(ENGINE_NAME) };
#define ENGINE_OF_DTYPES(DO)                                                                                           \
    DO(ENGINE_FLOAT32, float) DO(ENGINE_FLOAT64, double) DO(ENGINE_UINT8, uint8_t) DO(ENGINE_INT8, int8_t)             \
    DO(ENGINE_INT16, int16_t) DO(ENGINE_INT32, int32_t) DO(ENGINE_INT64, int64_t)

typedef struct engine_input engine_input;
typedef int engine_observe(const engine_input *in, const void *observations, size_t rows, unsigned char *target);

/* Observation to the first tensor. */
#define ENGINE_INPUT(FIELD)                                                                                            \
    FIELD(ALWAYS, uint8_t, dtype)         /* of observations */                                                        \
    FIELD(ALWAYS, uint8_t, image)         /* divided by 255 */                                                         \
    FIELD(ALWAYS, uint8_t, target_type)                                                                                \
    FIELD(ALWAYS, uint8_t, target_zero)                                                                                \
    FIELD(ALWAYS, uint8_t, per_feature)   /* one inverse scale each */                                                 \
    FIELD(ALWAYS, uint8_t, pixel_codes)   /* bytes to bytes: by `codes`, or as they are */                             \
    FIELD(ALWAYS, uint32_t, target)       /* in the work memory, in bytes a row */                                     \
    FIELD(ALWAYS, uint32_t, size)         /* values of an observation */                                               \
    FIELD(IMAGES, uint32_t, channels)     /* both above 1 where (channels, pixels) are to be (pixels, channels) */     \
    FIELD(IMAGES, uint32_t, pixels)                                                                                    \
    FIELD(ALWAYS, int32_t, low)         /* of the codes that come out, or that a table is for */                       \
    FIELD(ALWAYS, int32_t, high)                                                                                       \
    FIELD(DOUBLE, double, clip)                                                                                        \
    FIELD(DOUBLE, const double *, mean)   /* or NULL */                                                                \
    FIELD(DOUBLE, const double *, deviation)                                                                           \
    FIELD(ALWAYS, const float *, inverse_scale)                                                                        \
    FIELD(ALWAYS, const int32_t *, zero_point) /* like inverse_scale; or NULL */                                       \
    FIELD(IMAGES, const uint8_t *, codes) /* of all 256 pixels */                                                      \
    FIELD(KERNELS, engine_observe *, run) /* of this machine, or NULL */                                               \
    FIELD(KERNELS, const void *, prepared) /* what `run` wants */
struct engine_input {
    ENGINE_INPUT(ENGINE_MEMBER)
};

#define ENGINE_ACTIONS(NAME)                                                                                           \
    NAME(ENGINE_BOX) NAME(ENGINE_DISCRETE) NAME(ENGINE_MULTI_DISCRETE) NAME(ENGINE_MULTI_BINARY)
enum engine_action { ENGINE_ACTIONS(ENGINE_NAME) };

typedef struct engine_output engine_output;
typedef void engine_to_values(const engine_output *out, const int32_t *sums, size_t total, float *values);
typedef void engine_to_actions(const engine_output *out, const float *values, size_t rows, float *actions);

/* The last tensor to the action. */
#define ENGINE_OUTPUT(FIELD)                                                                                           \
    FIELD(ALWAYS, uint8_t, kind)                                                                                       \
    FIELD(ALWAYS, uint8_t, squash)                                                                                     \
    FIELD(ALWAYS, uint8_t, wide)     /* box actions are float64 */                                                     \
    FIELD(ALWAYS, uint8_t, source_type)                                                                                \
    FIELD(ALWAYS, uint8_t, per_output)                                                                                 \
    FIELD(ALWAYS, uint32_t, source)  /* sums in the work memory, in bytes a row */                                     \
    FIELD(ALWAYS, uint32_t, target)  /* float outputs, likewise */                                                     \
    FIELD(ALWAYS, uint32_t, outputs)                                                                                   \
    FIELD(ALWAYS, uint32_t, groups)  /* of multi-discrete actions */                                                   \
    FIELD(ALWAYS, int64_t, start)                                                                                      \
    FIELD(ALWAYS, const float *, scale)                                                                                \
    FIELD(ALWAYS, const float *, low)                                                                                  \
    FIELD(ALWAYS, const float *, high)                                                                                 \
    FIELD(ALWAYS, const uint32_t *, nvec)                                                                              \
    FIELD(KERNELS, engine_to_values *, to_values) /* of this machine, or NULL, both */                                 \
    FIELD(KERNELS, engine_to_actions *, to_actions)                                                                    \
    FIELD(KERNELS, const void *, prepared) /* what they want */
struct engine_output {
    ENGINE_OUTPUT(ENGINE_MEMBER)
};

#define ENGINE_NETWORK(FIELD)                                                                                          \
    FIELD(ALWAYS, const engine_step *, steps)                                                                          \
    FIELD(ALWAYS, uint32_t, step_count)                                                                                \
    FIELD(ALWAYS, uint32_t, work_size)        /* bytes of work memory that a row takes; 8 bytes aligned */             \
    FIELD(ALWAYS, uint32_t, observation_size) /* bytes of one */                                                       \
    FIELD(ALWAYS, uint32_t, action_size)                                                                               \
    FIELD(STATE, uint32_t, state_size)        /* values of a state: int16_t, or float where activations are */         \
    FIELD(ALWAYS, engine_input, input)                                                                                 \
    FIELD(ALWAYS, engine_output, output)
typedef struct {
    ENGINE_NETWORK(ENGINE_MEMBER)
} engine_network;

/* One step by the portable kernels. */
ENGINE_API void engine_step_run(const engine_step *step, unsigned char *work, size_t rows);

#if ENGINE_USE_STATE
/* The same for RECALL and what follows it: `state` holds rows * size values. */
ENGINE_API void engine_step_remember(const engine_step *step, unsigned char *work, size_t rows, void *state, size_t size);
#endif

/* For kernels: the sum of output o becomes element i of the target of an integer layer. */
ENGINE_API void engine_finish(const engine_step *step, unsigned char *target, size_t i, size_t o, uint32_t sum);

#if ENGINE_USE_ENDS
/* All steps, from codes (or values) at the first tensor to the last one, for `rows` observations. */
ENGINE_API void engine_run(const engine_network *network, unsigned char *work, size_t rows, void *state);

/*
 * Actions of `rows` observations, one after another; `work` holds rows * work_size bytes. `state`, of rows * state_size
 * values, zeros at the beginning of an episode, becomes the next one; an observation that is not finite changes none.
 * NULL in a network without.
 */
ENGINE_API int engine_predict(const engine_network *network, const void *observations, size_t rows, void *actions, void *state,
                              void *work);

/* The same up to the float outputs before the action, (rows, outputs). */
ENGINE_API int engine_outputs(const engine_network *network, const void *observations, size_t rows, float *outputs, void *state,
                              void *work);

/* tanh by float32 +, -, * and / alone. */
ENGINE_API float engine_tanh(float x);
#endif

#ifdef __cplusplus
}
#endif
#endif
