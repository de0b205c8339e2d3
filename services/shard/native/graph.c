#include "graph.h"

#include <stdlib.h>

#include "walk.h"

enum { ALONE_BEAM_MAX = 64 };

static const kernel_set *kernels;
static scratch *idle; /* taken and given back with the interpreter's lock held */

typedef struct {
    PyObject_HEAD
    graph graph;
    Py_buffer codes, links, offsets;
    float *least, *step; /* of bytes: a component is least + step * byte */
    int distance;
} Graph;

static void graph_dealloc(Graph *self) {
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    PyBuffer_Release(&self->codes);
    PyBuffer_Release(&self->links);
    PyBuffer_Release(&self->offsets);
    free(self->least);
    PyObject_Free(self);
    Py_DECREF(type);
}

static int graph_scale(Graph *self, PyObject *trained) {
    size_t d = self->graph.dimension;
    Py_buffer view;
    if (take_buffer(trained, &view, 0, sizeof(float), 2 * (Py_ssize_t)d, "trained") < 0) return -1;
    const float *from = view.buf;
    self->least = malloc(2 * d * sizeof(float));
    if (self->least == NULL) {
        PyBuffer_Release(&view);
        PyErr_NoMemory();
        return -1;
    }
    self->step = self->least + d;
    for (size_t i = 0; i < d; i++) { /* FAISS decodes to the middle of a step */
        self->step[i] = from[d + i] / 255;
        self->least[i] = from[i] + self->step[i] / 2;
    }
    PyBuffer_Release(&view);
    return 0;
}

static int graph_levels(Graph *self, PyObject *starts, long levels) {
    graph *g = &self->graph;
    Py_ssize_t n = PyTuple_Size(starts);
    if (n < 0) return -1;
    if (levels < 1 || levels > LEVELS_MAX || n < levels + 1) {
        PyErr_SetString(PyExc_ValueError, "levels");
        return -1;
    }
    for (Py_ssize_t i = 0; i <= levels; i++) {
        size_t start = PyLong_AsSize_t(PyTuple_GetItem(starts, i));
        if (start == (size_t)-1 && PyErr_Occurred()) return -1;
        if (i > 0 && start < g->starts[i - 1]) {
            PyErr_SetString(PyExc_ValueError, "starts");
            return -1;
        }
        g->starts[i] = start;
    }
    g->levels = (int)levels;
    return 0;
}

/* Every row's links lie within `links`, those of the entry at each of its levels too. Rows above the
   bottom are met only there, by links of their level. */
static int graph_offsets_fit(const Graph *self) {
    const graph *g = &self->graph;
    size_t links = (size_t)self->links.len / sizeof(int32_t);
    for (size_t i = 0; i < g->rows; i++) {
        if (g->offsets[i + 1] > links || g->offsets[i + 1] < g->offsets[i] + g->starts[1]) return 0;
    }
    return g->entry < 0 ||
           g->offsets[g->entry] + g->starts[g->levels] <= g->offsets[g->entry + 1];
}

static PyObject *graph_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"codes", "encoding", "dimension", "distance", "links", "offsets",
                            "starts", "entry", "levels", "trained", NULL};
    static const size_t sizes[ENCODINGS] = {sizeof(float), sizeof(uint16_t), 1};
    PyObject *codes, *links, *offsets, *starts, *trained;
    int encoding, distance, entry;
    long levels;
    Py_ssize_t dimension;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OinpOOOilO", names, &codes, &encoding,
                                     &dimension, &distance, &links, &offsets, &starts, &entry,
                                     &levels, &trained))
        return NULL;
    if (encoding < 0 || encoding >= ENCODINGS || dimension < 1) {
        PyErr_SetString(PyExc_ValueError, "encoding or dimension");
        return NULL;
    }
    Graph *self = (Graph *)PyType_GenericAlloc(type, 0);
    if (self == NULL) return NULL;
    graph *g = &self->graph;
    g->dimension = (size_t)dimension;
    g->code_bytes = sizes[encoding] * g->dimension;
    g->closeness = distance ? kernels->distance[encoding] : kernels->product[encoding];
    self->distance = distance;
    if (take_buffer(codes, &self->codes, 0, g->code_bytes, -1, "codes") < 0) goto failed;
    g->rows = (size_t)self->codes.len / g->code_bytes;
    if (take_buffer(links, &self->links, 0, sizeof(int32_t), -1, "links") < 0) goto failed;
    if (take_buffer(offsets, &self->offsets, 0, sizeof(uint64_t), (Py_ssize_t)g->rows + 1, "offsets") < 0)
        goto failed;
    if (graph_levels(self, starts, levels) < 0) goto failed;
    if (encoding == BYTES && graph_scale(self, trained) < 0) goto failed;
    g->codes = self->codes.buf;
    g->links = self->links.buf;
    g->offsets = self->offsets.buf;
    g->entry = entry;
    if (entry < -1 || entry >= (Py_ssize_t)g->rows || !graph_offsets_fit(self)) {
        PyErr_SetString(PyExc_ValueError, "links");
        goto failed;
    }
    return (PyObject *)self;
