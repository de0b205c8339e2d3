/* How near a stored row is to a query: the innermost loops, one set for each instruction set.

   A closeness is higher for nearer rows: an inner product, or minus a squared distance. It orders
   candidates only, so lanes may sum in any order. */
#ifndef VECTOR_DB_KERNELS_H
#define VECTOR_DB_KERNELS_H

#include <stddef.h>
#include <stdint.h>

/* The query as a kernel wants it, float[dimension] each; `b` is for bytes under a distance alone:
   product:   sum of a[i] * row[i]
   distance: -sum of (a[i] - row[i])^2, or of (a[i] - b[i] * row[i])^2 where the row is bytes */
typedef float (*closeness_fn)(const float *a, const float *b, const void *row, size_t dimension);

/* The sums of a[i] * row[i] for `n` rows one after another; the caller sees to it that they fit. */
typedef void (*whole_fn)(const int16_t *a, const int8_t *rows, size_t n, size_t dimension,
                         int32_t *sums);

enum encoding { FLOAT32, FLOAT16, BYTES, ENCODINGS };

typedef struct {
    const char *name;
    closeness_fn product[ENCODINGS];
    closeness_fn distance[ENCODINGS];
    whole_fn whole_products;
} kernel_set;

/* The widest set that this CPU has and `limit` allows: NULL or empty: any; the names are those of
   FAISS_SIMD_LEVEL, so that one variable rules both ("NONE": no vector instructions of choice). */
const kernel_set *choose_kernels(const char *limit);

#endif
