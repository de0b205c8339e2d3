/* Functions that are compiled for each generation of CPUs, of which the loader picks one. */
#ifndef VECTOR_DB_CPU_H
#define VECTOR_DB_CPU_H

#if defined(__x86_64__) && defined(__GNUC__) && defined(__linux__)
#define FOR_EACH_CPU __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_EACH_CPU
#endif

#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static inline
#endif

#endif
