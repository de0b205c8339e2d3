/* The calls that score: `_native.prepare`, `similarities` and `keys` (`_native.pyi` describes them). */
#ifndef VECTOR_DB_SCORING_H
#define VECTOR_DB_SCORING_H

#include "arguments.h"

PyObject *call_prepare(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *call_similarities(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *call_keys(PyObject *module, PyObject *const *args, Py_ssize_t count);

#endif
