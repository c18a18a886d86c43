/* The element-wise passes of fake quantization, fused: torch needs four to eight passes over memory for each. And the
 * way of a recurrent cell through time, there and back, which takes torch some hundred calls a step.
 *
 * Integers are, bit for bit, what the torch expressions in fake_quant.py and recurrent.py compute, what a cell computes
 * in float nearly so; the tests compare them. Arguments that are addresses point to contiguous tensors on the CPU, of
 * float32 if nothing else is said, whose sizes the caller answers for.
 * Compile without -ffast-math and with -ffp-contract=off.
 */
#define Py_LIMITED_API 0x030A0000 /* one binary for Python 3.10 and later */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

/* One version for AVX2 and one for any x86-64, chosen when the library is loaded. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define VECTORIZED __attribute__((target_clones("avx2", "default"), optimize("O3")))
#else
#define VECTORIZED
#endif

static const float ROUNDER = 12582912.0f; /* 1.5 * 2**23: adding it leaves no fraction bits, for values up to 2**22 */

static inline float clip(float v, float low, float high) {
    v = v < low ? low : v; /* NaN stays NaN */
    return v > high ? high : v;
}

static inline float round_half_even(float v) { return (v + ROUNDER) - ROUNDER; }

/* out = clip(rint(x * inverse) - zero, low, high). Without zero points clipping may come first, as limits are integers;
 * with them it comes first too, but to +-2**22, far outside of any limit and zero point. */
VECTORIZED static void quantize(const float *restrict x, float *restrict out, Py_ssize_t rows, Py_ssize_t columns,
                                const float *restrict inverse, int per_column, const float *restrict zero, float low,
                                float high) {
    if (!per_column) {
        const float factor = inverse[0];
        for (Py_ssize_t i = 0; i < rows * columns; i++) {
            out[i] = round_half_even(clip(x[i] * factor, low, high));
        }
        return;
    }
    for (Py_ssize_t row = 0; row < rows; row++) {
        const float *restrict from = x + row * columns;
        float *restrict to = out + row * columns;
        if (zero == NULL) {
            for (Py_ssize_t i = 0; i < columns; i++) {
                to[i] = round_half_even(clip(from[i] * inverse[i], low, high));
            }
        } else {
            for (Py_ssize_t i = 0; i < columns; i++) {
                const float code = round_half_even(clip(from[i] * inverse[i], -4194304.0f, 4194304.0f));
                to[i] = clip(code - zero[i], low, high);
            }
        }
    }
}

/* Codes are kept within +-2**20, far outside of any limit, so that they can be rounded by ROUNDER. */
static inline float output_code(float acc, float ratio) {
    const float v = clip(acc * ratio + 0.5f, -1048576.0f, 1048576.0f);
    const float code = round_half_even(v);
    return code - (float)(code > v);
}

/* The same of a ratio that float32 does not hold. */
static inline float wide_output_code(float acc, double ratio) {
    double v = (double)acc * ratio + 0.5;
    v = v < -1048576.0 ? -1048576.0 : v; /* NaN stays NaN */
    v = v > 1048576.0 ? 1048576.0 : v;
    const double rounder = 6755399441055744.0, code = (v + rounder) - rounder; /* 1.5 * 2**52 */
    return (float)(code - (double)(code > v));
}

/* Turns accumulators into codes = floor(acc * ratio + 1/2), and gives values = clip(codes, low, high) * scale. */
VECTORIZED static void requantize(float *restrict acc, float *restrict values, Py_ssize_t size, float ratio, float low,
                                  float high, float scale) {
    for (Py_ssize_t i = 0; i < size; i++) {
        const float code = output_code(acc[i], ratio);
        acc[i] = code;
        values[i] = clip(code, low, high) * scale;
    }
}

/* By such a ratio; values may lie where the codes do, which they then take the place of. */
VECTORIZED static void requantize_wide(float *acc, float *values, Py_ssize_t size, double ratio, float low, float high,
                                       float scale) {
    for (Py_ssize_t i = 0; i < size; i++) {
        const float code = wide_output_code(acc[i], ratio);
        acc[i] = code;
        values[i] = clip(code, low, high) * scale;
    }
}

