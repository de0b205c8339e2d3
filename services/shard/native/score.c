#include "score.h"

#include <float.h>
#include <math.h>

#include "cpu.h"
#include "prefetch.h"

enum { LANES = 8, AHEAD = 4 };

INLINE double joined(const double *lane) {
    return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

INLINE double squares(const float *x, size_t dimension) {
    double lane[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= dimension; i += LANES)
        for (int j = 0; j < LANES; j++) lane[j] += (double)x[i + j] * (double)x[i + j];
    for (; i < dimension; i++) lane[i % LANES] += (double)x[i] * (double)x[i];
    return joined(lane);
}

/* Inner product, and the row's own squares beside it. */
INLINE double products(const float *x, const float *row, size_t dimension, double *own) {
    double lane[LANES] = {0}, squared[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= dimension; i += LANES)
        for (int j = 0; j < LANES; j++) {
            double r = row[i + j];
            lane[j] += (double)x[i + j] * r;
            squared[j] += r * r;
        }
    for (; i < dimension; i++) {
        double r = row[i];
        lane[i % LANES] += (double)x[i] * r;
        squared[i % LANES] += r * r;
    }
    *own = joined(squared);
    return joined(lane);
}

INLINE double differences(const float *x, const float *row, size_t dimension) {
    double lane[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= dimension; i += LANES)
        for (int j = 0; j < LANES; j++) {
            double apart = (double)row[i + j] - (double)x[i + j];
            lane[j] += apart * apart;
        }
    for (; i < dimension; i++) {
        double apart = (double)row[i] - (double)x[i];
        lane[i % LANES] += apart * apart;
    }
    return joined(lane);
}

FOR_EACH_CPU
void lengths_of(const float *vectors, size_t n, size_t dimension, double *lengths) {
    for (size_t i = 0; i < n; i++) lengths[i] = sqrt(squares(vectors + i * dimension, dimension));
}

FOR_EACH_CPU
void directions_of(const float *vectors, const double *lengths, size_t n, size_t dimension,
                   float *directions) {
    for (size_t i = 0; i < n; i++) {
        double length = lengths[i] > DBL_MIN ? lengths[i] : DBL_MIN;
        for (size_t j = 0; j < dimension; j++)
            directions[i * dimension + j] = (float)((double)vectors[i * dimension + j] / length);
    }
}

FOR_EACH_CPU
void similarities_of(enum metric metric, const float *queries, const double *lengths,
                     const int64_t *asked, const float *vectors, const int64_t *rows, size_t n,
                     size_t dimension, double *similarities) {
    for (size_t i = 0; i < n; i++) {
        size_t query = asked == NULL ? 0 : (size_t)asked[i];
        const float *x = queries + query * dimension;
        const float *row = vectors + (size_t)rows[i] * dimension;
        if (i + AHEAD < n) /* rows lie far apart */
            prefetch(vectors + (size_t)rows[i + AHEAD] * dimension, dimension * sizeof *vectors);
        if (metric == EUCLIDEAN) {
            similarities[i] = 1.0 / (1.0 + sqrt(differences(x, row, dimension)));
            continue;
        }
        double own, product = products(x, row, dimension, &own);
        if (metric == COSINE) {
            double scale = sqrt(own) * lengths[query];
            product /= scale > DBL_MIN ? scale : DBL_MIN;
            product = product < -1.0 ? -1.0 : product > 1.0 ? 1.0 : product;
        }
        similarities[i] = product;
    }
}
