/* `_native.Graph`: a graph of neighbours over the arrays of a FAISS index, and its searches. */
#ifndef VECTOR_DB_GRAPH_H
#define VECTOR_DB_GRAPH_H

#include "arguments.h"
#include "kernels.h"

/* Adds the type to `module`; its graphs use `kernels`. 0, or -1 with an exception. */
int add_graph(PyObject *module, const kernel_set *kernels);

#endif
