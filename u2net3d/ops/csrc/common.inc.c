/* What the kernels share: vectors, features with a pending norm, and rows that are written.
 *
 * Tensors are dense float32 in channels-last order (N, D, H, W, C). Channels are handled in chunks
 * of 16 (one cache line), packed into buffers of 16 lanes a voxel, zeros where there are fewer. Work
 * is cut into tasks by the shapes alone and every sum is gathered per task, then added in order: the
 * bits do not depend on the number of threads.
 *
 * The target file defines LANES (floats in a register), BLOCK (voxels whose sums fit in registers
 * beside their operands), NAME(x) and, where there is an instruction, MAX(a, b). Nothing is checked
 * here: native.py hands over only what fits.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK 16
#define VECTORS (CHUNK / LANES)
#define MIN_TASKS 16
#define MAX_TAPS 27
#define TILE_BYTES (192 * 1024) /* of a task's neighbourhood: it is to stay in the second cache */
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t mask __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

INLINE vec load(const float *p) { return *(const vec *)p; }
INLINE void store(float *p, vec v) { *(vec *)p = v; }
INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
INLINE int64_t parts_of(int64_t n, int64_t size) { return (n + size - 1) / size; }

/* Floor of n / 2^k as a stride of 1 or 2 needs it, for n >= -1 too. */
INLINE int64_t down(int64_t n, int64_t stride) { return stride == 1 ? n : n >> 1; }

/* g where y > 0, else g * slope. */
INLINE vec leaky_gradient(vec y, vec g, float slope)
{
    const mask positive = y > 0;
    return (vec)((positive & (mask)g) | (~positive & (mask)(g * slope)));
}

/* LeakyReLU; slope <= 1. */
INLINE vec leaky(vec y, float slope)
{
#ifdef MAX
    return MAX(y, y * slope);
#else
    return leaky_gradient(y, y, slope);
#endif
}

static float *floats(int64_t n) { return aligned_alloc(64, (size_t)(parts_of(n, 16) * 64)); }

/* A raw tensor whose norm and activation are pending: LeakyReLU((x - mean) * rstd * weight + bias),
 * read on a grid that is `up` times as fine. mean NULL: x as it is. */
typedef struct {
    const float *x;            /* (N, D, H, W, C) */
    const float *mean, *rstd;  /* (N, C) */
    const float *weight, *bias; /* (C) */
    float slope;
    int64_t channels, size[3], up[3];
} features;

INLINE const float *voxel_row(const features *f, int64_t n, int64_t d, int64_t h)
{
    const int64_t at = (n * f->size[0] + d / f->up[0]) * f->size[1] + h / f->up[1];
    return f->x + at * f->size[2] * f->channels;
}

/* What is to be done to 16 channels when they are read: LeakyReLU(x * a + b), slope below 0. */
typedef struct {
    float a[CHUNK], b[CHUNK], slope;
} affine;

static affine pending(const features *f, int64_t n, int64_t first)
{
    affine p = {.slope = f->mean ? f->slope : 1};
    for (int64_t i = 0; i < least(CHUNK, f->channels - first); i++) {
        const int64_t at = n * f->channels + first + i;
        p.a[i] = f->mean ? f->rstd[at] * f->weight[first + i] : 1;
        p.b[i] = f->mean ? f->bias[first + i] - f->mean[at] * p.a[i] : 0;
    }
    return p;
}

/* `width` voxels of `many` channels, `stride` floats apart (each read twice at up 2), into lanes of
 * 16 that are `step` floats apart. */
INLINE void read_voxels(
    const affine *p, const float *x, int64_t many, int64_t stride, int64_t up, int64_t width, float *to,
    int64_t step)
{
    const int64_t shift = up - 1;
    if (many < CHUNK) {
        for (int64_t w = 0; w < width; w++)
            for (int64_t i = 0; i < CHUNK; i++) {
                const float y = i < many ? x[(w >> shift) * stride + i] * p->a[i] + p->b[i] : 0;
                to[w * step + i] = y > 0 ? y : y * p->slope;
            }
        return;
    }
    vec a[VECTORS], b[VECTORS];
    UNROLL for (int v = 0; v < VECTORS; v++)
        a[v] = load(p->a + v * LANES), b[v] = load(p->b + v * LANES);
    for (int64_t w = 0; w < width; w++)
        UNROLL for (int v = 0; v < VECTORS; v++)
            store(to + w * step + v * LANES,
                  leaky(load(x + (w >> shift) * stride + v * LANES) * a[v] + b[v], p->slope));
}

/* Count, sum and sum of squares of a chunk's channels about a pivot, so that an offset common to
 * all voxels costs no precision. */
typedef struct {
    int64_t count;
    double sum[CHUNK], square[CHUNK];
    float pivot[CHUNK];
} moments;

/* Writes packed rows to their place and gathers their moments (NULL: none). */
static void write_row(
    const float *row, int64_t width, int64_t many, float *to, int64_t stride, moments *m)
{
    if (many == CHUNK)
        for (int64_t w = 0; w < width; w++)
            UNROLL for (int v = 0; v < VECTORS; v++)
                store(to + w * stride + v * LANES, load(row + w * CHUNK + v * LANES));
    else
        for (int64_t w = 0; w < width; w++)
            for (int64_t i = 0; i < many; i++) to[w * stride + i] = row[w * CHUNK + i];
    if (!m) return;
    if (!m->count) memcpy(m->pivot, row + width / 2 * CHUNK, sizeof m->pivot);
    m->count += width;
    UNROLL for (int v = 0; v < VECTORS; v++) {
        const vec pivot = load(m->pivot + v * LANES);
        vec sum = {0}, square = {0};
        for (int64_t w = 0; w < width; w++) {
            const vec value = load(row + w * CHUNK + v * LANES) - pivot;
            sum += value;
            square += value * value;
        }
        for (int i = 0; i < LANES; i++) {
            m->sum[v * LANES + i] += sum[i];
            m->square[v * LANES + i] += square[i];
        }
    }
}

