/* The kernels for processors with AVX-512. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,prefer-vector-width=512")
#include <immintrin.h>
#define LANES 16
#define BLOCK 8
#define MAX(a, b) ((vec)_mm512_max_ps((__m512)(a), (__m512)(b)))
#define PERMUTE(v, i) ((vec)_mm512_permutexvar_ps((__m512i)(i), (__m512)(v)))
#define NAME(x) x##_avx512
#include "all.inc.c"
#endif
