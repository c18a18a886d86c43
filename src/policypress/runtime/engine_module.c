/* Python binding of engine.c, within the limited API of Python 3.10 and NumPy 2: one binary serves all later ones. */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030A0000
#include <Python.h>

#define NPY_NO_DEPRECATED_API NPY_1_24_API_VERSION
#define NPY_TARGET_VERSION NPY_1_24_API_VERSION
#include <numpy/arrayobject.h>
#include <string.h>

#include "engine.h"
#include "engine_native.h"

enum {
    MAX_DIMENSIONS = 16,
    STACK_WORDS = 1024,        /* work memory up to 8 kB lies on the stack */
    CHUNK_BYTES = 1 << 19,     /* work memory of the rows of a batch that run together, at most */
    MOST_ROWS = 48,
    SLACK = 512,               /* bytes after the work memory that vectors may read */
    LONG_WORK = 50000          /* multiplications from which on other threads may run meanwhile: some microseconds */
};

typedef struct {
    PyObject_HEAD
    engine_network *network;
    PyObject *owner;
    PyObject *otherwise; /* what to call with what the engine does not take */
    engine_native *native;
    void *spare; /* work memory of one row, while nobody uses it */
    size_t row;  /* bytes of it */
    int observation_type, action_type, observation_dimensions, action_dimensions;
    npy_intp observation_shape[MAX_DIMENSIONS], action_shape[MAX_DIMENSIONS];
    unsigned long long operations;
} Engine;

/* Rows of `bytes` of work memory each that run together: kernels take 4, 6 or 8 at a time. */
static size_t chunk(size_t bytes) {
    const size_t rows = CHUNK_BYTES / bytes;
    return rows >= MOST_ROWS ? MOST_ROWS : rows >= 24 ? 24 : rows >= 6 ? 6 : 1;
}

static int read_shape(PyObject *shape, npy_intp *sizes, int *count) {
    const Py_ssize_t n = PyTuple_Size(shape);
    if (n < 0 || n > MAX_DIMENSIONS - 1) {
        PyErr_SetString(PyExc_ValueError, "A shape has at most 15 dimensions.");
        return -1;
    }
    for (Py_ssize_t i = 0; i < n; i++)
        sizes[i] = PyLong_AsSsize_t(PyTuple_GetItem(shape, i));
    *count = (int)n;
    return PyErr_Occurred() ? -1 : 0;
}

static int engine_init(PyObject *object, PyObject *args, PyObject *kwargs) {
    Engine *self = (Engine *)object;
    PyObject *address, *owner, *weights, *observation_shape, *action_shape;
    const void **dense;
    Py_ssize_t n;
    (void)kwargs;
    if (self->owner) {
        PyErr_SetString(PyExc_TypeError, "An engine is made once.");
        return -1;
    }
    if (!PyArg_ParseTuple(args, "OOO!iO!iO!K", &address, &owner, &PyList_Type, &weights, &self->observation_type,
                          &PyTuple_Type, &observation_shape, &self->action_type, &PyTuple_Type, &action_shape,
                          &self->operations) ||
        read_shape(observation_shape, self->observation_shape, &self->observation_dimensions) ||
        read_shape(action_shape, self->action_shape, &self->action_dimensions))
        return -1;
    self->network = PyLong_AsVoidPtr(address);
    if (!self->network)
        return -1;
    Py_INCREF(owner);
    self->owner = owner;
    self->row = (size_t)self->network->work_size + SLACK;
    n = PyList_Size(weights);
    if (!n)
        return 0;
    if (n != (Py_ssize_t)self->network->step_count) {
        PyErr_SetString(PyExc_ValueError, "Every step needs its weights, or 0.");
        return -1;
    }
    dense = PyMem_Calloc((size_t)n, sizeof *dense);
    if (!dense) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < n; i++)
        dense[i] = PyLong_AsVoidPtr(PyList_GetItem(weights, i));
    if (!PyErr_Occurred()) {
        self->native = engine_prepare(self->network, dense);
        if (!self->native)
            PyErr_NoMemory();
    }
    PyMem_Free(dense);
    return PyErr_Occurred() ? -1 : 0;
}

