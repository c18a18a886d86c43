/* Kernels of the machine at hand: which there are, which step gets which, and how its weights are laid out for it. */
#include "engine_native.h"

#include <stdlib.h>
#include <string.h>

#include "engine_kernels.h"

typedef struct block {
    struct block *next;
} block;

enum { LINE = 64 };

struct engine_native {
    block *blocks;
};

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>

static int has_avxvnni(void) {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}

/* The best set of kernels, or the one that POLICYPRESS_KERNELS names; NULL for the portable ones. */
static const kernels *found_kernels(void) {
    const char *wanted = getenv("POLICYPRESS_KERNELS");
    const kernels *all[6];
    unsigned n = 0;
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni")) {
        if (__builtin_cpu_supports("avx512vbmi"))
            all[n++] = &engine_avx512vbmi;
        all[n++] = &engine_avx512;
    }
    if (__builtin_cpu_supports("avx2")) {
        if (has_avxvnni()) {
            all[n++] = &engine_avxvnnisparse;
            all[n++] = &engine_avxvnni;
        }
        all[n++] = &engine_avx2sparse;
        all[n++] = &engine_avx2;
    }
    for (unsigned i = 0; i < n; i++)
        if (!wanted || !*wanted || !strcmp(wanted, all[i]->name))
            return all[i];
    return NULL;
}
#else
static const kernels *found_kernels(void) {
    return NULL;
}
#endif

/* Zeroed lines of the cache that live as long as `native`, with room for a vector after them; NULL if there are none. */
static void *take(engine_native *native, size_t size) {
    block *b = calloc(1, sizeof(block) + LINE + size + LINE);
    if (!b)
        return NULL;
    b->next = native->blocks;
    native->blocks = b;
    return (void *)(((uintptr_t)(b + 1) + LINE - 1) / LINE * LINE);
}

/* ---- integer layers ---- */

/* Bias, requantization and table, for whole groups of outputs. */
static int prepare_finish(engine_native *native, const engine_step *s, prepared *p, uint32_t lanes) {
    const size_t outputs = (size_t)p->groups * lanes;
    int32_t *vectors = take(native, (4 * outputs + 511) * sizeof *vectors), *table;
    if (!vectors)
        return 0;
    p->bias = vectors;
    memcpy(vectors, s->bias, s->out_channels * sizeof *vectors);
    p->narrow = s->finish != ENGINE_KEEP && !s->wide && s->target_type == ENGINE_U8;
    if (!p->narrow)
        return 1;
    p->multiplier = vectors + outputs;
    p->half = vectors + 2 * outputs;
    p->shift = vectors + 3 * outputs;
    for (uint32_t o = 0; o < s->out_channels; o++) {
        const uint32_t i = s->per_output ? o : 0;
        vectors[outputs + o] = s->multiplier[i];
        vectors[2 * outputs + o] = (int32_t)1 << (s->shift[i] - 1);
        vectors[3 * outputs + o] = s->shift[i];
    }
    p->table = table = vectors + 4 * outputs;
    for (int i = s->low; s->finish == ENGINE_TABLE && i <= s->high; i++)
        table[255 + i] = i < 0 ? -s->table[-i] : s->table[i];
    for (int i = s->low; s->finish == ENGINE_BYTES && i <= s->high; i++)
        table[255 + i] = (uint8_t)s->table[i - s->low] - s->target_zero;
    return 1;
}

/* Where output o's share of input i lies among weights in blocks, in lanes. */
static size_t lane_of(const prepared *p, uint32_t o, size_t i, uint32_t lanes, uint32_t most) {
    const uint32_t group = o / lanes;
    uint32_t first = 0, width = block_width(p->groups, most);
    while (first + width <= group) {
        first += width;
        width = block_width(p->groups - first, most);
    }
    return ((size_t)first * p->inputs + i * width + group - first) * lanes + o % lanes;
}

