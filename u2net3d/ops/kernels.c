/* Native CPU kernels of u2net3d: the same code compiled for three kinds of processor.
 *
 * A plain C interface; `u2_processor` says which set to call (native.py). GCC lowers vector types
 * before it clones functions (target_clones), hence one inclusion per target instead.
 *
 * Nothing is checked here: native.py hands over only dense float32 tensors of matching shapes, with
 * at least one voxel and at most MAX_CHANNELS channels.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#define LANES 16
#define BLOCK 1024 /* voxels that one worker takes at a time in norm.inc.c */
#define MAX_CHANNELS 2048
#define INLINE static inline __attribute__((always_inline))
#define AT(T, p, i) (*(T *)((p) + (i)))
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define NAME(x) JOIN(x, SUFFIX)
#define LANE_TYPES                                                                                 \
    typedef float NAME(lanes16) __attribute__((vector_size(64), aligned(4), may_alias));           \
    typedef float NAME(lanes1) __attribute__((vector_size(4), aligned(4), may_alias));             \
    typedef int32_t NAME(mask16) __attribute__((vector_size(64), aligned(4), may_alias));          \
    typedef int32_t NAME(mask1) __attribute__((vector_size(4), aligned(4), may_alias));

#define SUFFIX _portable
LANE_TYPES
#include "depthwise.inc.c"
#include "norm.inc.c"
#undef SUFFIX

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)

#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define SUFFIX _avx2
LANE_TYPES
#include "depthwise.inc.c"
#include "norm.inc.c"
#undef SUFFIX
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,fma,prefer-vector-width=512")
#define SUFFIX _avx512
LANE_TYPES
#include "depthwise.inc.c"
#include "norm.inc.c"
#undef SUFFIX
#pragma GCC pop_options

/* The best set of this processor: 2 AVX-512, 1 AVX2, 0 portable. */
int64_t u2_processor(void)
{
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq")
        && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        return 2;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? 1 : 0;
}

#else

int64_t u2_processor(void) { return 0; }

#endif
