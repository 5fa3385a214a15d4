/* Pointwise convolution of features, forward and backward, as a matrix product over voxels.
 *
 * A task is a run of voxels of one sample, done in strips that stay in the first caches: normalise a
 * strip once, then multiply it by chunk after chunk of the matrix.
 */

#define STRIP 48 /* voxels */
#if LANES == 16
#define TALL 12 /* rows of a product whose sums fit in registers */
#else
#define TALL 6
#endif

typedef struct {
    features in; /* up 1 */
    int64_t batch, voxels, inputs, outputs;
    int64_t tasks, length; /* tasks of a sample; voxels of a task */
} pointwise;

static pointwise pointwise_of(const int64_t *s, const float *const *t, float slope)
{
    pointwise p = {.batch = s[0], .voxels = s[1], .inputs = s[2], .outputs = s[3]};
    p.in = (features){.x = t[0], .mean = t[1], .rstd = t[2], .weight = t[3], .bias = t[4],
                      .slope = slope, .channels = s[2], .up = {1, 1, 1}};
    p.length = parts_of(most(256, parts_of(p.batch * p.voxels, 64)), STRIP) * STRIP;
    p.tasks = parts_of(p.voxels, p.length);
    return p;
}

/* to[chunk][row][16] = matrix[row * row_step + (chunk * 16 + lane) * column_step], zeros beyond. */
static void pack_matrix(
    const float *matrix, int64_t rows, int64_t columns, int64_t row_step, int64_t column_step,
    float *to)
{
    for (int64_t chunk = 0; chunk < parts_of(columns, CHUNK); chunk++)
        for (int64_t row = 0; row < rows; row++)
            for (int64_t i = 0; i < CHUNK; i++) {
                const int64_t column = chunk * CHUNK + i;
                *to++ = column < columns ? matrix[row * row_step + column * column_step] : 0;
            }
}

/* to[p][16] = sum over i of a[p][i] * b[i][16], for `many` rows p. */
INLINE void multiply_block(
    const float *a, int64_t a_step, const float *b, int64_t count, float *to, const int many)
{
    vec sum[TALL][VECTORS];
    UNROLL for (int p = 0; p < many; p++) UNROLL for (int v = 0; v < VECTORS; v++) sum[p][v] = (vec){0};
    for (int64_t i = 0; i < count; i++) {
        vec row[VECTORS];
        UNROLL for (int v = 0; v < VECTORS; v++) row[v] = load(b + i * CHUNK + v * LANES);
        UNROLL for (int p = 0; p < many; p++) UNROLL for (int v = 0; v < VECTORS; v++)
            sum[p][v] += row[v] * a[p * a_step + i];
    }
    UNROLL for (int p = 0; p < many; p++) UNROLL for (int v = 0; v < VECTORS; v++)
        store(to + p * CHUNK + v * LANES, sum[p][v]);
}

static void multiply(
    const float *a, int64_t a_step, const float *b, int64_t count, float *to, int64_t rows)
{
    int64_t p = 0;
    for (; p + TALL <= rows; p += TALL)
        multiply_block(a + p * a_step, a_step, b, count, to + p * CHUNK, TALL);
    for (; p < rows; p++) multiply_block(a + p * a_step, a_step, b, count, to + p * CHUNK, 1);
}

/* to[j][16] += sum over v of a[v][j] * b[v][16], for `many` columns j of a. */
INLINE void outer_block(
    const float *a, int64_t a_step, const float *b, int64_t b_step, int64_t count, float *to,
    int64_t to_step, const int many)
{
    vec sum[TALL][VECTORS];
    UNROLL for (int j = 0; j < many; j++) UNROLL for (int v = 0; v < VECTORS; v++)
        sum[j][v] = load(to + j * to_step + v * LANES);
    for (int64_t i = 0; i < count; i++) {
        vec row[VECTORS];
        UNROLL for (int v = 0; v < VECTORS; v++) row[v] = load(b + i * b_step + v * LANES);
        UNROLL for (int j = 0; j < many; j++) UNROLL for (int v = 0; v < VECTORS; v++)
            sum[j][v] += row[v] * a[i * a_step + j];
    }
    UNROLL for (int j = 0; j < many; j++) UNROLL for (int v = 0; v < VECTORS; v++)
        store(to + j * to_step + v * LANES, sum[j][v]);
}

