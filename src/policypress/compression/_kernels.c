/* The element-wise passes of fake quantization, fused: torch needs four to eight passes over memory for each.
 *
 * Every function computes, bit for bit, what the torch expressions in fake_quant.py compute; the tests compare them.
 * Arguments that are addresses point to contiguous float32 tensors on the CPU, whose sizes the caller answers for.
 * Compile without -ffast-math and with -ffp-contract=off.
 */
#define Py_LIMITED_API 0x030A0000 /* one binary for Python 3.10 and later */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>

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

/* out = rint(clip(x * inverse, low, high)); limits are integers, so clipping may come first. */
VECTORIZED static void quantize(const float *restrict x, float *restrict out, Py_ssize_t rows, Py_ssize_t columns,
                                const float *restrict inverse, int per_column, float low, float high) {
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
        for (Py_ssize_t i = 0; i < columns; i++) {
            to[i] = round_half_even(clip(from[i] * inverse[i], low, high));
        }
    }
}

/* Codes are kept within +-2**20, far outside of any limit, so that they can be rounded by ROUNDER. */
static inline float output_code(float acc, float ratio) {
    const float v = clip(acc * ratio + 0.5f, -1048576.0f, 1048576.0f);
    const float code = round_half_even(v);
    return code - (float)(code > v);
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

/* Turns accumulators into those values. */
VECTORIZED static void requantize_in_place(float *restrict acc, Py_ssize_t size, float ratio, float low, float high,
                                           float scale) {
    for (Py_ssize_t i = 0; i < size; i++) {
        acc[i] = clip(output_code(acc[i], ratio), low, high) * scale;
    }
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

static PyObject *py_quantize(PyObject *module, PyObject *arguments) {
    (void)module;
    unsigned long long x, out, inverse;
    Py_ssize_t rows, columns, factors;
    float low, high;
    if (!PyArg_ParseTuple(arguments, "KKnnKnff", &x, &out, &rows, &columns, &inverse, &factors, &low, &high)) {
        return NULL;
    }
    quantize((const float *)(uintptr_t)x, (float *)(uintptr_t)out, rows, columns, (const float *)(uintptr_t)inverse,
             factors > 1, low, high);
    Py_RETURN_NONE;
}

static PyObject *py_requantize(PyObject *module, PyObject *arguments) {
    (void)module;
    unsigned long long acc, values, ratio;
    Py_ssize_t outer, channels, inner, ratios;
    float low, high, scale;
    if (!PyArg_ParseTuple(arguments, "KKnnnKnfff", &acc, &values, &outer, &channels, &inner, &ratio, &ratios, &low,
                          &high, &scale)) {
        return NULL;
    }
    float *from = (float *)(uintptr_t)acc, *to = (float *)(uintptr_t)values;
    const float *factor = (const float *)(uintptr_t)ratio;
    const Py_ssize_t parts = ratios == 1 ? 1 : outer * channels;
    const Py_ssize_t size = ratios == 1 ? outer * channels * inner : inner;
    for (Py_ssize_t part = 0; part < parts; part++) {
        const float own = factor[part % ratios];
        if (to == NULL) {
            requantize_in_place(from + part * size, size, own, low, high, scale);
        } else {
            requantize(from + part * size, to + part * size, size, own, low, high, scale);
        }
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

static PyMethodDef methods[] = {
    {"quantize", py_quantize, METH_VARARGS, "quantize(x, out, rows, columns, inverse, inverses, low, high)"},
    {"requantize", py_requantize, METH_VARARGS,
     "requantize(acc, values or 0, outer, channels, inner, ratio, ratios, low, high, scale)"},
    {"weight_codes", py_weight_codes, METH_VARARGS,
     "weight_codes(weight, out, rows, columns, scale or 0, inverse, inverses, limit) -> largest sum of magnitudes"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_kernels", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kernels(void) { return PyModule_Create(&definition); }
