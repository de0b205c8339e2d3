#include "walk.h"

#include <float.h>
#include <stdlib.h>
#include <string.h>

#include "prefetch.h"

enum { TRAIL_FIRST = 4096 };

scratch *scratch_for(scratch *old, size_t rows) {
    size_t words = rows / 64 + 1;
    if (old == NULL && (old = calloc(1, sizeof *old)) == NULL) return NULL;
    if (old->words < words) {
        free(old->seen);
        old->seen = calloc(words, sizeof *old->seen);
        old->words = old->seen == NULL ? 0 : words;
    }
    if (old->trail == NULL) {
        old->trail = malloc(TRAIL_FIRST * sizeof *old->trail);
        old->trail_rows = TRAIL_FIRST;
    }
    if (old->seen != NULL && old->trail != NULL) return old;
    scratch_free(old);
    return NULL;
}

void scratch_free(scratch *room) {
    free(room->seen);
    free(room->trail);
    free(room);
}

static const uint8_t *code_of(const graph *g, int32_t row) {
    return g->codes + (size_t)row * g->code_bytes;
}

static void fetch(const graph *g, int32_t row) { prefetch(code_of(g, row), g->code_bytes); }

static int usable(const graph *g, int32_t row) { return row >= 0 && (size_t)row < g->rows; }

/* To the nearest row of the levels above the bottom, one neighbour after another. */
static int32_t descend(const graph *g, const float *a, const float *b, float *closeness) {
    int32_t at = g->entry;
    float best = g->closeness(a, b, code_of(g, at), g->dimension);
    for (int level = g->levels - 1; level > 0; level--) {
        for (;;) {
            const int32_t *links = g->links + g->offsets[at];
            const int32_t *first = links + g->starts[level], *last = links + g->starts[level + 1];
            int32_t next = at;
            for (const int32_t *link = first; link < last && usable(g, *link); link++)
                fetch(g, *link);
            for (const int32_t *link = first; link < last && usable(g, *link); link++) {
                float other = g->closeness(a, b, code_of(g, *link), g->dimension);
                if (other > best) {
                    best = other;
                    next = *link;
                }
            }
            if (next == at) break;
            at = next;
        }
    }
    *closeness = best;
    return at;
}

/* Puts a hit at its place among `n` that are in order, of at most `most`; where it stands, or `most`
   when it is none of them. */
static size_t place(hit *hits, size_t *n, size_t most, float closeness, int32_t row) {
    if (*n >= most && !(closeness > hits[most - 1].closeness)) return most;
    size_t low = 0, high = *n;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (hits[middle].closeness >= closeness)
            low = middle + 1;
        else
            high = middle;
    }
    if (*n < most) ++*n;
    if (low + 1 < *n) memmove(hits + low + 1, hits + low, (*n - 1 - low) * sizeof *hits);
    hits[low].closeness = closeness;
    hits[low].row = row;
    return low;
}

static int is_live(const uint8_t *live, size_t live_bytes, int32_t row) {
    size_t byte = (size_t)row >> 3;
    return byte < live_bytes && live[byte] >> (row & 7) & 1;
}

int walk(const graph *g, scratch *room, const float *a, const float *b, size_t k, size_t beam,
         const uint8_t *live, size_t live_bytes, float *closeness, int64_t *rows) {
    hit *near = room->beam, *found = live == NULL ? near : room->found;
    size_t kept = 0, hits = 0, at = 0, seen = 0;
    int failed = 0;
    if (g->entry >= 0) {
        float best;
        int32_t start = descend(g, a, b, &best);
        room->seen[start >> 6] |= 1ull << (start & 63);
        room->trail[seen++] = start;
        place(near, &kept, beam, best, start);
        if (live != NULL && is_live(live, live_bytes, start)) place(found, &hits, k, best, start);
    }
    while (at < kept) {
        if (near[at].row < 0) { /* its links were followed */
            at++;
            continue;
        }
        int32_t from = near[at].row;
        near[at].row = ~from;
        const int32_t *link = g->links + g->offsets[from];
        const int32_t *last = link + g->starts[1];
        if (seen + g->starts[1] > room->trail_rows) {
            size_t more = 2 * room->trail_rows + g->starts[1];
            int32_t *longer = realloc(room->trail, more * sizeof *longer);
            if (longer == NULL) {
                failed = 1;
                break;
            }
            room->trail = longer;
            room->trail_rows = more;
        }
        /* All that will be compared are on their way before the first is. */
        size_t first = seen, nearest = kept;
        for (; link < last && usable(g, *link); link++) {
            uint64_t bit = 1ull << (*link & 63), *word = room->seen + (*link >> 6);
            if (*word & bit) continue;
            *word |= bit;
            room->trail[seen++] = *link;
            fetch(g, *link);
        }
        for (size_t i = first; i < seen; i++) {
            int32_t row = room->trail[i];
            float one = g->closeness(a, b, code_of(g, row), g->dimension);
            size_t stands = place(near, &kept, beam, one, row);
            if (stands < beam) {
                prefetch(g->links + g->offsets[row], g->starts[1] * sizeof *g->links);
                if (stands < nearest) nearest = stands;
            }
            if (live != NULL && (hits < k || one > found[k - 1].closeness) &&
                is_live(live, live_bytes, row))
                place(found, &hits, k, one, row);
        }
        if (nearest < at) at = nearest;
    }
    for (size_t i = 0; i < seen; i++) room->seen[room->trail[i] >> 6] = 0;
    if (failed) return -1;
    if (live == NULL) hits = kept < k ? kept : k;
    for (size_t i = 0; i < k; i++) {
        int32_t row = i < hits ? found[i].row : -1;
        rows[i] = i < hits && row < 0 ? ~row : row;
        closeness[i] = i < hits ? found[i].closeness : -FLT_MAX;
    }
    return 0;
}
