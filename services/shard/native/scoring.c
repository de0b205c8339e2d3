#include "scoring.h"

#include <stdlib.h>
#include <string.h>

#include "prefetch.h"
#include "score.h"

enum { ALONE_MAX = 4096, FEW = 64 };

PyObject *call_prepare(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    Py_buffer queries = {0}, lengths = {0}, directions = {0};
    PyObject *answer = NULL;
    (void)module;
    if (check_count(count, 3, "prepare") < 0) return NULL;
    if (take_buffer(args[1], &lengths, 1, sizeof(double), -1, "lengths") < 0) return NULL;
    Py_ssize_t nq = lengths.len / (Py_ssize_t)sizeof(double);
    if (take_buffer(args[0], &queries, 0, sizeof(float), -1, "queries") < 0) goto done;
    Py_ssize_t dimension = nq ? queries.len / (Py_ssize_t)sizeof(float) / nq : 0;
    if (queries.len != nq * dimension * (Py_ssize_t)sizeof(float)) {
        PyErr_SetString(PyExc_ValueError, "queries");
        goto done;
    }
    if (args[2] != Py_None &&
        take_buffer(args[2], &directions, 1, sizeof(float), nq * dimension, "directions") < 0)
        goto done;
    lengths_of(queries.buf, (size_t)nq, (size_t)dimension, lengths.buf);
    if (directions.buf != NULL)
        directions_of(queries.buf, lengths.buf, (size_t)nq, (size_t)dimension, directions.buf);
    answer = Py_NewRef(Py_None);
done:
    PyBuffer_Release(&queries);
    PyBuffer_Release(&lengths);
    PyBuffer_Release(&directions);
    return answer;
}

/* What is scored: pairs of a query and a row. */
typedef struct {
    enum metric metric;
    Py_buffer queries, lengths, vectors, rows;
    Py_ssize_t nq, n;
    size_t dimension;
} pairs;

/* From (metric, queries, lengths, vectors, rows). 0, or -1 with an exception; release in any case. */
static int pairs_take(pairs *p, PyObject *const *args) {
    long metric = PyLong_AsLong(args[0]);
    if (PyErr_Occurred()) return -1;
    if (take_buffer(args[2], &p->lengths, 0, sizeof(double), -1, "lengths") < 0) return -1;
    p->nq = p->lengths.len / (Py_ssize_t)sizeof(double);
    if (take_buffer(args[1], &p->queries, 0, sizeof(float), -1, "queries") < 0) return -1;
    Py_ssize_t floats = p->queries.len / (Py_ssize_t)sizeof(float);
    if (metric < COSINE || metric > EUCLIDEAN || p->nq < 1 || floats < p->nq || floats % p->nq) {
        PyErr_SetString(PyExc_ValueError, "metric or queries");
        return -1;
    }
    p->metric = (enum metric)metric;
    p->dimension = (size_t)(floats / p->nq);
    size_t row_bytes = p->dimension * sizeof(float);
    if (take_buffer(args[3], &p->vectors, 0, row_bytes, -1, "vectors") < 0) return -1;
    if (take_buffer(args[4], &p->rows, 0, sizeof(int64_t), -1, "rows") < 0) return -1;
    p->n = p->rows.len / (Py_ssize_t)sizeof(int64_t);
    return all_below(&p->rows, p->vectors.len / (Py_ssize_t)row_bytes, "rows") ? 0 : -1;
}

static void pairs_release(pairs *p) {
    PyBuffer_Release(&p->queries);
    PyBuffer_Release(&p->lengths);
    PyBuffer_Release(&p->vectors);
    PyBuffer_Release(&p->rows);
}

static void pairs_score(const pairs *p, const int64_t *asked, double *out) {
    similarities_of(p->metric, p->queries.buf, p->lengths.buf, asked, p->vectors.buf, p->rows.buf,
                    (size_t)p->n, p->dimension, out);
}

PyObject *call_similarities(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    pairs p = {0};
    Py_buffer asked = {0}, out = {0};
    PyObject *answer = NULL;
    (void)module;
    if (check_count(count, 7, "similarities") < 0) return NULL;
    if (pairs_take(&p, args) < 0) goto done;
    if (args[5] != Py_None && (take_buffer(args[5], &asked, 0, sizeof(int64_t), p.n, "asked") < 0 ||
                               !all_below(&asked, p.nq, "asked")))
        goto done;
    if (take_buffer(args[6], &out, 1, sizeof(double), p.n, "out") < 0) goto done;
    PyThreadState *state = p.n > ALONE_MAX ? PyEval_SaveThread() : NULL;
    pairs_score(&p, asked.buf, out.buf);
    if (state != NULL) PyEval_RestoreThread(state);
    answer = Py_NewRef(Py_None);
done:
    pairs_release(&p);
    PyBuffer_Release(&asked);
    PyBuffer_Release(&out);
    return answer;
}

/* --- keys: scored, in the order of hits -------------------------------------------------------- */

typedef struct {
    double similarity;
    const char *id;
    Py_ssize_t id_bytes, row;
} candidate;

