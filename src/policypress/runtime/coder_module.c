/* Python binding of coder.c, within the limited API of Python 3.10: one binary serves all versions from there. */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030A0000
#include <Python.h>

#include <string.h>

#include "coder.h"

typedef struct {
    PyObject_HEAD
    coder c;
    uint8_t *output; /* the encoder's own buffer */
    PyObject *input; /* the decoder's bytes */
    int finished;
} Coder;

static const char DAMAGED[] = "The data are not a stream of this coder, or are damaged.";

static PyObject *fail(const char *sentence) {
    PyErr_SetString(PyExc_ValueError, sentence);
    return NULL;
}

static int ready(Coder *self) {
    if (self->finished || !(self->output || self->input)) {
        fail("The stream is finished; start a new one.");
        return 0;
    }
    return 1;
}

static int known_context(int context) {
    if (context < 0 || context >= CODER_CONTEXTS) {
        fail("A context is a number from 0 to 18.");
        return 0;
    }
    return 1;
}

static int known_shape(Py_ssize_t rows, Py_ssize_t columns, int bits) {
    if (rows < 1 || columns < 1 || rows > CODER_MAX_SIDE || columns > CODER_MAX_SIDE ||
        (uint64_t)rows * (uint64_t)columns > 1u << 28) {
        fail("A matrix has 1 to 65,535 rows and columns, and at most 2^28 weights.");
        return 0;
    }
    if (bits < 2 || bits > 8) {
        fail("A weight has 2 to 8 bits.");
        return 0;
    }
    return 1;
}

static int known_length(Py_ssize_t n) {
    if (n < 0 || n > CODER_MAX_LENGTH) {
        fail("A vector has at most 32,768 integers.");
        return 0;
    }
    return 1;
}

static int known_count(int count) {
    if (count < 1 || count > 1 << CODER_LEVEL_DIGITS) {
        fail("There are 1 to 8 levels.");
        return 0;
    }
    return 1;
}

/* Room for the bytes up to `position` and for what the end of the stream adds. */
static int reserve(Coder *self, size_t position) {
    size_t size = position + 16;
    uint8_t *grown;
    if (size <= self->c.size)
        return 1;
    size += size / 2;
    grown = PyMem_Realloc(self->output, size);
    if (!grown) {
        PyErr_NoMemory();
        return 0;
    }
    self->output = self->c.output = grown;
    self->c.size = size;
    return 1;
}

static int encoder_init(PyObject *object, PyObject *args, PyObject *kwargs) {
    static char *names[] = {NULL};
    Coder *self = (Coder *)object;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "", names))
        return -1;
    PyMem_Free(self->output);
    self->finished = 0;
    self->output = PyMem_Malloc(64);
    if (!self->output) {
        PyErr_NoMemory();
        return -1;
    }
    coder_encode_start(&self->c, self->output, 64);
    return 0;
}

static int decoder_init(PyObject *object, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"data", NULL};
    Coder *self = (Coder *)object;
    PyObject *data, *before = self->input;
    char *bytes;
    Py_ssize_t size;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "S", names, &data) || PyBytes_AsStringAndSize(data, &bytes, &size))
        return -1;
    Py_INCREF(data);
    self->input = data;
    self->finished = 0;
    Py_XDECREF(before);
    coder_decode_start(&self->c, (const uint8_t *)bytes, (size_t)size);
    return 0;
}

static void dealloc(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    Coder *self = (Coder *)object;
    PyMem_Free(self->output);
    Py_XDECREF(self->input);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

static PyObject *encode_integer(PyObject *object, PyObject *args, PyObject *kwargs, int is_signed) {
    static char *names[] = {"value", "context", NULL};
    Coder *self = (Coder *)object;
    PyObject *value;
    long long number;
    int context = 0, overflow;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|i", names, &value, &context) || !known_context(context))
        return NULL;
    number = PyLong_AsLongLongAndOverflow(value, &overflow);
    if (PyErr_Occurred())
        return NULL;
    if (is_signed && (overflow || number < INT32_MIN || number > INT32_MAX))
        return fail("A signed integer lies between -2^31 and 2^31 - 1.");
    if (!is_signed && (overflow || number < 0 || number > UINT32_MAX))
        return fail("An unsigned integer lies between 0 and 2^32 - 1.");
    if (!ready(self) || !reserve(self, self->c.position + 256))
        return NULL;
    if (is_signed)
        coder_signed(&self->c, (int32_t)number, (unsigned)context);
    else
        coder_unsigned(&self->c, (uint32_t)number, (unsigned)context);
    Py_RETURN_NONE;
}

static PyObject *encode_unsigned(PyObject *object, PyObject *args, PyObject *kwargs) {
    return encode_integer(object, args, kwargs, 0);
}

static PyObject *encode_signed(PyObject *object, PyObject *args, PyObject *kwargs) {
    return encode_integer(object, args, kwargs, 1);
}

static PyObject *encode_uniform(PyObject *object, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"value", "bits", NULL};
    Coder *self = (Coder *)object;
    unsigned long long value;
    int bits;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "Ki", names, &value, &bits) || !ready(self))
        return NULL;
    if (bits < 1 || bits > 32 || value >> bits)
        return fail("A uniform number has 1 to 32 bits, and no more than are told.");
    if (!reserve(self, self->c.position + 16))
        return NULL;
    coder_uniform(&self->c, (uint32_t)value, (unsigned)bits);
    Py_RETURN_NONE;
}

