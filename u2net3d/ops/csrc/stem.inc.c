/* Dense convolution of an image of a few channels, any stride, kernel 1 or 3 along D and H.
 *
 * The image comes padded, (N, (D - 1) * stride_D + kD, ..., I) for D outputs, in channels-last order: the
 * kW taps of a row are kW * I neighbouring floats, and every output row a sum of small matrix products.
 */

typedef struct {
    int64_t batch, inputs, outputs, out[3], kernel[3], stride[3];
    int64_t rows, taps, step; /* kernel rows; floats of one; floats from output to output */
    const float *x;
} stem;

static stem stem_of(const int64_t *s, const float *x)
{
    stem p = {.batch = s[0], .inputs = s[1], .outputs = s[2], .x = x};
    for (int i = 0; i < 3; i++) p.out[i] = s[3 + i], p.kernel[i] = s[6 + i], p.stride[i] = s[9 + i];
    p.rows = p.kernel[0] * p.kernel[1];
    p.taps = p.kernel[2] * p.inputs;
    p.step = p.stride[2] * p.inputs;
    return p;
}

INLINE const float *stem_row(const stem *p, int64_t n, int64_t d, int64_t h, int64_t r)
{
    const int64_t depth = (p->out[0] - 1) * p->stride[0] + p->kernel[0];
    const int64_t height = (p->out[1] - 1) * p->stride[1] + p->kernel[1];
    const int64_t width = (p->out[2] - 1) * p->step + p->taps;
    const int64_t plane = n * depth + d * p->stride[0] + r / p->kernel[1];
    return p->x + (plane * height + h * p->stride[1] + r % p->kernel[1]) * width;
}

/* to[p][16] = sum over kernel rows and taps, for `many` neighbouring outputs. */
INLINE void stem_block(
    const stem *s, const float *const *rows, int64_t at, const float *matrix, float *to, const int many)
{
    vec sum[TALL][VECTORS];
    UNROLL for (int p = 0; p < many; p++) UNROLL for (int v = 0; v < VECTORS; v++) sum[p][v] = (vec){0};
    for (int64_t r = 0; r < s->rows; r++) {
        const float *x = rows[r] + at * s->step;
        for (int64_t i = 0; i < s->taps; i++, matrix += CHUNK) {
            vec row[VECTORS];
            UNROLL for (int v = 0; v < VECTORS; v++) row[v] = load(matrix + v * LANES);
            UNROLL for (int p = 0; p < many; p++) UNROLL for (int v = 0; v < VECTORS; v++)
                sum[p][v] += row[v] * x[p * s->step + i];
        }
    }
    UNROLL for (int p = 0; p < many; p++) UNROLL for (int v = 0; v < VECTORS; v++)
        store(to + (at + p) * CHUNK + v * LANES, sum[p][v]);
}

/* sizes: N, I, C, D, H, W of the result, kernel (3), stride (3). matrix (kD kH kW I, C). to (N, D, H, W, C); mean and rstd
 * (N, C) of it. Gives 0, or 1 without memory. */
int NAME(u2_stem_forward)(
    const int64_t *sizes, const float *x, const float *matrix, float *to, float eps, float *mean,
    float *rstd, int64_t threads)
{
    const stem p = stem_of(sizes, x);
    const int64_t chunks = parts_of(p.outputs, CHUNK), planes = p.batch * p.out[0], depth = p.rows * p.taps;
    float *packed = floats(chunks * depth * CHUNK);
    moments *parts = calloc((size_t)(planes * chunks), sizeof *parts);
    int failed = !packed || !parts;
    if (!failed) pack_matrix(matrix, depth, p.outputs, p.outputs, 1, packed);
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        float *row = floats(p.out[2] * CHUNK);
        failed |= !row;
#pragma omp for schedule(dynamic)
        for (int64_t plane = 0; plane < planes; plane++) {
            const int64_t n = plane / p.out[0], d = plane % p.out[0];
            for (int64_t h = 0; h < p.out[1] && !failed; h++) {
                const float *rows[9];
                for (int64_t r = 0; r < p.rows; r++) rows[r] = stem_row(&p, n, d, h, r);
                for (int64_t chunk = 0; chunk < chunks; chunk++) {
                    const float *own = packed + chunk * depth * CHUNK;
                    int64_t w = 0;
                    for (; w + TALL <= p.out[2]; w += TALL) stem_block(&p, rows, w, own, row, TALL);
                    for (; w < p.out[2]; w++) stem_block(&p, rows, w, own, row, 1);
                    write_row(row, p.out[2], least(CHUNK, p.outputs - chunk * CHUNK),
                              to + (plane * p.out[1] + h) * p.out[2] * p.outputs + chunk * CHUNK,
                              p.outputs, parts + (n * chunks + chunk) * p.out[0] + d);
                }
            }
        }
        free(row);
    }
    for (int64_t i = 0; !failed && i < p.batch * chunks; i++) {
        const int64_t first = i % chunks * CHUNK, at = i / chunks * p.outputs + first;
        normalise(parts + i * p.out[0], p.out[0], least(CHUNK, p.outputs - first), eps, mean + at,
                  rstd + at);
    }
    free(packed), free(parts);
    return failed;
}

/* gmatrix (kD kH kW I, C) from g (N, D, H, W, C). */
int NAME(u2_stem_backward)(
    const int64_t *sizes, const float *x, const float *g, float *gmatrix, int64_t threads)
{
    const stem p = stem_of(sizes, x);
    const int64_t step = parts_of(p.outputs, CHUNK) * CHUNK, size = p.rows * p.taps * step;
    const int64_t planes = p.batch * p.out[0], shares = least(planes, 64);
    const affine plain = {.slope = 1, .a = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}};
    float *parts = calloc((size_t)(shares * size), sizeof(float));
    int failed = !parts;
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        float *row = floats(p.out[2] * CHUNK);
        failed |= !row;
#pragma omp for schedule(dynamic)
        for (int64_t share = 0; share < shares; share++)
            for (int64_t i = planes * share / shares * p.out[1];
                 i < planes * (share + 1) / shares * p.out[1] && !failed; i++) {
                const int64_t plane = i / p.out[1], h = i % p.out[1];
                for (int64_t first = 0; first < p.outputs; first += CHUNK) {
                    read_voxels(&plain, g + i * p.out[2] * p.outputs + first,
                                least(CHUNK, p.outputs - first), p.outputs, 1, p.out[2], row, CHUNK);
                    for (int64_t r = 0; r < p.rows; r++)
                        outer(stem_row(&p, plane / p.out[0], plane % p.out[0], h, r), p.step, p.taps,
                              row, CHUNK, p.out[2], parts + share * size + r * p.taps * step + first,
                              step);
                }
            }
        free(row);
    }
    for (int64_t tap = 0; !failed && tap < p.rows * p.taps; tap++)
        for (int64_t c = 0; c < p.outputs; c++) {
            double sum = 0;
            for (int64_t share = 0; share < shares; share++) sum += parts[share * size + tap * step + c];
            gmatrix[tap * p.outputs + c] = (float)sum;
        }
    free(parts);
    return failed;
}
