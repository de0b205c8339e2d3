#include "bytes.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>

#include "cpu.h"

enum { LANES = 8, STEPS = 127, SUM_MAX = 1 << 30, ROOM_FIRST = 1024, BLOCK = 256 };

static const float STEP_MIN = 1e-30f;   /* below, a step's inverse may be no float32 */
static const double LENGTH_MIN = 1e-30; /* below, a length is told as 0 */
static const double ABOVE = 1 + 1e-6;   /* stays above when it is rounded to float32 */
static const double SLACK = 4e-6;       /* of a length, or of its square, that is told so */
static const double SAME = 3e-16;       /* distances so near each other have one similarity */
static const double EXACT = 1e-12;      /* more than float64 rounds off, here and in scores */

/* The largest size of a component. Loops over lanes, here and below, become vector instructions. */
INLINE float largest_of(const float *row, size_t dimension) {
    float lane[LANES] = {0}, largest = 0;
    size_t i = 0;
    for (; i + LANES <= dimension; i += LANES)
        for (int j = 0; j < LANES; j++) {
            float size = fabsf(row[i + j]);
            lane[j] = size > lane[j] ? size : lane[j];
        }
    for (; i < dimension; i++) lane[0] = fabsf(row[i]) > lane[0] ? fabsf(row[i]) : lane[0];
    for (int j = 0; j < LANES; j++) largest = lane[j] > largest ? lane[j] : largest;
    return largest;
}

/* The whole number nearest to one between -2^22 and 2^22. */
INLINE float whole_of(float number) {
    const float shift = 12582912; /* 1.5 * 2^23: the sum has no room for a fraction */
    return (number + shift) - shift;
}

/* The codes of a row; the sum of squares of what they hide. */
INLINE double round_row(const float *restrict row, size_t dimension, float step,
                        int8_t *restrict code) {
    float inverse = step > 0 ? 1 / step : 0;
    double lane[LANES] = {0}, hidden = 0;
    size_t i = 0;
    for (; i + LANES <= dimension; i += LANES) {
        float whole[LANES];
        for (int j = 0; j < LANES; j++) whole[j] = whole_of(row[i + j] * inverse);
        for (int j = 0; j < LANES; j++) {
            double hides = (double)row[i + j] - (double)step * (double)whole[j];
            lane[j] += hides * hides;
        }
        for (int j = 0; j < LANES; j++) code[i + j] = (int8_t)(int)whole[j];
    }
    for (; i < dimension; i++) {
        float whole = whole_of(row[i] * inverse);
        double hides = (double)row[i] - (double)step * (double)whole;
        lane[0] += hides * hides;
        code[i] = (int8_t)(int)whole;
    }
    for (int j = 0; j < LANES; j++) hidden += lane[j];
    return hidden;
}

FOR_EACH_CPU
void encode_bytes(const float *vectors, size_t n, size_t dimension, byte_rows out) {
    for (size_t i = 0; i < n; i++) {
        const float *row = vectors + i * dimension;
        float step = largest_of(row, dimension) / STEPS;
        step = step < STEP_MIN ? 0 : step;
        double hidden = round_row(row, dimension, step, out.codes + i * dimension);
        double length;
        lengths_of(row, 1, dimension, &length);
        out.steps[i] = step;
        out.errors[i] = (float)(sqrt(hidden) * ABOVE + FLT_MIN);
        out.lengths[i] = length < LENGTH_MIN ? 0 : (float)(length * ABOVE);
    }
}

/* The largest `k` numbers offered so far, the smallest of them first. */
typedef struct {
    double *of;
    size_t n, k;
} heap;

static void sift_down(heap *h) {
    double value = h->of[0];
    size_t at = 0;
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= h->n) break;
        if (child + 1 < h->n && h->of[child + 1] < h->of[child]) child++;
        if (value <= h->of[child]) break;
        h->of[at] = h->of[child];
        at = child;
    }
    h->of[at] = value;
}

static void offer(heap *h, double value) {
    if (h->n == h->k) {
        if (value <= h->of[0]) return;
        h->of[0] = value;
        sift_down(h);
        return;
    }
    size_t at = h->n++;
    for (; at > 0 && h->of[(at - 1) / 2] > value; at = (at - 1) / 2) h->of[at] = h->of[(at - 1) / 2];
    h->of[at] = value;
}

/* A query in whole steps, so small that a sum of products with codes fits 31 bits. */
typedef struct {
    int16_t *of;
    double step, error; /* the distance to the query itself */
} whole_query;