static PyObject *encode_integers(PyObject *object, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"values", "ascending", NULL};
    Coder *self = (Coder *)object;
    coder_workspace w = {0};
    coder trial;
    PyObject *data;
    char *bytes;
    int32_t *values;
    Py_ssize_t size;
    uint32_t n;
    int ascending, done;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "Sp", names, &data, &ascending) ||
        PyBytes_AsStringAndSize(data, &bytes, &size) || !ready(self))
        return NULL;
    if (size % 4)
        return fail("The values are not whole int32 numbers.");
    if (!known_length(size / 4))
        return NULL;
    if (!size)
        Py_RETURN_NONE;
    n = (uint32_t)(size / 4);
    values = PyMem_Malloc((size_t)size + 1);
    if (!values)
        return PyErr_NoMemory();
    memcpy(values, bytes, (size_t)size);
    for (uint32_t i = 1; ascending && i < n; i++)
        if (values[i] < values[i - 1]) {
            PyMem_Free(values);
            return fail("The values are not in ascending order.");
        }
    trial = self->c;
    trial.output = NULL;
    coder_integers(&trial, &w, values, n, ascending);
    done = reserve(self, trial.position);
    if (done)
        coder_integers(&self->c, &w, values, n, ascending);
    PyMem_Free(values);
    if (!done)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *encode_matrix(PyObject *object, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"codes", "rows", "columns", "bits", "alone", NULL};
    Coder *self = (Coder *)object;
    coder_workspace w = {0};
    coder_model model;
    coder_cost cost;
    coder trial;
    PyObject *data;
    char *bytes;
    int8_t *codes;
    Py_ssize_t size, rows, columns;
    int bits, limit, alone = 0, done = 1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "Snni|p", names, &data, &rows, &columns, &bits, &alone) ||
        PyBytes_AsStringAndSize(data, &bytes, &size) || !ready(self) || !known_shape(rows, columns, bits))
        return NULL;
    if (size != rows * columns)
        return fail("The number of codes is not rows times columns.");
    limit = (1 << (bits - 1)) - 1;
    for (Py_ssize_t i = 0; i < size; i++)
        if ((int8_t)bytes[i] < -limit || (int8_t)bytes[i] > limit)
            return fail("A code does not fit into the given bits.");
    codes = PyMem_Malloc((size_t)size);
    w.columns = PyMem_Malloc(((size_t)columns + 2) * sizeof *w.columns);
    if (codes && w.columns) {
        memcpy(codes, bytes, (size_t)size);
        if (alone)
            coder_alone(&self->c);
        Py_BEGIN_ALLOW_THREADS
        coder_matrix_search(&self->c, &w, codes, (uint32_t)rows, (uint32_t)columns, (unsigned)bits, alone, &model);
        Py_END_ALLOW_THREADS
        trial = self->c;
        trial.output = NULL;
        coder_matrix(&trial, &w, codes, (uint32_t)rows, (uint32_t)columns, (unsigned)bits, &model, NULL);
        done = reserve(self, trial.position);
        if (done)
            coder_matrix(&self->c, &w, codes, (uint32_t)rows, (uint32_t)columns, (unsigned)bits, &model, &cost);
    } else {
        PyErr_NoMemory();
        done = 0;
    }
    PyMem_Free(codes);
    PyMem_Free(w.columns);
    return done ? Py_BuildValue("(LL)", (long long)cost.positions, (long long)cost.values) : NULL;
}

