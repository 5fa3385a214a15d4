/* InstanceNorm followed by LeakyReLU over channels-last rows (N, V, C), float32; V = D * H * W.
 *
 * The volume is cut into blocks of fixed size whose sums are added in order, so the bits do not
 * depend on the number of threads. Sums are taken of x - x[first voxel]: a large common offset
 * costs no precision.
 */

#define sizes_t NAME(norm_sizes)
#define blocks_of NAME(blocks_of)
#define block_sums NAME(block_sums)
#define block_apply NAME(block_apply)
#define block_gradient_sums NAME(block_gradient_sums)
#define block_gradient NAME(block_gradient)
#define block_voxels NAME(block_voxels)
#define affine_of NAME(affine_of)

typedef struct {
    int64_t batch, voxels, channels, threads;
} sizes_t;

static int64_t blocks_of(const sizes_t *s) { return (s->voxels + BLOCK - 1) / BLOCK; }

/* Every block is walked once per group of LANES channels, sums held in a register; what is left of
 * the channels goes one by one through the same code with a vector of one. */

#define FOR_EVERY_GROUP(kernel, ...)                                                               \
    do {                                                                                           \
        int64_t i = 0;                                                                             \
        for (; i + LANES <= c; i += LANES) JOIN(kernel##_, NAME(lanes16))(__VA_ARGS__);                          \
        for (; i < c; i++) JOIN(kernel##_, NAME(lanes1))(__VA_ARGS__);                                           \
    } while (0)

#define GROUP_KERNELS(T, M) GROUP_KERNELS_OF(T, M)
#define GROUP_KERNELS_OF(T, M)                                                                          \
    INLINE T behind_##T(T value, T g, float slope)                                                 \
    {                                                                                              \
        const M positive = value > 0;                                                              \
        return (T)((positive & (M)g) | (~positive & (M)(g * slope)));                              \
    }                                                                                              \
    INLINE void sums_##T(const float *x, const float *shift, float *sum, int64_t voxels,           \
                         int64_t c, int64_t i)                                                     \
    {                                                                                              \
        const T first = AT(const T, shift, i);                                                     \
        T total = {0}, square = {0};                                                               \
        for (int64_t v = 0; v < voxels; v++) {                                                     \
            const T value = AT(const T, x, v * c + i) - first;                                     \
            total += value;                                                                        \
            square += value * value;                                                               \
        }                                                                                          \
        AT(T, sum, i) = total;                                                                     \
        AT(T, sum, c + i) = square;                                                                \
    }                                                                                              \
    INLINE void apply_##T(const float *x, float *y, const float *scale, const float *offset,       \
                          float slope, int64_t voxels, int64_t c, int64_t i)                       \
    {                                                                                              \
        const T a = AT(const T, scale, i), b = AT(const T, offset, i);                             \
        for (int64_t v = 0; v < voxels; v++) {                                                     \
            const T value = AT(const T, x, v * c + i) * a + b;                                     \
            AT(T, y, v * c + i) = behind_##T(value, value, slope);                                     \
        }                                                                                          \
    }                                                                                              \
    INLINE void gradient_sums_##T(const float *x, const float *g, const float *scale,              \
                                  const float *offset, const float *mean, const float *rstd,       \
                                  float slope, float *sum, int64_t voxels, int64_t c, int64_t i)   \
    {                                                                                              \
        const T a = AT(const T, scale, i), b = AT(const T, offset, i);                             \
        const T m = AT(const T, mean, i);                                                          \
        T total = {0}, product = {0};                                                              \
        for (int64_t v = 0; v < voxels; v++) {                                                     \
            const T value = AT(const T, x, v * c + i), in = AT(const T, g, v * c + i);             \
            const T behind = behind_##T(value * a + b, in, slope);                                     \
            total += behind;                                                                       \
            product += behind * (value - m);                                                       \
        }                                                                                          \
        AT(T, sum, i) = total;                                                                     \
        AT(T, sum, c + i) = product * AT(const T, rstd, i);                                        \
    }                                                                                              \
    INLINE void gradient_##T(const float *x, const float *g, float *gx, const float *scale,        \
                             const float *offset, const float *mean, const float *factor,          \
                             const float *constant, float slope, int64_t voxels, int64_t c,        \
                             int64_t i)                                                            \
    {                                                                                              \
        const T a = AT(const T, scale, i), b = AT(const T, offset, i);                             \
        const T m = AT(const T, mean, i), f = AT(const T, factor, i);                              \
        const T k = AT(const T, constant, i);                                                      \
        for (int64_t v = 0; v < voxels; v++) {                                                     \
            const T value = AT(const T, x, v * c + i), in = AT(const T, g, v * c + i);             \
            const T behind = behind_##T(value * a + b, in, slope);                                     \
            AT(T, gx, v * c + i) = behind * a - k - (value - m) * f;                               \
        }                                                                                          \
    }

GROUP_KERNELS(NAME(lanes16), NAME(mask16))
GROUP_KERNELS(NAME(lanes1), NAME(mask1))

static void block_sums(
    const float *x, const float *shift, float *sum, int64_t voxels, int64_t c)
{
    FOR_EVERY_GROUP(sums, x, shift, sum, voxels, c, i);
}

static void block_apply(
    const float *x, float *y, const float *scale, const float *offset, float slope,
    int64_t voxels, int64_t c)
{
    FOR_EVERY_GROUP(apply, x, y, scale, offset, slope, voxels, c, i);
}

/* sum: (2, C): of the gradient behind the activation, and of it times the normalised value. */
static void block_gradient_sums(
    const float *x, const float *g, const float *scale, const float *offset, const float *mean,
    const float *rstd, float slope, float *sum, int64_t voxels, int64_t c)
{
    FOR_EVERY_GROUP(gradient_sums, x, g, scale, offset, mean, rstd, slope, sum, voxels, c, i);
}