static int traverse(PyObject *object, visitproc visit, void *arg) {
    Engine *self = (Engine *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->owner);
    Py_VISIT(self->otherwise);
    return 0;
}

static int clear(PyObject *object) {
    Py_CLEAR(((Engine *)object)->otherwise); /* a policy and its engine refer to one another by this alone */
    return 0;
}

static void dealloc(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    Engine *self = (Engine *)object;
    PyObject_GC_UnTrack(object);
    engine_release(self->native);
    PyMem_Free(self->spare);
    Py_XDECREF(self->otherwise);
    Py_XDECREF(self->owner);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

/* How many observations the array holds, -1 if it is none of this engine's; `single` without a batch dimension. */
static npy_intp count_rows(const Engine *self, PyArrayObject *array, int *single) {
    const int dimensions = PyArray_NDIM(array), batch = dimensions - self->observation_dimensions;
    const npy_intp *shape = PyArray_DIMS(array);
    if ((batch != 0 && batch != 1) || !PyArray_ISCARRAY_RO(array))
        return -1;
    for (int i = 0; i < self->observation_dimensions; i++)
        if (shape[i + batch] != self->observation_shape[i])
            return -1;
    *single = !batch;
    return batch ? shape[0] : 1;
}

/* Observations between float32 and float64, in memory to be freed. */
static void *convert(const Engine *self, PyArrayObject *array) {
    const npy_intp size = PyArray_SIZE(array);
    const void *from = PyArray_DATA(array);
    void *to = PyMem_Malloc((size_t)size * 8 + 8);
    if (to && self->observation_type == NPY_DOUBLE)
        for (npy_intp i = 0; i < size; i++)
            ((double *)to)[i] = ((const float *)from)[i];
    else if (to)
        for (npy_intp i = 0; i < size; i++)
            ((float *)to)[i] = (float)((const double *)from)[i];
    return to;
}

/* Bytes of a state. */
static size_t state_bytes(const Engine *self) {
    const engine_network *n = self->network;
    return n->state_size * (n->input.target_type == ENGINE_F32 ? sizeof(float) : sizeof(int16_t));
}

/* Runs `rows` observations, some at a time; `results` of `size` bytes each are actions or outputs. `state`: or NULL. */
static int run(const Engine *self, const unsigned char *observations, size_t rows, unsigned char *results,
               size_t size, int outputs, unsigned char *state, void *work, size_t together) {
    for (size_t r = 0; r < rows; r += together) {
        const size_t n = rows - r < together ? rows - r : together;
        const void *from = observations + r * self->network->observation_size;
        void *part = state ? state + r * state_bytes(self) : NULL;
        const int status = outputs ? engine_outputs(self->network, from, n, (void *)(results + r * size), part, work)
                                   : engine_predict(self->network, from, n, results + r * size, part, work);
        if (status)
            return status;
    }
    return ENGINE_OK;
}

/* What becomes of an observation or a batch; `state`, an array of a row each, becomes the next one. */
static PyObject *answer(Engine *self, PyObject *observation, int outputs, PyArrayObject *state) {
    engine_word stack[STACK_WORDS];
    PyArrayObject *array;
    PyObject *result;
    const int dimensions = outputs ? 1 : self->action_dimensions;
    npy_intp shape[MAX_DIMENSIONS];
    npy_intp rows;
    size_t together, needed, size;
    void *work = stack, *converted = NULL;
    const unsigned char *from;
    int single, type, status;
    if (!self->owner || !PyArray_Check(observation))
        Py_RETURN_NONE;
    array = (PyArrayObject *)observation;
    rows = count_rows(self, array, &single);
    type = PyArray_TYPE(array);
    if (rows < 0 || !state != !self->network->state_size)
        Py_RETURN_NONE;
    if (state && (!PyArray_ISCARRAY(state) || (size_t)PyArray_NBYTES(state) != (size_t)rows * state_bytes(self)))
        Py_RETURN_NONE;
    from = PyArray_DATA(array);
    if (type != self->observation_type) {
        if ((type != NPY_FLOAT && type != NPY_DOUBLE) ||
            (self->observation_type != NPY_FLOAT && self->observation_type != NPY_DOUBLE))
            Py_RETURN_NONE;
        from = converted = convert(self, array);
        if (!from)
            return PyErr_NoMemory();
    }
    shape[0] = rows;
    if (outputs)
        shape[1] = self->network->output.outputs;
    else
        memcpy(shape + 1, self->action_shape, (size_t)dimensions * sizeof *shape);
    single = single && !outputs;
    result = PyArray_SimpleNew(dimensions + !single, shape + single, outputs ? NPY_FLOAT : self->action_type);
    together = chunk(self->row);
    together = (size_t)rows < together ? (size_t)rows : together;
    needed = together * self->network->work_size + SLACK;
    if (needed > sizeof stack) {
        /* The spare memory is taken and given back while this thread holds the interpreter's lock. */
        work = needed <= self->row ? self->spare : NULL;
        if (work)
            self->spare = NULL;
        else
            work = PyMem_Malloc(needed < self->row ? self->row : needed);
    }
    if (!result || !work) {
        if (!work)
            PyErr_NoMemory();
        PyMem_Free(converted);
        Py_XDECREF(result);
        return NULL;
    }
    size = outputs ? 4 * (size_t)shape[1] : self->network->action_size;
    if (self->operations * (unsigned long long)rows < LONG_WORK)
        status = run(self, from, (size_t)rows, PyArray_DATA((PyArrayObject *)result), size, outputs,
                     state ? PyArray_DATA(state) : NULL, work, together);
    else {
        unsigned char *to = PyArray_DATA((PyArrayObject *)result), *memory = state ? PyArray_DATA(state) : NULL;
        Py_BEGIN_ALLOW_THREADS
        status = run(self, from, (size_t)rows, to, size, outputs, memory, work, together);
        Py_END_ALLOW_THREADS
    }
    if (work != stack) {
        if (self->spare || together > 1)
            PyMem_Free(work);
        else
            self->spare = work;
    }
    PyMem_Free(converted);
    if (status == ENGINE_OK)
        return result;
    Py_DECREF(result);
    Py_RETURN_NONE;
}

static PyObject *engine_predict_method(PyObject *self, PyObject *observation) {
    return answer((Engine *)self, observation, 0, NULL);
}

static PyObject *engine_outputs_method(PyObject *self, PyObject *observation) {
    return answer((Engine *)self, observation, 1, NULL);
}

static PyObject *engine_step_method(PyObject *self, PyObject *args) {
    PyObject *observation, *state;
    int outputs;
    if (!PyArg_ParseTuple(args, "OO!p", &observation, &PyArray_Type, &state, &outputs))
        return NULL;
    return answer((Engine *)self, observation, outputs, (PyArrayObject *)state);
}

/* Positional and keyword arguments of a fast call, passed on. */
static PyObject *call_otherwise(const Engine *self, PyObject *const *args, Py_ssize_t n, PyObject *names) {
    const Py_ssize_t named = names ? PyTuple_Size(names) : 0;
    PyObject *positional = PyTuple_New(n), *keywords = PyDict_New(), *result = NULL;
    for (Py_ssize_t i = 0; positional && i < n; i++) {
        Py_INCREF(args[i]);
        PyTuple_SetItem(positional, i, args[i]);
    }
    for (Py_ssize_t i = 0; keywords && i < named; i++)
        if (PyDict_SetItem(keywords, PyTuple_GetItem(names, i), args[n + i]))
            Py_CLEAR(keywords);
    if (positional && keywords)
        result = PyObject_Call(self->otherwise, positional, keywords);
    Py_XDECREF(positional);
    Py_XDECREF(keywords);
    return result;
}

/* Policy.predict(observation, state, episode_start, deterministic), without the interpreter's share of the time. */
static PyObject *engine_call_method(PyObject *object, PyObject *const *args, Py_ssize_t n, PyObject *names) {
    Engine *self = (Engine *)object;
    const Py_ssize_t named = names ? PyTuple_Size(names) : 0;
    PyObject *state = n > 1 ? args[1] : Py_None, *actions, *result;
    int plain = n >= 1 && n <= 4 && (n < 4 || args[3] == Py_True);
    for (Py_ssize_t i = 0; i < named; i++)
        plain = plain && n < 4 && args[n + i] == Py_True &&
                !PyUnicode_CompareWithASCIIString(PyTuple_GetItem(names, i), "deterministic");
    if (!self->otherwise) {
        PyErr_SetString(PyExc_TypeError, "The engine is not bound to a policy.");
        return NULL;
    }
    actions = plain ? answer(self, args[0], 0, NULL) : NULL;
    if (plain && !actions)
        return NULL;
    if (!plain || actions == Py_None) {
        Py_XDECREF(actions);
        return call_otherwise(self, args, n, names);
    }
    result = PyTuple_New(2);
    if (!result) {
        Py_DECREF(actions);
        return NULL;
    }
    Py_INCREF(state);
    PyTuple_SetItem(result, 0, actions);
    PyTuple_SetItem(result, 1, state);
    return result;
}

static PyObject *engine_bind_method(PyObject *object, PyObject *otherwise) {
    Engine *self = (Engine *)object;
    PyObject *before = self->otherwise;
    Py_INCREF(otherwise);
    self->otherwise = otherwise;
    Py_XDECREF(before);
    return PyObject_GetAttrString(object, "call");
}

/* For measurements: what the call from Python adds is left out. */
static PyObject *engine_repeat_method(PyObject *object, PyObject *args) {
    Engine *self = (Engine *)object;
    PyObject *observation, *result;
    PyArrayObject *array, *state = NULL;
    Py_ssize_t times;
    void *work, *memory = NULL;
    unsigned char *action;
    int single;
    if (!PyArg_ParseTuple(args, "On|O!", &observation, &times, &PyArray_Type, &state))
        return NULL;
    result = answer(self, observation, 0, state);
    if (!result || result == Py_None)
        return result;
    array = (PyArrayObject *)observation;
    if (PyArray_TYPE(array) != self->observation_type || count_rows(self, array, &single) != 1) {
        Py_DECREF(result);
        Py_RETURN_NONE;
    }
    action = PyArray_DATA((PyArrayObject *)result);
    work = PyMem_Malloc(self->row);
    if (!work) {
        Py_DECREF(result);
        return PyErr_NoMemory();
    }
    if (state)
        memory = PyArray_DATA(state);
    for (Py_ssize_t i = 0; i < times; i++)
        engine_predict(self->network, PyArray_DATA(array), 1, action, memory, work);
    PyMem_Free(work);
    return result;
}

static PyObject *engine_kernels_method(PyObject *object, PyObject *unused) {
    Engine *self = (Engine *)object;
    PyObject *names = PyList_New(0);
    (void)unused;
    for (uint32_t i = 0; names && self->owner && i < self->network->step_count; i++) {
        PyObject *name = PyUnicode_FromString(engine_kernel_name(&self->network->steps[i]));
        if (!name || PyList_Append(names, name))
            Py_CLEAR(names);
        Py_XDECREF(name);
    }
    return names;
}

static PyMethodDef methods[] = {
    {"predict", engine_predict_method, METH_O, NULL},
    {"outputs", engine_outputs_method, METH_O, NULL},
    {"call", (PyCFunction)(void (*)(void))engine_call_method, METH_FASTCALL | METH_KEYWORDS,
     "call($self, observation, state=None, episode_start=None, deterministic=True, *, reference=False)\n--\n\n"
     "Policy.predict, called without detour."},
    {"step", engine_step_method, METH_VARARGS, NULL},
    {"bind", engine_bind_method, METH_O, NULL},
    {"repeat", engine_repeat_method, METH_VARARGS, NULL},
    {"kernels", engine_kernels_method, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "Runs one program."},
    {Py_tp_init, engine_init},
    {Py_tp_dealloc, dealloc},
    {Py_tp_traverse, traverse},
    {Py_tp_clear, clear},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec spec = {"policypress.runtime.engine.Engine", sizeof(Engine), 0,
                           Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, slots};

/* ---- the lists of engine.h, for Python ---- */

typedef struct {
    const char *name, *type, *use;
    size_t offset, size;
} field;

#define FIELD_OF(STRUCTURE, USE, TYPE, NAME) \
    {#NAME, #TYPE, #USE, offsetof(STRUCTURE, NAME), sizeof(((STRUCTURE *)0)->NAME)},
#define STEP_FIELD(USE, TYPE, NAME) FIELD_OF(engine_step, USE, TYPE, NAME)
#define INPUT_FIELD(USE, TYPE, NAME) FIELD_OF(engine_input, USE, TYPE, NAME)
#define OUTPUT_FIELD(USE, TYPE, NAME) FIELD_OF(engine_output, USE, TYPE, NAME)
#define NETWORK_FIELD(USE, TYPE, NAME) FIELD_OF(engine_network, USE, TYPE, NAME)
static const field step_fields[] = {ENGINE_STEP(STEP_FIELD)};
static const field input_fields[] = {ENGINE_INPUT(INPUT_FIELD)};
static const field output_fields[] = {ENGINE_OUTPUT(OUTPUT_FIELD)};
static const field network_fields[] = {ENGINE_NETWORK(NETWORK_FIELD)};

typedef struct {
    const char *name;
    int value;
} enumerator;

#define ENUMERATOR(name) {#name, name},
static const enumerator enumerators[] = {
    ENGINE_TYPES(ENUMERATOR) ENGINE_KINDS(ENUMERATOR) ENGINE_FORMS(ENUMERATOR) ENGINE_FINISHES(ENUMERATOR)
    ENGINE_DTYPES(ENUMERATOR) ENGINE_ACTIONS(ENUMERATOR) ENGINE_CELL_NUMBERS(ENUMERATOR)
};

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* Adds (bytes, [(name, type, use, offset, bytes), ...]) of a structure to the dictionary. */
static int add_structure(PyObject *structures, const char *name, size_t size, const field *fields, size_t count) {
    PyObject *list = PyList_New(0), *structure = NULL;
    int failed = !list;
    for (size_t i = 0; !failed && i < count; i++) {
        const field *f = &fields[i];
        PyObject *row =
            Py_BuildValue("(sssnn)", f->name, f->type, f->use, (Py_ssize_t)f->offset, (Py_ssize_t)f->size);
        failed = !row || PyList_Append(list, row);
        Py_XDECREF(row);
    }
    if (!failed)
        structure = Py_BuildValue("(nO)", (Py_ssize_t)size, list);
    failed = !structure || PyDict_SetItemString(structures, name, structure);
    Py_XDECREF(structure);
    Py_XDECREF(list);
    return failed;
}

static PyObject *make_structures(void) {
    PyObject *structures = PyDict_New();
    if (structures &&
        (add_structure(structures, "engine_step", sizeof(engine_step), step_fields, COUNT(step_fields)) ||
         add_structure(structures, "engine_input", sizeof(engine_input), input_fields, COUNT(input_fields)) ||
         add_structure(structures, "engine_output", sizeof(engine_output), output_fields, COUNT(output_fields)) ||
         add_structure(structures, "engine_network", sizeof(engine_network), network_fields, COUNT(network_fields))))
        Py_CLEAR(structures);
    return structures;
}

static PyObject *make_names(void) {
    PyObject *names = PyDict_New();
    for (size_t i = 0; names && i < COUNT(enumerators); i++) {
        PyObject *value = PyLong_FromLong(enumerators[i].value);
        if (!value || PyDict_SetItemString(names, enumerators[i].name, value))
            Py_CLEAR(names);
        Py_XDECREF(value);
    }
    return names;
}

static int execute(PyObject *module) {
    PyObject *type = PyType_FromSpec(&spec), *structures = make_structures(), *names = make_names();
    int failed = !type || !structures || !names || PyModule_AddObjectRef(module, "Engine", type) ||
                 PyModule_AddObjectRef(module, "STRUCTURES", structures) ||
                 PyModule_AddObjectRef(module, "NAMES", names) ||
                 PyModule_AddStringConstant(module, "KERNELS", engine_machine()) ||
                 PyModule_AddStringConstant(module, "INTERFACE", ENGINE_INTERFACE);
    Py_XDECREF(type);
    Py_XDECREF(structures);
    Py_XDECREF(names);
    return failed ? -1 : 0;
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, execute}, {0, NULL}};
static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "engine", "The native engine.", 0, NULL, module_slots, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_engine(void) {
    import_array();
    return PyModuleDef_Init(&definition);
}