static PyObject *encode_levels(PyObject *object, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"values", "count", NULL};
    Coder *self = (Coder *)object;
    PyObject *data;
    char *bytes;
    int32_t *values;
    Py_ssize_t size;
    int count, fits = 1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "Si", names, &data, &count) ||
        PyBytes_AsStringAndSize(data, &bytes, &size) || !ready(self) || !known_count(count))
        return NULL;
    if (size % 4)
        return fail("The values are not whole int32 numbers.");
    if (!known_length(size / 4) || !reserve(self, self->c.position + (size_t)size))
        return NULL;
    values = PyMem_Malloc((size_t)size + 1);
    if (!values)
        return PyErr_NoMemory();
    memcpy(values, bytes, (size_t)size);
    for (Py_ssize_t i = 0; i < size / 4; i++)
        fits &= values[i] >= 0 && values[i] < count;
    if (fits)
        coder_levels(&self->c, values, (uint32_t)(size / 4), (uint32_t)count);
    PyMem_Free(values);
    if (!fits)
        return fail("A level is not below their count.");
    Py_RETURN_NONE;
}

static PyObject *encode_bits(PyObject *object, PyObject *unused) {
    (void)unused;
    return PyLong_FromUnsignedLongLong(coder_bits(&((Coder *)object)->c));
}

static PyObject *encode_finish(PyObject *object, PyObject *unused) {
    Coder *self = (Coder *)object;
    (void)unused;
    if (!ready(self) || !reserve(self, self->c.position))
        return NULL;
    self->finished = 1;
    return PyBytes_FromStringAndSize((const char *)self->output, (Py_ssize_t)coder_encode_finish(&self->c));
}

static int decodable(Coder *self, int context) {
    return ready(self) && known_context(context);
}

static PyObject *decode_unsigned(PyObject *object, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"context", NULL};
    Coder *self = (Coder *)object;
    int context = 0;
    uint32_t value;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|i", names, &context) || !decodable(self, context))
        return NULL;
    value = coder_unsigned(&self->c, 0, (unsigned)context);
    return coder_overrun(&self->c) ? fail(DAMAGED) : PyLong_FromUnsignedLong(value);
}

static PyObject *decode_signed(PyObject *object, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"context", NULL};
    Coder *self = (Coder *)object;
    int context = 0;
    int32_t value;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|i", names, &context) || !decodable(self, context))
        return NULL;
    value = coder_signed(&self->c, 0, (unsigned)context);
    return coder_overrun(&self->c) ? fail(DAMAGED) : PyLong_FromLong(value);
}

static PyObject *decode_uniform(PyObject *object, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"bits", NULL};
    Coder *self = (Coder *)object;
    int bits;
    uint32_t value;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "i", names, &bits) || !decodable(self, 0))
        return NULL;
    if (bits < 1 || bits > 32)
        return fail("A uniform number has 1 to 32 bits, and no more than are told.");
    value = coder_uniform(&self->c, 0, (unsigned)bits);
    return coder_overrun(&self->c) ? fail(DAMAGED) : PyLong_FromUnsignedLong(value);
}

static PyObject *decode_integers(PyObject *object, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"n", "ascending", NULL};
    Coder *self = (Coder *)object;
    coder_workspace w = {0};
    PyObject *result;
    int32_t *values;
    Py_ssize_t n;
    int ascending, damaged;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "np", names, &n, &ascending) || !ready(self) || !known_length(n))
        return NULL;
    values = PyMem_Calloc((size_t)n + 1, 4);
    if (!values)
        return PyErr_NoMemory();
    damaged = n && (coder_integers(&self->c, &w, values, (uint32_t)n, ascending) || coder_overrun(&self->c));
    result = damaged ? fail(DAMAGED) : PyBytes_FromStringAndSize((const char *)values, 4 * n);
    PyMem_Free(values);
    return result;
}

static PyObject *decode_levels(PyObject *object, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"n", "count", NULL};
    Coder *self = (Coder *)object;
    PyObject *result;
    int32_t *values;
    Py_ssize_t n;
    int count;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "ni", names, &n, &count) || !ready(self) || !known_length(n) ||
        !known_count(count))
        return NULL;
    values = PyMem_Calloc((size_t)n + 1, 4);
    if (!values)
        return PyErr_NoMemory();
    coder_levels(&self->c, values, (uint32_t)n, (uint32_t)count);
    result = coder_overrun(&self->c) ? fail(DAMAGED) : PyBytes_FromStringAndSize((const char *)values, 4 * n);
    PyMem_Free(values);
    return result;
}