static int by_similarity(const void *left, const void *right) {
    const candidate *a = left, *b = right;
    return (a->similarity < b->similarity) - (a->similarity > b->similarity);
}

static int in_order(const void *left, const void *right) {
    const candidate *a = left, *b = right;
    int by = by_similarity(a, b);
    if (by != 0) return by;
    Py_ssize_t common = a->id_bytes < b->id_bytes ? a->id_bytes : b->id_bytes;
    by = memcmp(a->id, b->id, (size_t)common);
    return by != 0 ? by : (a->id_bytes > b->id_bytes) - (a->id_bytes < b->id_bytes);
}

/* Vectors and the places of ids lie far apart: all are on their way before the first is used. */
static void fetch_all(const pairs *p, const Py_buffer *offsets) {
    const int64_t *rows = p->rows.buf, *at = offsets->buf;
    const float *vectors = p->vectors.buf;
    for (Py_ssize_t i = 0; i < p->n; i++) {
        prefetch(vectors + (size_t)rows[i] * p->dimension, p->dimension * sizeof *vectors);
        PREFETCH(at + rows[i]);
    }
}

/* The ids of candidates, from `offsets` and `data`. 0, or -1 with an exception. */
static int name_all(candidate *all, Py_ssize_t n, const Py_buffer *offsets, const Py_buffer *data) {
    const int64_t *at = offsets->buf;
    Py_ssize_t named = offsets->len / (Py_ssize_t)sizeof *at - 1;
    for (Py_ssize_t i = 0; i < n; i++) {
        Py_ssize_t row = all[i].row;
        if (row >= named || at[row] < 0 || at[row] > at[row + 1] || at[row + 1] > data->len) {
            PyErr_Format(PyExc_IndexError, "ids: row %zd of %zd", row, named);
            return -1;
        }
        all[i].id = (const char *)data->buf + at[row];
        PREFETCH(all[i].id);
        all[i].id_bytes = (Py_ssize_t)(at[row + 1] - at[row]);
    }
    return 0;
}

/* [(-similarity, id, number, row), ...] */
static PyObject *keys_of(const candidate *all, Py_ssize_t n, PyObject *number) {
    PyObject *list = PyList_New(n);
    for (Py_ssize_t i = 0; list != NULL && i < n; i++) {
        PyObject *key = PyTuple_New(4);
        PyObject *parts[4] = {
            PyFloat_FromDouble(-all[i].similarity),
            PyBytes_FromStringAndSize(all[i].id, all[i].id_bytes),
            Py_NewRef(number),
            PyLong_FromSsize_t(all[i].row),
        };
        int whole = key != NULL;
        for (int j = 0; j < 4; j++) whole = whole && parts[j] != NULL;
        for (int j = 0; j < 4; j++) {
            if (whole)
                PyTuple_SetItem(key, j, parts[j]);
            else
                Py_XDECREF(parts[j]);
        }
        if (whole) {
            PyList_SetItem(list, i, key);
        } else {
            Py_XDECREF(key);
            Py_CLEAR(list);
        }
    }
    return list;
}

PyObject *call_keys(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    pairs p = {0};
    Py_buffer offsets = {0}, data = {0};
    PyObject *answer = NULL;
    candidate few[FEW], *all = few;
    double few_scores[FEW], *scores = few_scores;
    (void)module;
    if (check_count(count, 9, "keys") < 0) return NULL;
    if (pairs_take(&p, args) < 0) goto done;
    Py_ssize_t kept = PyLong_AsSsize_t(args[5]);
    if (PyErr_Occurred()) goto done;
    if (take_buffer(args[6], &offsets, 0, sizeof(int64_t), -1, "offsets") < 0) goto done;
    if (take_buffer(args[7], &data, 0, 1, -1, "data") < 0) goto done;
    Py_ssize_t n = p.n;
    if (n > FEW) {
        all = malloc((size_t)n * sizeof *all);
        scores = malloc((size_t)n * sizeof *scores);
    }
    if (all == NULL || scores == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    const int64_t *rows = p.rows.buf;
    if (n <= FEW) fetch_all(&p, &offsets);
    pairs_score(&p, NULL, scores);
    for (Py_ssize_t i = 0; i < n; i++) {
        all[i].similarity = scores[i];
        all[i].row = (Py_ssize_t)rows[i];
    }
    qsort(all, (size_t)n, sizeof *all, by_similarity);
    if (kept > 0 && n > kept) { /* what ties with the last kept may have a smaller id */
        double last = all[kept - 1].similarity;
        for (n = kept; n < p.n && all[n].similarity == last; n++) continue;
    }
    if (name_all(all, n, &offsets, &data) < 0) goto done;
    qsort(all, (size_t)n, sizeof *all, in_order);
    answer = keys_of(all, n, args[8]);
done:
    if (all != few) free(all);
    if (scores != few_scores) free(scores);
    pairs_release(&p);
    PyBuffer_Release(&offsets);
    PyBuffer_Release(&data);
    return answer;
}