/* Turns accumulators into those values. */
VECTORIZED static void requantize_in_place(float *restrict acc, Py_ssize_t size, float ratio, float low, float high,
                                           float scale) {
    for (Py_ssize_t i = 0; i < size; i++) {
        acc[i] = clip(output_code(acc[i], ratio), low, high) * scale;
    }
}

/* Of the table of an activation, (value, slope) of each code from -largest to largest and of NaN, those of x. */
VECTORIZED static void look_up_all(const float *restrict x, float *restrict values, float *restrict slopes,
                                   Py_ssize_t size, float inverse, float low, float high, float largest,
                                   const float *restrict table) {
    for (Py_ssize_t i = 0; i < size; i++) {
        const float code = round_half_even(clip(x[i] * inverse, low, high));
        const int32_t place = 2 * (int32_t)(code == code ? code + largest : 2.0f * largest + 1.0f);
        values[i] = table[place];
        slopes[i] = table[place + 1];
    }
}

/* What the gradient of real weights means for the logarithm of their step: the sum of it times
 * (code - weight * scale / step) * step / scale, where a weight beyond `limit` steps counts as 0 of them. */
static double step_gradient(const float *restrict of_weight, const float *restrict weight, const float *restrict code,
                      Py_ssize_t columns, const float *restrict scale, float step, float limit) {
    double sum = 0.0;
    for (Py_ssize_t i = 0; i < columns; i++) {
        const float own = scale == NULL ? 1.0f : scale[i], exact = weight[i] * own / step;
        const float kept = exact > limit || exact < -limit ? 0.0f : exact;
        sum += of_weight[i] * (code[i] - kept) * (step / own);
    }
    return sum;
}

/* Adds the gradient of price * sum(ln(1 + |weight * scale / step|)) to that of the weights; returns what it is for the
 * logarithm of the step. */
static double rate_gradient(const float *restrict weight, float *restrict grad, Py_ssize_t columns,
                      const float *restrict scale, float step, float price) {
    double sum = 0.0;
    for (Py_ssize_t i = 0; i < columns; i++) {
        const float own = scale == NULL ? 1.0f : scale[i], effective = weight[i] * own, far = fabsf(effective);
        const float slope = price / (far + step);
        if (grad != NULL) {
            grad[i] += slope * (float)((effective > 0.0f) - (effective < 0.0f)) * own;
        }
        sum -= slope * far;
    }
    return sum;
}

/* out = rint(clip(weight * scale * inverse, -limit, limit)); returns the sum of magnitudes. */
VECTORIZED static int64_t weight_row(const float *restrict weight, float *restrict out, Py_ssize_t columns,
                                     const float *restrict scale, float inverse, float limit) {
    int32_t sum = 0; /* below 2**31 for the 2**24 columns that a layer can have */
    if (scale == NULL) {
        for (Py_ssize_t i = 0; i < columns; i++) {
            const float code = round_half_even(clip(weight[i] * inverse, -limit, limit));
            out[i] = code;
            sum += (int32_t)(code < 0 ? -code : code);
        }
    } else {
        for (Py_ssize_t i = 0; i < columns; i++) {
            const float code = round_half_even(clip(weight[i] * scale[i] * inverse, -limit, limit));
            out[i] = code;
            sum += (int32_t)(code < 0 ? -code : code);
        }
    }
    return sum;
}

/* Recurrent cells: the formulas of policy/cells.py, and the gradient of those in float.
 *
 * A cell has `units` units and 3 gates (GRU) or 4 (LSTM); x and y, what its two layers give, are (gates, units) for
 * each row. Its state is h, of an LSTM h and c. Arrays are (steps, rows, ...), of states (vectors, steps, rows, units).
 */
enum { GRU, LSTM };

/* What a cell of codes computes with. */
typedef struct {
    double gate, candidate, forget, input, last, output; /* ratios; the last one of a GRU: reset, of an LSTM: cell */
    double one, sigmoid_limit, tanh_limit, limits[2];    /* of the codes of h and of c */
    const double *sigmoid, *tanh;
    float scales[2];               /* what a code of h, of c is worth, ... */
    float part, part_limit;        /* ... and one that a layer gives */
    float inverse, taken_limit;    /* what the recurrent layer turns h into codes by */
    const double *ratio;           /* of its accumulators, `ratios` of them */
    Py_ssize_t ratios;
} codes;