static PyObject *decode_matrix(PyObject *object, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"rows", "columns", "bits", "alone", NULL};
    Coder *self = (Coder *)object;
    coder_workspace w = {0};
    coder c;
    PyObject *result;
    int8_t *codes;
    Py_ssize_t rows, columns;
    int bits, alone = 0, damaged = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "nni|p", names, &rows, &columns, &bits, &alone) || !ready(self) ||
        !known_shape(rows, columns, bits))
        return NULL;
    result = PyBytes_FromStringAndSize(NULL, rows * columns);
    if (!result)
        return NULL;
    w.columns = PyMem_Malloc(((size_t)columns + 2) * sizeof *w.columns);
    if (!w.columns) {
        Py_DECREF(result);
        return PyErr_NoMemory();
    }
    codes = (int8_t *)PyBytes_AsString(result);
    memset(codes, 0, (size_t)(rows * columns));
    if (alone)
        coder_alone(&self->c);
    c = self->c; /* a copy: another thread may use the object meanwhile */
    Py_BEGIN_ALLOW_THREADS
    damaged = coder_matrix(&c, &w, codes, (uint32_t)rows, (uint32_t)columns, (unsigned)bits, NULL, NULL) ||
              coder_overrun(&c);
    Py_END_ALLOW_THREADS
    self->c = c;
    PyMem_Free(w.columns);
    if (damaged) {
        Py_DECREF(result);
        return fail(DAMAGED);
    }
    return result;
}

static PyObject *decode_finish(PyObject *object, PyObject *unused) {
    Coder *self = (Coder *)object;
    int rest;
    (void)unused;
    if (!ready(self))
        return NULL;
    self->finished = 1;
    rest = coder_decode_finish(&self->c);
    if (rest)
        return fail(!coder_overrun(&self->c) ? "The stream has bytes left that were not read." : DAMAGED);
    Py_RETURN_NONE;
}

#define KEYWORDS(function) ((PyCFunction)(void (*)(void))(function))

static PyMethodDef encoder_methods[] = {
    {"unsigned", KEYWORDS(encode_unsigned), METH_VARARGS | METH_KEYWORDS, NULL},
    {"signed", KEYWORDS(encode_signed), METH_VARARGS | METH_KEYWORDS, NULL},
    {"uniform", KEYWORDS(encode_uniform), METH_VARARGS | METH_KEYWORDS, NULL},
    {"integers", KEYWORDS(encode_integers), METH_VARARGS | METH_KEYWORDS, NULL},
    {"levels", KEYWORDS(encode_levels), METH_VARARGS | METH_KEYWORDS, NULL},
    {"matrix", KEYWORDS(encode_matrix), METH_VARARGS | METH_KEYWORDS, NULL},
    {"bits", encode_bits, METH_NOARGS, NULL},
    {"finish", encode_finish, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMethodDef decoder_methods[] = {
    {"unsigned", KEYWORDS(decode_unsigned), METH_VARARGS | METH_KEYWORDS, NULL},
    {"signed", KEYWORDS(decode_signed), METH_VARARGS | METH_KEYWORDS, NULL},
    {"uniform", KEYWORDS(decode_uniform), METH_VARARGS | METH_KEYWORDS, NULL},
    {"integers", KEYWORDS(decode_integers), METH_VARARGS | METH_KEYWORDS, NULL},
    {"levels", KEYWORDS(decode_levels), METH_VARARGS | METH_KEYWORDS, NULL},
    {"matrix", KEYWORDS(decode_matrix), METH_VARARGS | METH_KEYWORDS, NULL},
    {"finish", decode_finish, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot encoder_slots[] = {
    {Py_tp_doc, "Writes a stream."},
    {Py_tp_init, encoder_init},
    {Py_tp_dealloc, dealloc},
    {Py_tp_methods, encoder_methods},
    {0, NULL},
};

static PyType_Slot decoder_slots[] = {
    {Py_tp_doc, "Reads a stream."},
    {Py_tp_init, decoder_init},
    {Py_tp_dealloc, dealloc},
    {Py_tp_methods, decoder_methods},
    {0, NULL},
};

static PyType_Spec encoder_spec = {"policypress.runtime.coder.Encoder", sizeof(Coder), 0, Py_TPFLAGS_DEFAULT,
                                   encoder_slots};
static PyType_Spec decoder_spec = {"policypress.runtime.coder.Decoder", sizeof(Coder), 0, Py_TPFLAGS_DEFAULT,
                                   decoder_slots};

static int execute(PyObject *module) {
    PyType_Spec *specs[] = {&encoder_spec, &decoder_spec};
    for (size_t i = 0; i < 2; i++) {
        PyObject *type = PyType_FromSpec(specs[i]);
        int failed = !type || PyModule_AddType(module, (PyTypeObject *)type);
        Py_XDECREF(type);
        if (failed)
            return -1;
    }
    return 0;
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, execute}, {0, NULL}};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "coder", "Entropy coder of policy files.", 0, NULL,
                                        module_slots, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_coder(void) {
    return PyModuleDef_Init(&definition);
}
