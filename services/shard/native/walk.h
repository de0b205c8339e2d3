/* The search of a hierarchical graph of neighbours (Malkov and Yashunin, "Efficient and robust
   approximate nearest neighbor search using Hierarchical Navigable Small World graphs", algorithm 5),
   over the arrays of a FAISS index, which stay where they are. */
#ifndef VECTOR_DB_WALK_H
#define VECTOR_DB_WALK_H

#include <stddef.h>
#include <stdint.h>

#include "kernels.h"

enum { LEVELS_MAX = 64, BEAM_MAX = 512 };

typedef struct {
    const uint8_t *codes; /* row after row */
    size_t code_bytes;
    const int32_t *links;    /* of each row: its links at level 0, then at each level above */
    const uint64_t *offsets; /* [rows + 1] into `links` */
    size_t rows, dimension;
    size_t starts[LEVELS_MAX + 1]; /* of each level among a row's links */
    int levels;                    /* of the entry, at least 1 */
    int32_t entry;                 /* -1: no rows */
    closeness_fn closeness;
} graph;

typedef struct {
    float closeness;
    int32_t row; /* of the beam: its complement once its links were followed */
} hit;

/* What a search needs beside the graph: which rows it saw, and its beams. */
typedef struct scratch {
    uint64_t *seen; /* a bit for each row, all clear between searches */
    size_t words;
    int32_t *trail; /* whose bits are set */
    size_t trail_rows;
    hit beam[BEAM_MAX + 1], found[BEAM_MAX + 1];
    struct scratch *next;
} scratch;

/* Room for searches of `rows` rows: NULL without memory. `old` may be NULL, and is freed on failure. */
scratch *scratch_for(scratch *old, size_t rows);
void scratch_free(scratch *room);

/* The best `k` rows for one query, best first; fewer leave -1. `a`, `b`: see kernels.h; `beam`: how
   many rows are kept while walking, k <= beam <= BEAM_MAX; `live`: bits of the rows that may be
   found, NULL: all; rows beyond `live_bytes` may not. -1 without memory. */
int walk(const graph *g, scratch *room, const float *a, const float *b, size_t k, size_t beam,
         const uint8_t *live, size_t live_bytes, float *closeness, int64_t *rows);

#endif
