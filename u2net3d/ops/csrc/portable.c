/* The kernels for any processor, and the question which of them this one runs. */
#define LANES 4
#define BLOCK 2
#define NAME(x) x##_portable
#include "all.inc.c"

/* The best set of this processor: 2 AVX-512, 1 AVX2, 0 portable. */
int64_t u2_processor(void)
{
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq")
        && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        return 2;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;
#endif
    return 0;
}
