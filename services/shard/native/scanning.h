/* The calls for rows at one byte a component: `_native.encode` and `candidates`. */
#ifndef VECTOR_DB_SCANNING_H
#define VECTOR_DB_SCANNING_H

#include "arguments.h"
#include "kernels.h"

/* The kernels of all scans; before the first. */
void use_for_scans(const kernel_set *kernels);

PyObject *call_encode(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *call_candidates(PyObject *module, PyObject *const *args, Py_ssize_t count);

#endif