static int prepare_dense(engine_native *native, const kernels *kernel, const engine_step *s, prepared *p,
                         const int8_t *weight) {
    const uint32_t lanes = kernel->lanes;
    const uint32_t run = s->kernel_width * s->channels, line = s->width * s->channels, quads = (run + 3) / 4;
    const size_t window = (size_t)run * s->kernel_height;
    uint32_t *places = take(native, (size_t)p->inputs * sizeof *places);
    int8_t *packed = take(native, (size_t)p->groups * lanes * p->inputs * 4);
    if (!places || !packed)
        return 0;
    p->places = places;
    p->weight = packed;
    for (uint32_t i = 0, at = 0; i < s->kernel_height; i++)
        for (uint32_t q = 0; q < quads; q++)
            places[at++] = i * line + 4 * q;
    for (uint32_t o = 0; o < s->out_channels; o++)
        for (uint32_t i = 0; i < s->kernel_height; i++)
            for (uint32_t k = 0; k < run; k++) {
                const size_t lane = lane_of(p, o, (size_t)i * quads + k / 4, lanes, kernel->groups);
                packed[4 * lane + k % 4] = weight[o * window + (size_t)i * run + k];
            }
    return 1;
}

/* Steps of every group and chunk: as many as the output with the most nonzero weights there needs. */
static uint16_t *count_steps(engine_native *native, const kernels *kernel, const engine_step *s, const prepared *p,
                             const int8_t *weight, size_t *total) {
    const uint32_t lanes = kernel->lanes, chunk = kernel->chunk;
    uint16_t *steps = take(native, (size_t)p->groups * p->chunks * sizeof *steps);
    *total = 0;
    for (uint32_t o = 0; steps && o < s->out_channels; o++)
        for (uint32_t c = 0; c < p->chunks; c++) {
            uint16_t *most = &steps[(size_t)(o / lanes) * p->chunks + c], n = 0;
            for (uint32_t k = c * chunk; k < p->window && k < (c + 1) * chunk; k++)
                n = (uint16_t)(n + (weight[(size_t)o * p->window + k] != 0));
            n = (uint16_t)((n + 3) / 4);
            if (n > *most) {
                *total += (size_t)(n - *most);
                *most = n;
            }
        }
    return steps;
}

static int prepare_sparse(engine_native *native, const kernels *kernel, const engine_step *s, prepared *p,
                          const int8_t *weight, size_t total) {
    const uint32_t lanes = kernel->lanes, chunk = kernel->chunk;
    uint8_t *packed = take(native, total * lanes * 8), *step = packed;
    if (!packed)
        return 0;
    p->sparse = packed;
    for (uint32_t g = 0; g < p->groups; g++)
        for (uint32_t c = 0; c < p->chunks; c++) {
            for (uint32_t o = g * lanes; o < s->out_channels && o < (g + 1) * lanes; o++) {
                uint32_t n = 0;
                for (uint32_t k = 0; k < chunk && c * chunk + k < p->window; k++) {
                    const int8_t w = weight[(size_t)o * p->window + c * chunk + k];
                    uint8_t *at = step + (size_t)(n / 4) * lanes * 8 + (o % lanes) * 4 + n % 4;
                    if (!w)
                        continue;
                    at[0] = (uint8_t)k;
                    at[lanes * 4] = (uint8_t)w;
                    n++;
                }
            }
            step += (size_t)p->steps[(size_t)g * p->chunks + c] * lanes * 8;
        }
    return 1;
}

/* Whether leaving out zero weights pays, in `total` steps of such a cost. */
static int sparse_pays(const kernels *k, const engine_step *s, const prepared *p, size_t total, uint32_t step_cost) {
    const size_t copy = s->kernel_height > 1 ? k->window_cost : 0;
    return total * step_cost + (size_t)p->groups * p->chunks * k->chunk_cost + copy < 2 * (size_t)p->groups * p->inputs;
}

static engine_kernel *prepare_integer(engine_native *native, const kernels *k, const engine_step *s, prepared *p,
                                     const int8_t *weight) {
    const uint32_t run = s->kernel_width * s->channels;
    size_t total = 0;
    p->groups = (s->out_channels + k->lanes - 1) / k->lanes;
    p->inputs = (run + 3) / 4 * s->kernel_height;
    p->window = run * s->kernel_height;
    if (!prepare_finish(native, s, p, k->lanes))
        return NULL;
    if (k->sparse && p->window <= MOST_INPUTS) {
        p->chunks = (p->window + k->chunk - 1) / k->chunk;
        p->steps = count_steps(native, k, s, p, weight, &total);
        if (!p->steps)
            return NULL;
        p->batch_sparse = sparse_pays(k, s, p, total, k->step_cost);
        p->single_sparse = s->out_height * s->out_width < MANY ? sparse_pays(k, s, p, total, k->step_cost_few)
                                                               : p->batch_sparse;
    }
    p->name = !p->single_sparse ? p->batch_sparse ? "dense or sparse" : "dense"
              : p->batch_sparse ? "sparse"
                                : "sparse or dense";
    if (!(p->single_sparse && p->batch_sparse) && !prepare_dense(native, k, s, p, weight))
        return NULL;
    if (!p->single_sparse && !p->batch_sparse)
        return k->dense;
    return prepare_sparse(native, k, s, p, weight, total) ? k->sparse : NULL;
}