static inline double wide_round_half_even(double v) {
    const double rounder = 6755399441055744.0; /* 1.5 * 2**52: good for values up to 2**51, and for what is clipped */
    return (v + rounder) - rounder;
}

static inline double wide_clip(double v, double low, double high) {
    v = v < low ? low : v; /* NaN stays NaN */
    return v > high ? high : v;
}

/* floor(v * ratio + 1/2), within int32 */
static inline double scaled(double v, double ratio) {
    v = wide_clip(v * ratio + 0.5, -2147483648.0, 2147483647.0);
    const double code = wide_round_half_even(v);
    return code - (double)(code > v);
}

static inline double look_up(const double *table, double limit, double code) {
    code = wide_clip(code, -limit, limit);
    return table[(int32_t)((code == code ? code : 0.0) + limit)] + 0.0 * code; /* NaN stays NaN */
}

static inline double gate(const codes *c, double v) {
    return look_up(c->sigmoid, c->sigmoid_limit, scaled(v, c->gate));
}

static inline double squashed(const codes *c, double v, double ratio) {
    return look_up(c->tanh, c->tanh_limit, scaled(v, ratio));
}

static inline double updated(const codes *c, double old, double lost, double added, int vector) {
    const double sum = old - scaled(lost * old, c->forget) + scaled(added, c->input);
    return wide_clip(sum, -c->limits[vector], c->limits[vector]);
}

static inline double code_of(float value, float scale) { return wide_round_half_even((double)(value / scale)); }

VECTORIZED static void gru_codes(const codes *c, Py_ssize_t units, const float *restrict x, const float *restrict y,
                                 const float *restrict h, float *restrict next) {
    for (Py_ssize_t u = 0; u < units; u++) {
        const Py_ssize_t v = u + units, w = v + units;
        const double old = code_of(h[u], c->scales[0]);
        const double reset = gate(c, code_of(x[u], c->part) + code_of(y[u], c->part));
        const double lost = c->one - gate(c, code_of(x[v], c->part) + code_of(y[v], c->part));
        const double part = code_of(x[w], c->part) + scaled(reset * code_of(y[w], c->part), c->last);
        const double added = lost * squashed(c, part, c->candidate);
        next[u] = (float)updated(c, old, lost, added, 0) * c->scales[0];
    }
}

VECTORIZED static void lstm_codes(const codes *c, Py_ssize_t units, const float *restrict x, const float *restrict y,
                                  const float *restrict held, float *restrict next, float *restrict next_held) {
    for (Py_ssize_t u = 0; u < units; u++) {
        const Py_ssize_t v = u + units, w = v + units, o = w + units;
        const double old = code_of(held[u], c->scales[1]);
        const double taken = gate(c, code_of(x[u], c->part) + code_of(y[u], c->part));
        const double lost = c->one - gate(c, code_of(x[v], c->part) + code_of(y[v], c->part));
        const double added = taken * squashed(c, code_of(x[w], c->part) + code_of(y[w], c->part), c->candidate);
        const double given = gate(c, code_of(x[o], c->part) + code_of(y[o], c->part));
        const double cell = updated(c, old, lost, added, 1);
        const double shown = scaled(given * squashed(c, cell, c->last), c->output);
        next[u] = (float)wide_clip(shown, -c->limits[0], c->limits[0]) * c->scales[0];
        next_held[u] = (float)cell * c->scales[1];
    }
}

/* Fits of policy/activations.py, without a branch, so that they run in vectors. exp: 0 below e^-87, infinite beyond
 * e^88. */
static inline float exponential(float v) {
    const float near = clip(v, -87.0f, 88.0f), shifted = near * 0x1.715476p+0f + ROUNDER;
    const float n = shifted - ROUNDER, s = (near - n * 0x1.62ep-1f) - n * 0x1.0bfbe8p-15f; /* n = rint(v / ln 2) */
    float q = 0x1.6db4e4p-10f, power;
    q = q * s + 0x1.123be0p-7f;
    q = q * s + 0x1.55545ep-5f;
    q = q * s + 0x1.55548ep-3f;
    q = q * s + 0x1p-1f;
    uint32_t bits; /* the last ones hold n */
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits + 127u) << 23;
    memcpy(&power, &bits, sizeof power);
    power *= (s + (s * s) * q) + 1.0f;
    return v > 88.0f ? INFINITY : v < -87.0f ? 0.0f : power;
}

