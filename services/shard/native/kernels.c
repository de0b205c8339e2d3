#include "kernels.h"

#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#define WITH_X86 1
#include <immintrin.h>
#endif

/* IEEE 754 binary16 to binary32, by bits (subnormals by a subtraction that is exact). */
static inline float half_to_float(uint16_t half) {
    uint32_t bits = (uint32_t)(half & 0x7fff) << 13;
    uint32_t exponent = bits & 0x0f800000;
    float value;
    bits += 112u << 23;
    if (exponent == 0x0f800000) {
        bits += 112u << 23;
        memcpy(&value, &bits, 4);
    } else if (exponent == 0) {
        const float smallest = 6.103515625e-05f;
        bits += 1u << 23;
        memcpy(&value, &bits, 4);
        value -= smallest;
    } else {
        memcpy(&value, &bits, 4);
    }
    return half & 0x8000 ? -value : value;
}

#define WHOLE_PRODUCTS(name, target, one)                                                          \
    target static void name(const int16_t *a, const int8_t *rows, size_t n, size_t d,              \
                            int32_t *sums) {                                                       \
        for (size_t i = 0; i < n; i++) sums[i] = one(a, rows + i * d, d);                          \
    }

/* --- any CPU: eight floats side by side, as far as its compiler finds instructions for them ---- */

typedef struct {
    float of[8];
} eight;

static inline eight eight_zero(void) {
    eight v = {{0}};
    return v;
}

static inline eight eight_f32(const float *from) {
    eight v;
    memcpy(v.of, from, sizeof v.of);
    return v;
}

static inline eight eight_f16(const uint16_t *from) {
    eight v;
    for (int i = 0; i < 8; i++) v.of[i] = half_to_float(from[i]);
    return v;
}

static inline eight eight_u8(const uint8_t *from) {
    eight v;
    for (int i = 0; i < 8; i++) v.of[i] = from[i];
    return v;
}

static inline eight eight_sub(eight x, eight y) {
    for (int i = 0; i < 8; i++) x.of[i] -= y.of[i];
    return x;
}

static inline eight eight_mul(eight x, eight y) {
    for (int i = 0; i < 8; i++) x.of[i] *= y.of[i];
    return x;
}

static inline eight eight_fma(eight x, eight y, eight z) {
    for (int i = 0; i < 8; i++) z.of[i] += x.of[i] * y.of[i];
    return z;
}

static inline float eight_sum(eight x) {
    return ((x.of[0] + x.of[4]) + (x.of[1] + x.of[5])) + ((x.of[2] + x.of[6]) + (x.of[3] + x.of[7]));
}

static inline int32_t whole_product(const int16_t *a, const int8_t *row, size_t d) {
    int32_t sum = 0;
    for (size_t i = 0; i < d; i++) sum += (int32_t)a[i] * row[i];
    return sum;
}

WHOLE_PRODUCTS(generic_whole_products, , whole_product)

#define NAME(x) generic_##x
#define LEVEL "generic"
#define TARGET
#define WIDTH 8
#define VEC eight
#define LOAD_F32 eight_f32
#define LOAD_F16 eight_f16
#define LOAD_U8 eight_u8
#define ZERO eight_zero
#define SUB eight_sub
#define MUL eight_mul
#define FMA eight_fma
#define SUM eight_sum
#define HALF half_to_float
#include "kernels.inc"

#ifdef WITH_X86

/* --- AVX2 with FMA and F16C (every CPU with AVX2 has both) ------------------------------------- */

#define AVX2 __attribute__((target("avx2,fma,f16c")))

AVX2 static inline float avx2_sum(__m256 x) {
    __m128 sum = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}

AVX2 static inline int32_t avx2_whole_product(const int16_t *a, const int8_t *row, size_t d) {
    __m256i sum = _mm256_setzero_si256();
    size_t i = 0;
    for (; i + 16 <= d; i += 16) {
        __m256i wide = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(row + i)));
        __m256i query = _mm256_loadu_si256((const __m256i *)(a + i));
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(query, wide));
    }
    int32_t lanes[8], total = 0;
    _mm256_storeu_si256((__m256i *)lanes, sum);
    for (int lane = 0; lane < 8; lane++) total += lanes[lane];
    return total + whole_product(a + i, row + i, d - i);
}

WHOLE_PRODUCTS(avx2_whole_products, AVX2, avx2_whole_product)

#define NAME(x) avx2_##x
#define LEVEL "avx2"
#define TARGET AVX2
#define WIDTH 8
#define VEC __m256
#define LOAD_F32 _mm256_loadu_ps
#define LOAD_F16(p) _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p)))
#define LOAD_U8(p) _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(p))))
#define ZERO _mm256_setzero_ps
#define SUB _mm256_sub_ps
#define MUL _mm256_mul_ps
#define FMA _mm256_fmadd_ps
#define SUM avx2_sum
#define HALF half_to_float
#include "kernels.inc"

/* --- AVX-512 ----------------------------------------------------------------------------------- */

#define AVX512 __attribute__((target("avx512f,avx512bw")))

AVX512 static inline int32_t avx512_whole_product(const int16_t *a, const int8_t *row, size_t d) {
    __m512i sum = _mm512_setzero_si512();
    size_t i = 0;
    for (; i + 32 <= d; i += 32) {
        __m512i wide = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)(row + i)));
        sum = _mm512_add_epi32(sum, _mm512_madd_epi16(_mm512_loadu_si512(a + i), wide));
    }
    return _mm512_reduce_add_epi32(sum) + whole_product(a + i, row + i, d - i);
}

WHOLE_PRODUCTS(avx512_whole_products, AVX512, avx512_whole_product)

#define NAME(x) avx512_##x
#define LEVEL "avx512"
#define TARGET AVX512
#define WIDTH 16
#define VEC __m512
#define LOAD_F32 _mm512_loadu_ps
#define LOAD_F16(p) _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(p)))
#define LOAD_U8(p) _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(p))))
#define ZERO _mm512_setzero_ps
#define SUB _mm512_sub_ps
#define MUL _mm512_mul_ps
#define FMA _mm512_fmadd_ps
#define SUM _mm512_reduce_add_ps
#define HALF half_to_float
#include "kernels.inc"

#endif

const kernel_set *choose_kernels(const char *limit) {
    int wide = limit == NULL || *limit == '\0' || strncmp(limit, "AVX512", 6) == 0;
    int narrow = wide || strcmp(limit, "AVX2") == 0;
    (void)narrow;
#ifdef WITH_X86
    __builtin_cpu_init();
    int has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (wide && has_avx2 && __builtin_cpu_supports("avx512f") &&
        __builtin_cpu_supports("avx512bw"))
        return &avx512_kernels;
    if (narrow && has_avx2) return &avx2_kernels;
#endif
    return &generic_kernels;
}