static void outer(
    const float *a, int64_t a_step, int64_t columns, const float *b, int64_t b_step, int64_t count,
    float *to, int64_t to_step)
{
    int64_t j = 0;
    for (; j + TALL <= columns; j += TALL)
        outer_block(a + j, a_step, b, b_step, count, to + j * to_step, to_step, TALL);
    for (; j + 4 <= columns; j += 4)
        outer_block(a + j, a_step, b, b_step, count, to + j * to_step, to_step, 4);
    for (; j < columns; j++)
        outer_block(a + j, a_step, b, b_step, count, to + j * to_step, to_step, 1);
}

/* A strip of features as (count, step) rows, normalised; step a multiple of 16, zeros beyond C. */
static void read_strip(
    const pointwise *p, int64_t n, int64_t from, int64_t count, int64_t step, float *to)
{
    const features *f = &p->in;
    const float *x = f->x + (n * p->voxels + from) * p->inputs;
    for (int64_t first = 0; first < p->inputs; first += CHUNK) {
        const affine todo = pending(f, n, first);
        read_voxels(&todo, x + first, least(CHUNK, p->inputs - first), p->inputs, 1, count, to + first,
                    step);
    }
}

static void add_bias(float *rows, int64_t count, const float *bias, int64_t many)
{
    for (int64_t i = 0; i < count; i++)
        for (int64_t k = 0; k < many; k++) rows[i * CHUNK + k] += bias[k];
}

/* sizes: N, voxels, inputs, outputs. tensors: x (N, V, C); mean, rstd, weight, bias of its
 * pending norm (NULL: none); weight (C', C), bias (C') or NULL. to (N, V, C'); mean and rstd (N, C') of it,
 * NULL: not wanted. Gives 0, or 1 without memory. */
int NAME(u2_pointwise_forward)(
    const int64_t *sizes, const float *const *t, float slope, float *to, float eps, float *mean,
    float *rstd, int64_t threads)
{
    const pointwise p = pointwise_of(sizes, t, slope);
    const int64_t step = parts_of(p.inputs, CHUNK) * CHUNK, chunks = parts_of(p.outputs, CHUNK);
    const int64_t tasks = p.batch * p.tasks;
    float *matrix = floats(chunks * p.inputs * CHUNK);
    moments *parts = mean ? calloc((size_t)(tasks * chunks), sizeof *parts) : NULL;
    int failed = !matrix || (mean && !parts);
    if (!failed) pack_matrix(t[5], p.inputs, p.outputs, 1, p.inputs, matrix);
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        float *strip = floats(STRIP * step), *rows = floats(STRIP * CHUNK);
        failed |= !strip || !rows;
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < tasks; task++) {
            const int64_t n = task / p.tasks, begin = task % p.tasks * p.length;
            const int64_t end = least(p.voxels, begin + p.length);
            for (int64_t from = begin; from < end && !failed; from += STRIP) {
                const int64_t count = least(STRIP, end - from);
                read_strip(&p, n, from, count, step, strip);
                for (int64_t chunk = 0; chunk < chunks; chunk++) {
                    const int64_t first = chunk * CHUNK, many = least(CHUNK, p.outputs - first);
                    multiply(strip, step, matrix + chunk * p.inputs * CHUNK, p.inputs, rows, count);
                    if (t[6]) add_bias(rows, count, t[6] + first, many);
                    write_row(rows, count, many, to + (n * p.voxels + from) * p.outputs + first,
                              p.outputs, parts ? parts + (n * chunks + chunk) * p.tasks + task % p.tasks
                                               : NULL);
                }
            }
        }
        free(strip), free(rows);
    }
    for (int64_t i = 0; parts && !failed && i < p.batch * chunks; i++) {
        const int64_t first = i % chunks * CHUNK, at = i / chunks * p.outputs + first;
        normalise(parts + i * p.tasks, p.tasks, least(CHUNK, p.outputs - first), eps, mean + at,
                  rstd + at);
    }
    free(matrix), free(parts);
    return failed;
}

/* ---- backward ---- */

