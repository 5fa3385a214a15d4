/* The kernels for processors with AVX2 and FMA. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("avx2,fma")
#include <immintrin.h>
#define LANES 8
#define BLOCK 4
#define MAX(a, b) ((vec)_mm256_max_ps((__m256)(a), (__m256)(b)))
#define PERMUTE(v, i) ((vec)_mm256_permutevar8x32_ps((__m256)(v), (__m256i)(i)))
#define NAME(x) x##_avx2
#include "all.inc.c"
#endif
