/* Rows at one byte a component, with what that may hide: enough to leave most rows out of an exact
   search without reading them whole. */
#ifndef VECTOR_DB_BYTES_H
#define VECTOR_DB_BYTES_H

#include <stddef.h>
#include <stdint.h>

#include "kernels.h"
#include "score.h"

/* Row i is about steps[i] * codes[i], no further from it than errors[i], and about lengths[i] long. */
typedef struct {
    int8_t *codes; /* [n, dimension] */
    float *steps, *errors, *lengths;
} byte_rows;

void encode_bytes(const float *vectors, size_t n, size_t dimension, byte_rows out);

/* Of `n` rows those that may be among the best `k` for `query`, ascending, into `found`; `length` is
   the query's or more, `live` NULL or a byte for each row.
   How many; -1: numbers that float32 does not hold; -2: no memory. */
ptrdiff_t scan_bytes(enum metric metric, whole_fn products, const float *query, double length,
                     byte_rows rows, const uint8_t *live, size_t n,
                     size_t dimension, size_t k, int64_t *found);

#endif
