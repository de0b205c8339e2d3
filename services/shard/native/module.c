/* vector_db.shard._native: the loops that Python would leave to run between two of its steps. */
#include <stdlib.h>

#include "arguments.h"
#include "graph.h"
#include "kernels.h"
#include "scanning.h"
#include "scoring.h"

typedef void (*any_function)(void);

static PyMethodDef functions[] = {
    {"prepare", (PyCFunction)(any_function)call_prepare, METH_FASTCALL, NULL},
    {"similarities", (PyCFunction)(any_function)call_similarities, METH_FASTCALL, NULL},
    {"keys", (PyCFunction)(any_function)call_keys, METH_FASTCALL, NULL},
    {"encode", (PyCFunction)(any_function)call_encode, METH_FASTCALL, NULL},
    {"candidates", (PyCFunction)(any_function)call_candidates, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static int populate(PyObject *module) {
    const kernel_set *kernels = choose_kernels(getenv("FAISS_SIMD_LEVEL"));
    use_for_scans(kernels);
    if (add_graph(module, kernels) < 0) return -1;
    return PyModule_AddStringConstant(module, "LEVEL", kernels->name);
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, populate},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_native", .m_size = 0, .m_methods = functions, .m_slots = slots,
};

PyMODINIT_FUNC PyInit__native(void) { return PyModuleDef_Init(&definition); }