failed:
    Py_DECREF(self);
    return NULL;
}

/* The walks of all queries; 0, or -1 without memory. Needs no interpreter. */
static int walk_all(const Graph *self, scratch *room, const float *queries, size_t nq, size_t k,
                    size_t beam, const uint8_t *live, size_t live_bytes, float *closeness,
                    int64_t *rows) {
    const graph *g = &self->graph;
    size_t d = g->dimension;
    float *prepared = self->least == NULL ? NULL : malloc(d * sizeof(float));
    if (self->least != NULL && prepared == NULL) return -1;
    int status = 0;
    for (size_t q = 0; q < nq && status == 0; q++) {
        const float *query = queries + q * d, *a = query;
        float constant = 0;
        if (prepared != NULL) {
            a = prepared;
            for (size_t i = 0; i < d; i++) {
                prepared[i] = self->distance ? query[i] - self->least[i] : query[i] * self->step[i];
                constant += self->distance ? 0 : query[i] * self->least[i];
            }
        }
        status = walk(g, room, a, self->step, k, beam, live, live_bytes, closeness + q * k,
                      rows + q * k);
        for (size_t i = q * k; i < (q + 1) * k; i++) closeness[i] += constant;
    }
    free(prepared);
    return status;
}

static PyObject *graph_search(Graph *self, PyObject *const *args, Py_ssize_t count) {
    Py_buffer queries = {0}, live = {0}, closeness = {0}, rows = {0};
    PyObject *answer = NULL;
    if (check_count(count, 6, "search") < 0) return NULL;
    size_t d = self->graph.dimension;
    Py_ssize_t k = PyLong_AsSsize_t(args[1]), beam = PyLong_AsSsize_t(args[2]);
    if (PyErr_Occurred()) return NULL;
    if (k < 1 || beam < k || beam > BEAM_MAX) {
        PyErr_Format(PyExc_ValueError, "k %zd and beam %zd: at most %d", k, beam, BEAM_MAX);
        return NULL;
    }
    if (take_buffer(args[0], &queries, 0, d * sizeof(float), -1, "queries") < 0) return NULL;
    Py_ssize_t nq = queries.len / (Py_ssize_t)(d * sizeof(float));
    if (args[3] != Py_None && take_buffer(args[3], &live, 0, 1, -1, "live") < 0) goto done;
    if (take_buffer(args[4], &closeness, 1, sizeof(float), nq * k, "closeness") < 0) goto done;
    if (take_buffer(args[5], &rows, 1, sizeof(int64_t), nq * k, "rows") < 0) goto done;
    scratch *taken = idle;
    if (taken != NULL) idle = taken->next;
    scratch *room = scratch_for(taken, self->graph.rows);
    int status = -1;
    if (room != NULL) {
        /* For a short walk the lock is dearer to get back than to keep. */
        PyThreadState *state = nq * beam > ALONE_BEAM_MAX ? PyEval_SaveThread() : NULL;
        status = walk_all(self, room, queries.buf, (size_t)nq, (size_t)k, (size_t)beam, live.buf,
                          (size_t)live.len, closeness.buf, rows.buf);
        if (state != NULL) PyEval_RestoreThread(state);
        room->next = idle;
        idle = room;
    }
    if (status < 0)
        PyErr_NoMemory();
    else
        answer = Py_NewRef(Py_None);
done:
    PyBuffer_Release(&queries);
    PyBuffer_Release(&live);
    PyBuffer_Release(&closeness);
    PyBuffer_Release(&rows);
    return answer;
}

static PyMethodDef graph_methods[] = {
    {"search", (PyCFunction)(void (*)(void))graph_search, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot graph_slots[] = {
    {Py_tp_new, graph_new},
    {Py_tp_dealloc, graph_dealloc},
    {Py_tp_methods, graph_methods},
    {0, NULL},
};

static PyType_Spec graph_spec = {
    .name = "vector_db.shard._native.Graph",
    .basicsize = sizeof(Graph),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = graph_slots,
};

int add_graph(PyObject *module, const kernel_set *chosen) {
    kernels = chosen;
    PyObject *type = PyType_FromModuleAndSpec(module, &graph_spec, NULL);
    if (type == NULL) return -1;
    int added = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return added < 0 ? -1 : PyModule_AddIntConstant(module, "BEAM_MAX", BEAM_MAX);
}
