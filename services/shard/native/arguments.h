/* Arguments of the calls from Python.

   Owns the safety of the loops, which check nothing: each buffer's size and each row number is
   checked before. */
#ifndef VECTOR_DB_ARGUMENTS_H
#define VECTOR_DB_ARGUMENTS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stddef.h>

/* A contiguous buffer of `count` items of `size` bytes, or of any number of them (-1). 0, or -1 with
   an exception. */
int take_buffer(PyObject *from, Py_buffer *view, int writable, size_t size, Py_ssize_t count,
                const char *name);

/* 0, or -1 with an exception. */
int check_count(Py_ssize_t given, Py_ssize_t wanted, const char *name);

/* 1 when every number of an int64 buffer is in [0, limit), else 0 with an exception. */
int all_below(const Py_buffer *numbers, Py_ssize_t limit, const char *name);

#endif