static inline float sigmoid(float v) { return 1.0f / (1.0f + exponential(-v)); }

static inline float tanh_of(float v) {
    const float a = v < 0.0f ? -v : v, z = v * v, e = exponential(-(a + a));
    const float large = 1.0f - (e + e) / (1.0f + e);
    float p = -0x1.76abf6p-8f;
    p = p * z + 0x1.5256cep-6f;
    p = p * z + -0x1.b84448p-5f;
    p = p * z + 0x1.110768p-3f;
    p = p * z + -0x1.555534p-2f;
    return a < 0.625f ? v + v * (z * p) : v < 0.0f ? -large : large;
}

/* `kept`, for the gradient: reset, update, new, and y of new. */
VECTORIZED static void gru_floats(Py_ssize_t units, const float *restrict x, const float *restrict y,
                                  const float *restrict h, float *restrict next, float *restrict kept) {
    for (Py_ssize_t u = 0; u < units; u++) {
        const Py_ssize_t v = u + units, w = v + units;
        const float reset = sigmoid(x[u] + y[u]), update = sigmoid(x[v] + y[v]);
        const float new = tanh_of(x[w] + reset * y[w]);
        next[u] = (1.0f - update) * new + update * h[u];
        kept[u] = reset, kept[v] = update, kept[w] = new, kept[w + units] = y[w];
    }
}

VECTORIZED static void gru_back(Py_ssize_t units, const float *restrict kept, const float *restrict h,
                                const float *restrict of_next, float *restrict of_x, float *restrict of_y,
                                float *restrict of_h) {
    for (Py_ssize_t u = 0; u < units; u++) {
        const Py_ssize_t v = u + units, w = v + units;
        const float reset = kept[u], update = kept[v], new = kept[w], y = kept[w + units];
        const float of_new = of_next[u] * (1.0f - update) * (1.0f - new * new);
        of_x[u] = of_y[u] = of_new * y * reset * (1.0f - reset);
        of_x[v] = of_y[v] = of_next[u] * (h[u] - new) * update * (1.0f - update);
        of_x[w] = of_new;
        of_y[w] = of_new * reset;
        of_h[u] = of_next[u] * update;
    }
}

/* `kept`: input, forget, new, output, and tanh of c. */
VECTORIZED static void lstm_floats(Py_ssize_t units, const float *restrict x, const float *restrict y,
                                   const float *restrict held, float *restrict next, float *restrict next_held,
                                   float *restrict kept) {
    for (Py_ssize_t u = 0; u < units; u++) {
        const Py_ssize_t v = u + units, w = v + units, o = w + units;
        const float taken = sigmoid(x[u] + y[u]), forget = sigmoid(x[v] + y[v]), given = sigmoid(x[o] + y[o]);
        const float new = tanh_of(x[w] + y[w]), cell = forget * held[u] + taken * new, shown = tanh_of(cell);
        next[u] = given * shown;
        next_held[u] = cell;
        kept[u] = taken, kept[v] = forget, kept[w] = new, kept[o] = given, kept[o + units] = shown;
    }
}

VECTORIZED static void lstm_back(Py_ssize_t units, const float *restrict kept, const float *restrict held,
                                 const float *restrict of_next, const float *restrict of_next_held,
                                 float *restrict of_x, float *restrict of_held) {
    for (Py_ssize_t u = 0; u < units; u++) {
        const Py_ssize_t v = u + units, w = v + units, o = w + units;
        const float taken = kept[u], forget = kept[v], new = kept[w], given = kept[o], shown = kept[o + units];
        const float of_cell = of_next_held[u] + of_next[u] * given * (1.0f - shown * shown);
        of_x[u] = of_cell * new * taken * (1.0f - taken);
        of_x[v] = of_cell * held[u] * forget * (1.0f - forget);
        of_x[w] = of_cell * taken * (1.0f - new * new);
        of_x[o] = of_next[u] * shown * given * (1.0f - given);
        of_held[u] = of_cell * forget;
    }
}

/* out = bias + h weight, of a weight (inputs, outputs). */
VECTORIZED static void layer(const float *restrict weight, const float *restrict bias, const float *restrict h,
                             float *restrict out, Py_ssize_t inputs, Py_ssize_t outputs) {
    memcpy(out, bias, (size_t)outputs * sizeof *out);
    for (Py_ssize_t k = 0; k < inputs; k++) {
        for (Py_ssize_t i = 0; i < outputs; i++) {
            out[i] += h[k] * weight[k * outputs + i];
        }
    }
}