/* ---- float layers ---- */

static engine_kernel *prepare_real(engine_native *native, const kernels *k, const engine_step *s, prepared *p,
                                  const void *weight) {
    const size_t inputs = (size_t)s->channels * s->kernel_height * s->kernel_width;
    const size_t outputs = s->out_channels;
    const int8_t *codes = weight;
    const float *values = weight;
    uint32_t *places = take(native, inputs * sizeof *places), at = 0;
    float *packed, *bias, *scale;
    size_t nonzero = 0;
    p->groups = (s->out_channels + k->lanes - 1) / k->lanes;
    packed = take(native, (size_t)p->groups * k->lanes * inputs * sizeof *packed);
    bias = take(native, (size_t)p->groups * k->lanes * sizeof *bias);
    scale = take(native, (size_t)p->groups * k->lanes * sizeof *scale);
    if (!places || !packed || !bias || !scale)
        return NULL;
    p->name = "real";
    p->inputs = (uint32_t)inputs;
    p->plane = (size_t)s->out_height * s->out_width;
    p->places = places;
    p->weight = packed;
    p->bias = bias;
    p->scale = scale;
    for (uint32_t c = 0; c < s->channels; c++)
        for (uint32_t i = 0; i < s->kernel_height; i++)
            for (uint32_t j = 0; j < s->kernel_width; j++)
                places[at++] = (c * s->height + i) * s->width + j;
    for (size_t o = 0; o < outputs; o++) {
        bias[o] = ((const float *)s->bias)[o];
        scale[o] = s->scale[s->per_output ? o : 0];
        for (size_t i = 0; i < inputs; i++) {
            const float w = s->form == ENGINE_REAL ? values[o * inputs + i] : (float)codes[o * inputs + i];
            packed[lane_of(p, (uint32_t)o, i, k->lanes, k->real_groups)] = w;
            nonzero += w < 0.0f || w > 0.0f;
        }
    }
    p->zeros = nonzero < outputs * inputs;
    /* In products of a vector: a weight alone takes about 1.5, and as many for two vectors of rows. */
    p->single_sparse = s->form == ENGINE_SPARSE && 3 * nonzero < 2 * p->groups * inputs;
    p->batch_sparse = s->form == ENGINE_SPARSE && s->height * s->width == 1 && inputs <= MOST_COLUMNS &&
                      2 * nonzero < outputs * inputs;
    if (p->batch_sparse) {
        float *value = take(native, nonzero * sizeof *value);
        uint16_t *column = take(native, nonzero * sizeof *column), *counts = take(native, outputs * sizeof *counts);
        if (!value || !column || !counts)
            return NULL;
        p->values = value;
        p->columns = column;
        p->counts = counts;
        for (size_t o = 0; o < outputs; o++)
            for (size_t i = 0; i < inputs; i++)
                if (codes[o * inputs + i]) {
                    *value++ = (float)codes[o * inputs + i];
                    *column++ = (uint16_t)i;
                    counts[o]++;
                }
    }
    return k->real;
}

/* ---- residual sums ---- */

static engine_kernel *prepare_add(engine_native *native, const kernels *k, const engine_step *s, prepared *p) {
    const uint32_t lanes = k->lanes, branch = s->second_per_output ? s->channels : lanes;
    const int64_t low = s->low, reach = -low > s->high ? -low : s->high;
    int32_t *vectors;
    if (s->source_type != ENGINE_U8 || s->target_type != ENGINE_U8 || s->per_output || branch % lanes)
        return NULL;
    /* Where the second operand is clipped to +-2^23 the limits must decide, whatever the first one is. */
    for (uint32_t i = 0; i < (s->second_per_output ? s->channels : 1); i++) {
        const int32_t first = (255 * s->multiplier[0] >> s->shift[0]) + 1;
        if (s->second_shift[i] > 23 || s->shift[0] > 23 ||
            (s->second_multiplier[i] << 23) >> s->second_shift[i] <= reach + first)
            return NULL;
    }
    vectors = take(native, 3 * (size_t)(lanes + branch) * sizeof *vectors);
    if (!vectors)
        return NULL;
    p->name = "add";
    p->inputs = branch;
    p->multiplier = vectors;
    p->half = vectors + lanes + branch;
    p->shift = vectors + 2 * (size_t)(lanes + branch);
    for (uint32_t i = 0; i < lanes + branch; i++) {
        const uint32_t at = i < lanes || !s->second_per_output ? 0 : i - lanes;
        const uint8_t shift = i < lanes ? s->shift[0] : s->second_shift[at];
        vectors[i] = i < lanes ? s->multiplier[0] : s->second_multiplier[at];
        vectors[lanes + branch + i] = (int32_t)1 << (shift - 1);
        vectors[2 * (size_t)(lanes + branch) + i] = shift;
    }
    return k->add;
}