typedef struct {
    const float *g;      /* (N, V, C') */
    const float *matrix; /* [chunk of C][C'][16] */
    float *gx;           /* (N, V, C) or NULL */
} returning;

static void backward_strip(
    const pointwise *p, const returning *r, int64_t n, int64_t from, int64_t count, float *strip,
    float *rows, gradient_sums *sums, float *gweight)
{
    const int64_t step = parts_of(p->inputs, CHUNK) * CHUNK;
    const float *g = r->g + (n * p->voxels + from) * p->outputs;
    if (gweight) read_strip(p, n, from, count, step, strip);
    for (int64_t first = 0; first < p->inputs; first += CHUNK) {
        if (gweight)
            outer(g, p->outputs, p->outputs, strip + first, step, count, gweight + first, step);
        if (!r->gx) continue;
        multiply(g, p->outputs, r->matrix + first * p->outputs, p->outputs, rows, count);
        const int64_t at = (n * p->voxels + from) * p->inputs + first;
        const affine todo = pending(&p->in, n, first);
        write_gradient_row(&p->in, &todo, n, first, rows, p->in.x + at, count, r->gx + at,
                           sums + first / CHUNK);
    }
}

/* sizes and tensors as in forward, then g (N, V, C'). gx (N, V, C): gradient of the norm of x with
 * sums gsums (N, 2, C), or of x where none was pending; NULL where not wanted. gweight (C', C)
 * and gbias (C'), NULL where not wanted. */
int NAME(u2_pointwise_backward)(
    const int64_t *sizes, const float *const *t, float slope, float *gx, float *gsums, float *gweight,
    float *gbias, int64_t threads)
{
    const pointwise p = pointwise_of(sizes, t, slope);
    const int64_t step = parts_of(p.inputs, CHUNK) * CHUNK, chunks = step / CHUNK;
    const int64_t tasks = p.batch * p.tasks, size = p.outputs * step;
    float *matrix = floats(p.outputs * step), *parts = gweight ? calloc((size_t)(tasks * size), sizeof(float)) : NULL;
    gradient_sums *sums = calloc((size_t)(tasks * chunks), sizeof *sums);
    const returning r = {.g = t[7], .matrix = matrix, .gx = gx};
    int failed = !matrix || (gweight && !parts) || !sums;
    if (!failed) pack_matrix(t[5], p.outputs, p.inputs, p.inputs, 1, matrix);
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        float *strip = floats(STRIP * step), *rows = floats(STRIP * CHUNK);
        failed |= !strip || !rows;
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < tasks; task++) {
            const int64_t n = task / p.tasks, begin = task % p.tasks * p.length;
            const int64_t end = least(p.voxels, begin + p.length);
            for (int64_t from = begin; from < end && !failed; from += STRIP)
                backward_strip(&p, &r, n, from, least(STRIP, end - from), strip, rows,
                               sums + task * chunks, parts ? parts + task * size : NULL);
        }
        free(strip), free(rows);
        if (!failed && gweight) {
#pragma omp for schedule(static)
            for (int64_t j = 0; j < p.outputs; j++)
                for (int64_t i = 0; i < p.inputs; i++) {
                    double sum = 0;
                    for (int64_t task = 0; task < tasks; task++) sum += parts[task * size + j * step + i];
                    gweight[j * p.inputs + i] = (float)sum;
                }
        }
    }
    for (int64_t j = 0; !failed && gbias && j < p.outputs; j++) {
        double sum = 0;
        for (int64_t i = 0; i < p.batch * p.voxels; i++) sum += r.g[i * p.outputs + j];
        gbias[j] = (float)sum;
    }
    for (int64_t n = 0; !failed && gx && p.in.mean && n < p.batch; n++)
        for (int64_t i = 0; i < p.inputs; i++) {
            double plain = 0, product = 0;
            for (int64_t task = n * p.tasks; task < (n + 1) * p.tasks; task++) {
                plain += sums[task * chunks + i / CHUNK].plain[i % CHUNK];
                product += sums[task * chunks + i / CHUNK].product[i % CHUNK];
            }
            gsums[2 * n * p.inputs + i] = (float)plain;
            gsums[(2 * n + 1) * p.inputs + i] = (float)product;
        }
    free(matrix), free(parts), free(sums);
    return failed;
}