/* The same of codes, turned into what the layer gives for h; `inside`: where that is not clipped. */
VECTORIZED static void layer_codes(const codes *c, const float *restrict weight, const float *restrict bias,
                                   const float *restrict h, double *restrict acc, float *restrict out,
                                   uint8_t *restrict inside, Py_ssize_t inputs, Py_ssize_t outputs) {
    for (Py_ssize_t i = 0; i < outputs; i++) {
        acc[i] = bias[i];
    }
    for (Py_ssize_t k = 0; k < inputs; k++) {
        const double code = round_half_even(clip(h[k] * c->inverse, -c->taken_limit, c->taken_limit));
        for (Py_ssize_t i = 0; i < outputs; i++) {
            acc[i] += code * (double)weight[k * outputs + i];
        }
    }
    for (Py_ssize_t i = 0; i < outputs; i++) {
        const double code = scaled(acc[i], c->ratio[c->ratios > 1 ? i : 0]);
        const float part = clip((float)code, -c->part_limit, c->part_limit);
        inside[i] = !(code < -c->part_limit || code > c->part_limit); /* NaN goes on */
        out[i] = part * c->part;
    }
}

/* A cell's way through time. `codes`: NULL for one that computes in float. */
typedef struct {
    int kind;
    Py_ssize_t steps, rows, units;
    const uint8_t *starts; /* where episodes begin, (steps, rows); NULL: nowhere */
    codes *codes;
} way;

static Py_ssize_t gates_of(const way *w) { return w->kind == GRU ? 3 : 4; }
static Py_ssize_t vectors_of(const way *w) { return w->kind == GRU ? 1 : 2; }
static float goes_on(const way *w, Py_ssize_t at) { return w->starts != NULL && w->starts[at] ? 0.0f : 1.0f; }

/* `state` (vectors, rows, units) is what was before; `weight` (units, gates * units) and `bias` are codes where the
 * cell's are. Gives the state `before` and `after` each step, and of codes what it would be unrounded, `smooth`. */
static void unroll(const way *w, const float *x, const float *state, const float *weight, const float *bias,
                   float *before, float *after, float *smooth, float *kept, uint8_t *inside, double *scratch) {
    const Py_ssize_t units = w->units, gates = gates_of(w), row = gates * units, vector = w->steps * w->rows * units;
    float *const y = (float *)(scratch + row);
    for (Py_ssize_t at = 0; at < w->steps * w->rows; at++) {
        const Py_ssize_t first = at < w->rows, place = at * units;
        for (Py_ssize_t v = 0; v < vectors_of(w); v++) {
            const float *const old =
                first ? state + (v * w->rows + at) * units : after + v * vector + (at - w->rows) * units;
            for (Py_ssize_t u = 0; u < units; u++) {
                before[v * vector + place + u] = old[u] * goes_on(w, at);
            }
        }
        const float *const own = x + at * row, *const h = before + place;
        float *const exact = after + place, *const next = w->codes == NULL ? exact : smooth + place;
        if (w->codes == NULL) {
            layer(weight, bias, h, y, units, row);
        } else {
            layer_codes(w->codes, weight, bias, h, scratch, y, inside + at * row, units, row);
        }
        if (w->kind == GRU) {
            gru_floats(units, own, y, h, next, kept + at * (row + units));
            if (w->codes != NULL) {
                gru_codes(w->codes, units, own, y, h, exact);
            }
        } else {
            const float *const held = h + vector;
            lstm_floats(units, own, y, held, next, next + vector, kept + at * (row + units));
            if (w->codes != NULL) {
                lstm_codes(w->codes, units, own, y, held, exact, exact + vector);
            }
        }
    }
}

/* The gradient of what `unroll` has found, from `grad`, that of `after`. Of codes it passes where `smooth` is within
 * `limits`, and what the layer gives `inside`. `weight`: (gates * units, units), of real values. `of_state`: zeros. */
