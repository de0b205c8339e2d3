#include "arguments.h"

#include <stdint.h>

int take_buffer(PyObject *from, Py_buffer *view, int writable, size_t size, Py_ssize_t count,
                const char *name) {
    if (PyObject_GetBuffer(from, view, writable ? PyBUF_WRITABLE : PyBUF_SIMPLE) < 0) return -1;
    if (view->len % (Py_ssize_t)size == 0 && (count < 0 || view->len == count * (Py_ssize_t)size))
        return 0;
    PyErr_Format(PyExc_ValueError, "%s: %zd bytes", name, view->len);
    PyBuffer_Release(view);
    return -1;
}

int check_count(Py_ssize_t given, Py_ssize_t wanted, const char *name) {
    if (given == wanted) return 0;
    PyErr_Format(PyExc_TypeError, "%s takes %zd arguments, got %zd", name, wanted, given);
    return -1;
}

int all_below(const Py_buffer *numbers, Py_ssize_t limit, const char *name) {
    const int64_t *at = numbers->buf;
    for (Py_ssize_t i = 0; i < numbers->len / (Py_ssize_t)sizeof *at; i++) {
        if (at[i] < 0 || at[i] >= limit) {
            PyErr_Format(PyExc_IndexError, "%s: %lld of %zd", name, (long long)at[i], limit);
            return 0;
        }
    }
    return 1;
}