static void round_query(const float *query, size_t dimension, whole_query *out) {
    double largest = 0, sum = 0, hidden = 0;
    for (size_t j = 0; j < dimension; j++) {
        double size = fabs((double)query[j]);
        largest = size > largest ? size : largest;
        sum += size;
    }
    double by_size = largest / INT16_MAX, by_sum = sum * STEPS / SUM_MAX;
    out->step = by_size > by_sum ? by_size : by_sum;
    for (size_t j = 0; j < dimension; j++) {
        out->of[j] = (int16_t)(out->step > 0 ? lrint(query[j] / out->step) : 0);
        double rest = query[j] - out->step * out->of[j];
        hidden += rest * rest;
    }
    out->error = sqrt(hidden);
}

/* Bounds of how close each of `n` rows is, from its product with the whole query. */
FOR_EACH_CPU
static void bound_all(enum metric metric, const whole_query *query, double length, byte_rows rows,
                      const int32_t *restrict products, size_t n, double *restrict low,
                      double *restrict high) {
    const float *restrict steps = rows.steps, *restrict errors = rows.errors;
    const float *restrict lengths = rows.lengths;
    double step = query->step, rounded = query->error;
    for (size_t i = 0; i < n; i++) {
        double size = lengths[i], hidden = errors[i];
        double closeness = (double)products[i] * (step * (double)steps[i]);
        low[i] = closeness;
        high[i] = length * hidden + rounded * (size + hidden) +
                  EXACT * (fabs(closeness) + length * size);
    }
    if (metric == COSINE)
        for (size_t i = 0; i < n; i++) {
            double size = lengths[i], scale = size > 0 ? 1 / size : 0;
            low[i] *= scale;
            double error = high[i] * scale * (1 + SLACK) + fabs(low[i]) * SLACK;
            high[i] = size > 0 ? error : 2;
        }
    if (metric == EUCLIDEAN) /* the nearest has the largest product less half its square */
        for (size_t i = 0; i < n; i++) {
            double size = lengths[i], square = size * size, apart = length + size;
            low[i] -= square / 2;
            high[i] += square * SLACK + apart * apart * EXACT + apart * SAME + SAME * SAME;
        }
    for (size_t i = 0; i < n; i++) {
        double closeness = low[i], error = high[i];
        low[i] = closeness - error;
        high[i] = closeness + error;
    }
}

/* Rows that may be among the best, with the upper bounds of their closeness. */
typedef struct {
    int64_t *rows;
    double *high;
    size_t n, room;
} shortlist;

static int add(shortlist *list, int64_t row, double high) {
    if (list->n == list->room) {
        double *longer = realloc(list->high, 2 * list->room * sizeof *longer);
        if (longer == NULL) return -1;
        list->high = longer;
        list->room *= 2;
    }
    list->rows[list->n] = row;
    list->high[list->n++] = high;
    return 0;
}

ptrdiff_t scan_bytes(enum metric metric, whole_fn products, const float *query, double length,
                     byte_rows rows, const uint8_t *live, size_t n, size_t dimension, size_t k,
                     int64_t *found) {
    heap least = {malloc(k * sizeof(double)), 0, k};
    shortlist list = {found, malloc(ROOM_FIRST * sizeof(double)), 0, ROOM_FIRST};
    whole_query whole = {malloc(dimension * sizeof(int16_t)), 0, 0};
    int32_t sums[BLOCK];
    double low[BLOCK], high[BLOCK];
    ptrdiff_t status = least.of == NULL || list.high == NULL || whole.of == NULL ? -2 : 0;
    if (status == 0) round_query(query, dimension, &whole);
    for (size_t first = 0; first < n && status == 0; first += BLOCK) {
        size_t some = n - first < BLOCK ? n - first : BLOCK;
        byte_rows block = {rows.codes + first * dimension, rows.steps + first, rows.errors + first,
                           rows.lengths + first};
        products(whole.of, block.codes, some, dimension, sums);
        bound_all(metric, &whole, length, block, sums, some, low, high);
        for (size_t i = 0; i < some && status == 0; i++) {
            if (least.n == k && high[i] < least.of[0]) continue;
            if (live != NULL && !live[first + i]) continue;
            if (!isfinite(low[i]) || !isfinite(high[i])) status = -1;
            offer(&least, low[i]);
            if (add(&list, (int64_t)(first + i), high[i]) < 0) status = -2;
        }
    }
    size_t kept = 0;
    for (size_t i = 0; i < list.n && status == 0; i++)
        if (least.n < k || list.high[i] >= least.of[0]) found[kept++] = found[i];
    free(least.of);
    free(list.high);
    free(whole.of);
    return status < 0 ? status : (ptrdiff_t)kept;
}