static void unroll_back(const way *w, const float *grad, const float *weight, const float *before, const float *kept,
                        const float *smooth, const uint8_t *inside, const float *limits, float *of_x, float *of_y,
                        float *of_state, float *scratch) {
    const Py_ssize_t units = w->units, row = gates_of(w) * units, vector = w->steps * w->rows * units;
    float *const of_h = scratch + 2 * units;
    for (Py_ssize_t at = w->steps * w->rows - 1; at >= 0; at--) {
        const Py_ssize_t place = at * units;
        float *const carried = of_state + at % w->rows * units;
        for (Py_ssize_t v = 0; v < vectors_of(w); v++) {
            for (Py_ssize_t u = 0; u < units; u++) {
                scratch[v * units + u] = grad[v * vector + place + u] + carried[v * w->rows * units + u];
            }
            for (Py_ssize_t u = 0; smooth != NULL && u < units; u++) {
                const float found = smooth[v * vector + place + u];
                scratch[v * units + u] *= found <= limits[v] && found >= -limits[v];
            }
        }
        float *const own = of_x + at * row, *const back = of_y + at * row;
        memset(of_h, 0, (size_t)units * sizeof *of_h);
        if (w->kind == GRU) {
            gru_back(units, kept + at * (row + units), before + place, scratch, own, back, of_h);
        } else {
            lstm_back(units, kept + at * (row + units), before + vector + place, scratch, scratch + units, own,
                      carried + w->rows * units);
            memcpy(back, own, (size_t)row * sizeof *back);
        }
        if (inside != NULL) {
            for (Py_ssize_t i = 0; i < row; i++) {
                back[i] = inside[at * row + i] ? back[i] : 0.0f;
            }
        }
        layer(weight, of_h, back, carried, row, units);
        for (Py_ssize_t v = 0; v < vectors_of(w); v++) {
            for (Py_ssize_t u = 0; u < units; u++) {
                carried[v * w->rows * units + u] *= goes_on(w, at);
            }
        }
    }
}

static PyObject *py_quantize(PyObject *module, PyObject *arguments) {
    (void)module;
    unsigned long long x, out, inverse, zero;
    Py_ssize_t rows, columns, factors;
    float low, high;
    if (!PyArg_ParseTuple(arguments, "KKnnKnKff", &x, &out, &rows, &columns, &inverse, &factors, &zero, &low, &high)) {
        return NULL;
    }
    const float *zeros = (const float *)(uintptr_t)zero;
    quantize((const float *)(uintptr_t)x, (float *)(uintptr_t)out, rows, columns, (const float *)(uintptr_t)inverse,
             factors > 1 || zeros != NULL, zeros, low, high);
    Py_RETURN_NONE;
}

static PyObject *py_requantize(PyObject *module, PyObject *arguments) {
    (void)module;
    unsigned long long acc, values, ratio;
    Py_ssize_t outer, channels, inner, ratios;
    int wide;
    float low, high, scale;
    if (!PyArg_ParseTuple(arguments, "KKnnnKpnfff", &acc, &values, &outer, &channels, &inner, &ratio, &wide, &ratios,
                          &low, &high, &scale)) {
        return NULL;
    }
    float *from = (float *)(uintptr_t)acc, *to = (float *)(uintptr_t)values;
    const float *factor = (const float *)(uintptr_t)ratio;
    const double *wide_factor = (const double *)(uintptr_t)ratio;
    const Py_ssize_t parts = ratios == 1 ? 1 : outer * channels;
    const Py_ssize_t size = ratios == 1 ? outer * channels * inner : inner;
    for (Py_ssize_t part = 0; part < parts; part++) {
        float *own_from = from + part * size, *own_to = to == NULL ? own_from : to + part * size;
        if (wide) {
            requantize_wide(own_from, own_to, size, wide_factor[part % ratios], low, high, scale);
        } else if (to == NULL) {
            requantize_in_place(own_from, size, factor[part % ratios], low, high, scale);
        } else {
            requantize(own_from, own_to, size, factor[part % ratios], low, high, scale);
        }
    }
    Py_RETURN_NONE;
}

static PyObject *py_look_up(PyObject *module, PyObject *arguments) {
    (void)module;
    unsigned long long x, values, slopes, table;
    Py_ssize_t size;
    float inverse, low, high, largest;
    if (!PyArg_ParseTuple(arguments, "KKKnffffK", &x, &values, &slopes, &size, &inverse, &low, &high, &largest,
                          &table)) {
        return NULL;
    }
    look_up_all((const float *)(uintptr_t)x, (float *)(uintptr_t)values, (float *)(uintptr_t)slopes, size, inverse,
                low, high, largest, (const float *)(uintptr_t)table);
    Py_RETURN_NONE;
}