static void block_gradient(
    const float *x, const float *g, float *gx, const float *scale, const float *offset,
    const float *mean, const float *factor, const float *constant, float slope, int64_t voxels,
    int64_t c)
{
    FOR_EVERY_GROUP(gradient, x, g, gx, scale, offset, mean, factor, constant, slope, voxels, c, i);
}

static int64_t block_voxels(const sizes_t *s, int64_t block)
{
    const int64_t left = s->voxels - block * BLOCK;
    return left < BLOCK ? left : BLOCK;
}

static void affine_of(
    const float *weight, const float *bias, const float *mean, const float *rstd, float *scale,
    float *offset, int64_t c)
{
    for (int64_t i = 0; i < c; i++) {
        scale[i] = weight[i] * rstd[i];
        offset[i] = bias[i] - mean[i] * scale[i];
    }
}

/* mean, rstd: (N, C), written; scratch: (N, blocks, 2, C) floats. */
void NAME(u2_norm_forward)(
    const float *x, float *y, const float *weight, const float *bias, float *mean, float *rstd,
    float *scratch, const int64_t *sizes, float eps, float slope)
{
    sizes_t s;
    memcpy(&s, sizes, sizeof s);
    const int64_t c = s.channels, blocks = blocks_of(&s), total = s.batch * blocks;
#pragma omp parallel for num_threads(s.threads) schedule(static)
    for (int64_t job = 0; job < total; job++) {
        const int64_t n = job / blocks, block = job % blocks;
        const float *sample = x + n * s.voxels * c;
        block_sums(sample + block * BLOCK * c, sample, scratch + job * 2 * c,
                   block_voxels(&s, block), c);
    }
    for (int64_t n = 0; n < s.batch; n++)
        for (int64_t i = 0; i < c; i++) {
            double sum = 0, square = 0;
            for (int64_t block = 0; block < blocks; block++) {
                sum += scratch[((n * blocks + block) * 2) * c + i];
                square += scratch[((n * blocks + block) * 2 + 1) * c + i];
            }
            const double average = sum / s.voxels;
            double variance = square / s.voxels - average * average;
            if (variance < 0) variance = 0;
            mean[n * c + i] = (float)(average + x[n * s.voxels * c + i]);
            rstd[n * c + i] = (float)(1 / sqrt(variance + eps));
        }
#pragma omp parallel for num_threads(s.threads) schedule(static)
    for (int64_t job = 0; job < total; job++) {
        const int64_t n = job / blocks, at = (n * s.voxels + job % blocks * BLOCK) * c;
        float scale[MAX_CHANNELS], offset[MAX_CHANNELS];
        affine_of(weight, bias, mean + n * c, rstd + n * c, scale, offset, c);
        block_apply(x + at, y + at, scale, offset, slope, block_voxels(&s, job % blocks), c);
    }
}

/* gweight, gbias: (N, C), written; scratch as in the forward pass. */
void NAME(u2_norm_backward)(
    const float *x, const float *g, float *gx, const float *weight, const float *bias,
    const float *mean, const float *rstd, float *gweight, float *gbias, float *scratch,
    const int64_t *sizes, float slope)
{
    sizes_t s;
    memcpy(&s, sizes, sizeof s);
    const int64_t c = s.channels, blocks = blocks_of(&s), total = s.batch * blocks;
#pragma omp parallel for num_threads(s.threads) schedule(static)
    for (int64_t job = 0; job < total; job++) {
        const int64_t n = job / blocks, at = (n * s.voxels + job % blocks * BLOCK) * c;
        float scale[MAX_CHANNELS], offset[MAX_CHANNELS];
        affine_of(weight, bias, mean + n * c, rstd + n * c, scale, offset, c);
        block_gradient_sums(x + at, g + at, scale, offset, mean + n * c, rstd + n * c, slope,
                            scratch + job * 2 * c, block_voxels(&s, job % blocks), c);
    }
    for (int64_t n = 0; n < s.batch; n++)
        for (int64_t i = 0; i < c; i++) {
            double sum = 0, product = 0;
            for (int64_t block = 0; block < blocks; block++) {
                sum += scratch[((n * blocks + block) * 2) * c + i];
                product += scratch[((n * blocks + block) * 2 + 1) * c + i];
            }
            gbias[n * c + i] = (float)sum;
            gweight[n * c + i] = (float)product;
        }
#pragma omp parallel for num_threads(s.threads) schedule(static)
    for (int64_t job = 0; job < total; job++) {
        const int64_t n = job / blocks, at = (n * s.voxels + job % blocks * BLOCK) * c;
        const float *r = rstd + n * c;
        float scale[MAX_CHANNELS], offset[MAX_CHANNELS], factor[MAX_CHANNELS];
        float constant[MAX_CHANNELS];
        affine_of(weight, bias, mean + n * c, r, scale, offset, c);
        for (int64_t i = 0; i < c; i++) {
            constant[i] = scale[i] * gbias[n * c + i] / s.voxels;
            factor[i] = scale[i] * gweight[n * c + i] / s.voxels * r[i];
        }
        block_gradient(x + at, g + at, gx + at, scale, offset, mean + n * c, factor, constant,
                       slope, block_voxels(&s, job % blocks), c);
    }
}

#undef sizes_t
#undef blocks_of
#undef block_sums
#undef block_apply
#undef block_gradient_sums
#undef block_gradient
#undef block_voxels
#undef affine_of
#undef FOR_EVERY_GROUP
#undef GROUP_KERNELS
#undef GROUP_KERNELS_OF
