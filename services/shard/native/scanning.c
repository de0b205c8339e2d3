#include "scanning.h"

#include "bytes.h"

enum { ROWS_ALONE_MAX = 16384 };

static const kernel_set *kernels;

void use_for_scans(const kernel_set *chosen) { kernels = chosen; }

/* Rows and what they are encoded to, for `rows` rows of `dimension` components. */
typedef struct {
    Py_buffer codes, steps, errors, lengths;
} columns;

static int columns_take(columns *c, PyObject *const *args, int writable, Py_ssize_t rows,
                        Py_ssize_t dimension) {
    Py_ssize_t components = rows * dimension;
    return take_buffer(args[0], &c->codes, writable, 1, components, "codes") < 0 ||
                   take_buffer(args[1], &c->steps, writable, sizeof(float), rows, "steps") < 0 ||
                   take_buffer(args[2], &c->errors, writable, sizeof(float), rows, "errors") < 0 ||
                   take_buffer(args[3], &c->lengths, writable, sizeof(float), rows, "lengths") < 0
               ? -1
               : 0;
}

static void columns_release(columns *c) {
    PyBuffer_Release(&c->codes);
    PyBuffer_Release(&c->steps);
    PyBuffer_Release(&c->errors);
    PyBuffer_Release(&c->lengths);
}

static byte_rows rows_of(const columns *c) {
    byte_rows rows = {c->codes.buf, c->steps.buf, c->errors.buf, c->lengths.buf};
    return rows;
}

PyObject *call_encode(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    Py_buffer vectors = {0};
    columns out = {0};
    PyObject *answer = NULL;
    (void)module;
    if (check_count(count, 6, "encode") < 0) return NULL;
    Py_ssize_t dimension = PyLong_AsSsize_t(args[1]);
    if (PyErr_Occurred()) return NULL;
    if (dimension < 1) return PyErr_Format(PyExc_ValueError, "dimension %zd", dimension);
    size_t row_bytes = (size_t)dimension * sizeof(float);
    if (take_buffer(args[0], &vectors, 0, row_bytes, -1, "vectors") < 0) return NULL;
    Py_ssize_t rows = vectors.len / (Py_ssize_t)row_bytes;
    if (columns_take(&out, args + 2, 1, rows, dimension) == 0) {
        PyThreadState *state = rows > ROWS_ALONE_MAX ? PyEval_SaveThread() : NULL;
        encode_bytes(vectors.buf, (size_t)rows, (size_t)dimension, rows_of(&out));
        if (state != NULL) PyEval_RestoreThread(state);
        answer = Py_NewRef(Py_None);
    }
    columns_release(&out);
    PyBuffer_Release(&vectors);
    return answer;
}

PyObject *call_candidates(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    Py_buffer query = {0}, live = {0}, found = {0};
    columns of = {0};
    PyObject *answer = NULL;
    (void)module;
    if (check_count(count, 10, "candidates") < 0) return NULL;
    long metric = PyLong_AsLong(args[0]);
    double length = PyFloat_AsDouble(args[2]);
    Py_ssize_t k = PyLong_AsSsize_t(args[8]);
    if (PyErr_Occurred()) return NULL;
    if (metric < COSINE || metric > EUCLIDEAN || k < 1) {
        PyErr_SetString(PyExc_ValueError, "metric or k");
        return NULL;
    }
    if (take_buffer(args[1], &query, 0, sizeof(float), -1, "query") < 0) return NULL;
    if (take_buffer(args[9], &found, 1, sizeof(int64_t), -1, "found") < 0) goto done;
    Py_ssize_t dimension = query.len / (Py_ssize_t)sizeof(float);
    Py_ssize_t rows = found.len / (Py_ssize_t)sizeof(int64_t);
    if (columns_take(&of, args + 3, 0, rows, dimension) < 0) goto done;
    if (args[7] != Py_None && take_buffer(args[7], &live, 0, 1, rows, "live") < 0) goto done;
    PyThreadState *state = rows > ROWS_ALONE_MAX ? PyEval_SaveThread() : NULL;
    ptrdiff_t n = scan_bytes((enum metric)metric, kernels->whole_products, query.buf, length,
                             rows_of(&of), live.buf, (size_t)rows, (size_t)dimension,
                             (size_t)(k < rows ? k : rows ? rows : 1), found.buf);
    if (state != NULL) PyEval_RestoreThread(state);
    answer = n == -2 ? PyErr_NoMemory() : PyLong_FromSsize_t((Py_ssize_t)n);
done:
    columns_release(&of);
    PyBuffer_Release(&query);
    PyBuffer_Release(&live);
    PyBuffer_Release(&found);
    return answer;
}