/* Sums of rows to `sums`, one for each step. */
static void add_sum(float *sums, Py_ssize_t steps, Py_ssize_t row, double sum, double *total) {
    *total += sum;
    sums[steps > 1 ? row : 0] = (float)(steps > 1 ? sum : *total);
}

static PyObject *py_step_gradient(PyObject *module, PyObject *arguments) {
    (void)module;
    unsigned long long of_weight, weight, code, scale, step, sums;
    Py_ssize_t rows, columns, steps;
    float limit;
    if (!PyArg_ParseTuple(arguments, "KKKnnKKnfK", &of_weight, &weight, &code, &rows, &columns, &scale, &step, &steps,
                          &limit, &sums)) {
        return NULL;
    }
    double total = 0.0;
    for (Py_ssize_t row = 0; row < rows; row++) {
        const Py_ssize_t place = row * columns;
        const float own = ((const float *)(uintptr_t)step)[steps > 1 ? row : 0];
        const double sum =
            step_gradient((const float *)(uintptr_t)of_weight + place, (const float *)(uintptr_t)weight + place,
                    (const float *)(uintptr_t)code + place, columns, (const float *)(uintptr_t)scale, own, limit);
        add_sum((float *)(uintptr_t)sums, steps, row, sum, &total);
    }
    Py_RETURN_NONE;
}

static PyObject *py_rate_gradient(PyObject *module, PyObject *arguments) {
    (void)module;
    unsigned long long weight, grad, scale, step, sums;
    Py_ssize_t rows, columns, steps;
    float price;
    if (!PyArg_ParseTuple(arguments, "KKnnKKnfK", &weight, &grad, &rows, &columns, &scale, &step, &steps, &price,
                          &sums)) {
        return NULL;
    }
    double total = 0.0;
    for (Py_ssize_t row = 0; row < rows; row++) {
        float *own_grad = (float *)(uintptr_t)grad;
        const float own = ((const float *)(uintptr_t)step)[steps > 1 ? row : 0];
        const double sum = rate_gradient((const float *)(uintptr_t)weight + row * columns,
                                   own_grad == NULL ? NULL : own_grad + row * columns, columns,
                                   (const float *)(uintptr_t)scale, own, price);
        add_sum((float *)(uintptr_t)sums, steps, row, sum, &total);
    }
    Py_RETURN_NONE;
}

static PyObject *py_weight_codes(PyObject *module, PyObject *arguments) {
    (void)module;
    unsigned long long weight, out, scale, inverse;
    Py_ssize_t rows, columns, inverses;
    float limit;
    if (!PyArg_ParseTuple(arguments, "KKnnKKnf", &weight, &out, &rows, &columns, &scale, &inverse, &inverses,
                          &limit)) {
        return NULL;
    }
    const float *step = (const float *)(uintptr_t)inverse;
    int64_t largest = 0;
    for (Py_ssize_t row = 0; row < rows; row++) {
        const int64_t sum = weight_row((const float *)(uintptr_t)weight + row * columns,
                                       (float *)(uintptr_t)out + row * columns, columns,
                                       (const float *)(uintptr_t)scale, step[inverses > 1 ? row : 0], limit);
        largest = sum > largest ? sum : largest;
    }
    return PyLong_FromLongLong(largest);
}

static int codes_from(PyObject *numbers, codes *c) {
    unsigned long long sigmoid, tanh, ratio;
    if (!PyArg_ParseTuple(numbers, "dddddddddddKKffffffKn", &c->gate, &c->candidate, &c->forget, &c->input, &c->last,
                          &c->output, &c->one, &c->sigmoid_limit, &c->tanh_limit, &c->limits[0], &c->limits[1],
                          &sigmoid, &tanh, &c->scales[0], &c->scales[1], &c->part, &c->part_limit, &c->inverse,
                          &c->taken_limit, &ratio, &c->ratios)) {
        return 0;
    }
    c->sigmoid = (const double *)(uintptr_t)sigmoid;
    c->tanh = (const double *)(uintptr_t)tanh;
    c->ratio = (const double *)(uintptr_t)ratio;
    return 1;
}