/* ---- both ends ---- */

/* `n` values, or one for all, over and over for `n` vectors. */
static float *repeated(engine_native *native, const float *values, int many, uint32_t n, uint32_t lanes, float *at) {
    if (!at)
        at = take(native, (size_t)n * lanes * sizeof *at);
    for (size_t i = 0; at && i < (size_t)n * lanes; i++)
        at[i] = values[many ? i % n : 0];
    return at;
}

/* The inverse scales and, where there are any, the zero points of a vector of observations. */
static float *repeated_codes(engine_native *native, const engine_input *in, uint32_t lanes) {
    const size_t period = (size_t)in->size * lanes;
    float *at = take(native, (in->zero_point ? 2 : 1) * period * sizeof *at);
    if (at)
        repeated(native, in->inverse_scale, in->per_feature, in->size, lanes, at);
    for (size_t i = 0; at && in->zero_point && i < period; i++)
        at[period + i] = (float)in->zero_point[in->per_feature ? i % in->size : 0];
    return at;
}

static void prepare_ends(engine_native *native, const kernels *k, engine_network *network) {
    engine_input *in = &network->input;
    engine_output *out = &network->output;
    if ((in->dtype == ENGINE_FLOAT32 || in->dtype == ENGINE_FLOAT64) && !in->mean && in->channels == 1) {
        if (in->target_type == ENGINE_U8)
            in->prepared = repeated_codes(native, in, k->lanes);
        in->run = in->prepared || in->target_type == ENGINE_F32 ? k->observe : NULL;
    }
    if (out->source_type == ENGINE_S32 && !out->per_output)
        out->to_values = k->scale;
    if (out->kind == ENGINE_BOX && out->squash && !out->wide) {
        const size_t period = (size_t)out->outputs * k->lanes;
        float *bounds = take(native, 2 * period * sizeof *bounds);
        if (!bounds)
            return;
        repeated(native, out->low, 1, out->outputs, k->lanes, bounds);
        repeated(native, out->high, 1, out->outputs, k->lanes, bounds + period);
        for (size_t i = 0; i < period; i++)
            bounds[period + i] -= bounds[i];
        out->prepared = bounds;
        out->to_actions = k->squash;
    }
}

/* ---- all steps ---- */

engine_native *engine_prepare(engine_network *network, const void *const *weights) {
    engine_native *native = calloc(1, sizeof *native);
    const kernels *k = found_kernels();
    if (native && k)
        prepare_ends(native, k, network);
    for (size_t i = 0; native && k && i < network->step_count; i++) {
        engine_step *s = (engine_step *)&network->steps[i];
        prepared *p = take(native, sizeof *p);
        engine_kernel *run = NULL;
        if (!p) {
            engine_release(native);
            return NULL;
        }
        if (s->kind == ENGINE_LAYER && weights[i] && s->source_type == ENGINE_U8)
            run = prepare_integer(native, k, s, p, weights[i]);
        else if (s->kind == ENGINE_LAYER && weights[i] && s->source_type == ENGINE_F32)
            run = prepare_real(native, k, s, p, weights[i]);
        else if (s->kind == ENGINE_ADD && s->source_type != ENGINE_F32)
            run = prepare_add(native, k, s, p);
        s->run = run;
        s->prepared = p;
    }
    return native;
}

void engine_release(engine_native *native) {
    while (native && native->blocks) {
        block *b = native->blocks;
        native->blocks = b->next;
        free(b);
    }
    free(native);
}

const char *engine_machine(void) {
    const kernels *k = found_kernels();
    return k ? k->name : "portable";
}

const char *engine_kernel_name(const engine_step *step) {
    return step->run ? ((const prepared *)step->prepared)->name : "portable";
}