/* Mean and 1 / sqrt(var + eps) of a chunk from the moments of its tasks (Chan et al. 1983, eq. 2.1),
 * variance with 1 / n. */
static void normalise(
    const moments *parts, int64_t tasks, int64_t many, double eps, float *mean, float *rstd)
{
    for (int64_t i = 0; i < many; i++) {
        double count = 0, middle = 0, spread = 0;
        for (int64_t t = 0; t < tasks; t++) {
            const moments *m = parts + t;
            const double n = (double)m->count, average = m->pivot[i] + m->sum[i] / n;
            const double gap = average - middle;
            spread += m->square[i] - m->sum[i] * m->sum[i] / n + gap * gap * count * n / (count + n);
            middle += gap * n / (count + n);
            count += n;
        }
        mean[i] = (float)middle;
        rstd[i] = (float)(1 / sqrt((spread > 0 ? spread / count : 0) + eps));
    }
}

/* Sums of a gradient g and of g * (x - mean) * rstd, that the norm's gradient needs. */
typedef struct {
    double plain[CHUNK], product[CHUNK];
} gradient_sums;

/* Writes a packed row of the gradient of LeakyReLU(norm(x)) as that of norm(x), gathering its sums;
 * where no norm is pending as it is. x: the raw row, `stride` floats a voxel, like `to`. */
static void write_gradient_row(
    const features *f, const affine *p, int64_t n, int64_t first, const float *row, const float *x,
    int64_t width, float *to, gradient_sums *s)
{
    const int64_t c = f->channels, many = least(CHUNK, c - first);
    if (!f->mean) {
        write_row(row, width, many, to, c, NULL);
        return;
    }
    const int64_t at = n * c + first;
    if (many < CHUNK) {
        for (int64_t w = 0; w < width; w++)
            for (int64_t i = 0; i < many; i++) {
                const float y = x[w * c + i] * p->a[i] + p->b[i];
                const float g = row[w * CHUNK + i] * (y > 0 ? 1 : p->slope);
                to[w * c + i] = g;
                s->plain[i] += g;
                s->product[i] += g * ((x[w * c + i] - f->mean[at + i]) * f->rstd[at + i]);
            }
        return;
    }
    UNROLL for (int v = 0; v < VECTORS; v++) {
        const vec a = load(p->a + v * LANES), b = load(p->b + v * LANES);
        const vec mean = load(f->mean + at + v * LANES), rstd = load(f->rstd + at + v * LANES);
        vec plain = {0}, product = {0};
        for (int64_t w = 0; w < width; w++) {
            const vec raw = load(x + w * c + v * LANES);
            const vec g = leaky_gradient(raw * a + b, load(row + w * CHUNK + v * LANES), p->slope);
            store(to + w * c + v * LANES, g);
            plain += g;
            product += g * (raw - mean);
        }
        product *= rstd;
        for (int i = 0; i < LANES; i++) {
            s->plain[v * LANES + i] += plain[i];
            s->product[v * LANES + i] += product[i];
        }
    }
}

/* Adds the sums of a chunk's tasks: to (N, 2, C) at [n][.][first...]. */
static void add_gradient_sums(
    const gradient_sums *parts, int64_t tasks, int64_t many, float *to, int64_t channels)
{
    for (int64_t i = 0; i < many; i++) {
        double plain = 0, product = 0;
        for (int64_t t = 0; t < tasks; t++) plain += parts[t].plain[i], product += parts[t].product[i];
        to[i] = (float)plain;
        to[channels + i] = (float)product;
    }
}

/* What turns the gradient g of norm(x) into that of x, g * a + x * b + c, for 16 channels:
 *   gx = weight * rstd * (g - mean(g) - xhat * mean(g * xhat))     (Ioffe and Szegedy 2015, section 3)
 * sums (N, 2, C) of g and g * xhat, C the channels of f; NULL: g is that of x already. */
typedef struct {
    float a[CHUNK], b[CHUNK], c[CHUNK];
} tail;

static tail finishing(
    const features *f, int64_t n, int64_t first, int64_t many, const float *sums, int64_t voxels)
{
    tail t = {0};
    for (int64_t i = 0; i < many; i++) {
        t.a[i] = 1;
        if (!sums) continue;
        const int64_t channel = first + i, at = n * f->channels + channel;
        const float *sum = sums + 2 * n * f->channels + channel;
        const double scale = (double)f->weight[channel] * f->rstd[at], mean = f->mean[at];
        const double tilt = sum[f->channels] / (double)voxels * f->rstd[at];
        t.a[i] = (float)scale;
        t.b[i] = (float)(-scale * tilt);
        t.c[i] = (float)(-scale * (sum[0] / (double)voxels - mean * tilt));
    }
    return t;
}

/* Voxels of 16 lanes: to = g * a + x * b + c. */
INLINE void finish_voxels(
    const tail *t, const float *g, const float *x, int64_t stride, int64_t width, float *to,
    int64_t step)
{
    vec a[VECTORS], b[VECTORS], c[VECTORS];
    UNROLL for (int v = 0; v < VECTORS; v++)
        a[v] = load(t->a + v * LANES), b[v] = load(t->b + v * LANES), c[v] = load(t->c + v * LANES);
    for (int64_t w = 0; w < width; w++)
        UNROLL for (int v = 0; v < VECTORS; v++) {
            const int64_t at = w * stride + v * LANES;
            store(to + w * step + v * LANES, load(g + at) * a[v] + load(x + at) * b[v] + c[v]);
        }
}