static PyObject *py_unroll(PyObject *module, PyObject *arguments) {
    (void)module;
    unsigned long long starts, x, state, weight, bias, before, after, smooth, kept, inside;
    PyObject *numbers;
    codes c;
    way w = {0};
    if (!PyArg_ParseTuple(arguments, "innnKKKKKKKKKKO", &w.kind, &w.steps, &w.rows, &w.units, &starts, &x, &state,
                          &weight, &bias, &before, &after, &smooth, &kept, &inside, &numbers)) {
        return NULL;
    }
    if (numbers != Py_None) {
        if (!codes_from(numbers, &c)) {
            return NULL;
        }
        w.codes = &c;
    }
    w.starts = (const uint8_t *)(uintptr_t)starts;
    double *scratch = PyMem_Calloc((size_t)(2 * gates_of(&w) * w.units), sizeof *scratch);
    if (scratch == NULL) {
        return PyErr_NoMemory();
    }
    unroll(&w, (const float *)(uintptr_t)x, (const float *)(uintptr_t)state, (const float *)(uintptr_t)weight,
           (const float *)(uintptr_t)bias, (float *)(uintptr_t)before, (float *)(uintptr_t)after,
           (float *)(uintptr_t)smooth, (float *)(uintptr_t)kept, (uint8_t *)(uintptr_t)inside, scratch);
    PyMem_Free(scratch);
    Py_RETURN_NONE;
}

static PyObject *py_unroll_back(PyObject *module, PyObject *arguments) {
    (void)module;
    unsigned long long starts, grad, weight, before, kept, smooth, inside, of_x, of_y, of_state;
    float limits[2];
    way w = {0};
    if (!PyArg_ParseTuple(arguments, "innnKKKKKKKffKKK", &w.kind, &w.steps, &w.rows, &w.units, &starts, &grad, &weight,
                          &before, &kept, &smooth, &inside, &limits[0], &limits[1], &of_x, &of_y, &of_state)) {
        return NULL;
    }
    w.starts = (const uint8_t *)(uintptr_t)starts;
    float *scratch = PyMem_Calloc((size_t)(3 * w.units), sizeof *scratch);
    if (scratch == NULL) {
        return PyErr_NoMemory();
    }
    unroll_back(&w, (const float *)(uintptr_t)grad, (const float *)(uintptr_t)weight, (const float *)(uintptr_t)before,
                (const float *)(uintptr_t)kept, (const float *)(uintptr_t)smooth, (const uint8_t *)(uintptr_t)inside,
                limits, (float *)(uintptr_t)of_x, (float *)(uintptr_t)of_y, (float *)(uintptr_t)of_state, scratch);
    PyMem_Free(scratch);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"quantize", py_quantize, METH_VARARGS,
     "quantize(x, out, rows, columns, inverse, inverses, zero or 0, low, high)"},
    {"requantize", py_requantize, METH_VARARGS,
     "requantize(acc, values or 0, outer, channels, inner, ratio, wide, ratios, low, high, scale); a wide ratio is of "
     "float64"},
    {"look_up", py_look_up, METH_VARARGS, "look_up(x, values, slopes, size, inverse, low, high, largest, table)"},
    {"step_gradient", py_step_gradient, METH_VARARGS,
     "step_gradient(of_weight, weight, codes, rows, columns, scale or 0, step, steps, limit, sums)"},
    {"rate_gradient", py_rate_gradient, METH_VARARGS,
     "rate_gradient(weight, grad or 0, rows, columns, scale or 0, step, steps, price, sums)"},
    {"weight_codes", py_weight_codes, METH_VARARGS,
     "weight_codes(weight, out, rows, columns, scale or 0, inverse, inverses, limit) -> largest sum of magnitudes"},
    {"unroll", py_unroll, METH_VARARGS,
     "unroll(kind, steps, rows, units, starts or 0, x, state, weight, bias, before, after, smooth or 0, kept, "
     "inside or 0, codes or None)"},
    {"unroll_back", py_unroll_back, METH_VARARGS,
     "unroll_back(kind, steps, rows, units, starts or 0, grad, weight, before, kept, smooth or 0, inside or 0, "
     "limit of h, of c, of_x, of_y, of_state)"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_kernels", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kernels(void) { return PyModule_Create(&definition); }
