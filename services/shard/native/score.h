/* The similarity that an answer tells: float64 from the raw float32 vectors.

   Owns the invariant that it depends on the query and the row alone: eight lanes, the i-th component
   in lane i mod 8, joined in one order, and no product fused with its sum. So every instruction set
   gives the same bits. */
#ifndef VECTOR_DB_SCORE_H
#define VECTOR_DB_SCORE_H

#include <stddef.h>
#include <stdint.h>

enum metric { COSINE, DOT, EUCLIDEAN };

/* sqrt of the sum of squares of each of `n` vectors float32[n, dimension]. */
void lengths_of(const float *vectors, size_t n, size_t dimension, double *lengths);

/* `vectors` over their lengths, rounded to float32; a vector of zeros stays. */
void directions_of(const float *vectors, const double *lengths, size_t n, size_t dimension,
                   float *directions);

/* Of pair i: query `asked[i]` (0 where `asked` is NULL) and row `rows[i]` of `vectors`. All numbers
   are in range. */
void similarities_of(enum metric metric, const float *queries, const double *lengths,
                     const int64_t *asked, const float *vectors, const int64_t *rows, size_t n,
                     size_t dimension, double *similarities);

#endif
