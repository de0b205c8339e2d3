/* Memory that will be read soon, asked for now: what lies far apart then comes at once. */
#ifndef VECTOR_DB_PREFETCH_H
#define VECTOR_DB_PREFETCH_H

#include <stddef.h>

#if defined(__GNUC__)
#define PREFETCH(address) __builtin_prefetch(address)
#else
#define PREFETCH(address) (void)(address)
#endif

enum { LINE_BYTES = 64, AHEAD_BYTES_MAX = 256 };

/* The first lines of `bytes` > 0: the CPU goes on by itself. They need not begin where a line does. */
static inline void prefetch(const void *from, size_t bytes) {
    const char *at = from, *last = at + (bytes < AHEAD_BYTES_MAX ? bytes : AHEAD_BYTES_MAX) - 1;
    for (; at < last; at += LINE_BYTES) PREFETCH(at);
    PREFETCH(last);
}

#endif
