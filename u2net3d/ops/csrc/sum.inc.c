/* LeakyReLU of the sum of one or two features of the same grid: the end of a residual pair, or, of one
 * alone, the pending norm carried out. */

typedef struct {
    features in[2];
    int64_t count, batch, voxels, channels, length, each;
    float slope;
} addition;

static addition addition_of(const int64_t *s, const float *const *t, const float *slopes)
{
    addition p = {.count = s[0], .batch = s[1], .voxels = s[2], .channels = s[3], .slope = slopes[2]};
    for (int64_t i = 0; i < p.count; i++) {
        const float *const *own = t + 5 * i;
        p.in[i] = (features){.x = own[0], .mean = own[1], .rstd = own[2], .weight = own[3],
                             .bias = own[4], .slope = slopes[i], .channels = p.channels};
    }
    p.length = most(32, 16384 / p.channels);
    p.each = parts_of(p.voxels, p.length);
    return p;
}

/* sizes: how many, N, voxels, C. tensors of each: x (N, V, C); mean, rstd, weight, bias of its pending
 * norm (NULL: none). slopes: of each, and of the sum. */
int NAME(u2_sum_forward)(
    const int64_t *sizes, const float *const *tensors, const float *slopes, float *to, int64_t threads)
{
    const addition p = addition_of(sizes, tensors, slopes);
    const int64_t c = p.channels;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t task = 0; task < p.batch * p.each; task++) {
        const int64_t n = task / p.each, from = task % p.each * p.length;
        const int64_t end = least(p.voxels, from + p.length), at = n * p.voxels;
        for (int64_t first = 0; first < c; first += CHUNK) {
            const int64_t many = least(CHUNK, c - first);
            affine todo[2];
            for (int64_t k = 0; k < p.count; k++) todo[k] = pending(p.in + k, n, first);
            for (int64_t begin = from; begin < end; begin += STRIP) {
                const int64_t width = least(STRIP, end - begin), place = (at + begin) * c + first;
                float rows[2][STRIP * CHUNK] __attribute__((aligned(64)));
                for (int64_t k = 0; k < p.count; k++)
                    read_voxels(todo + k, p.in[k].x + place, many, c, 1, width, rows[k], CHUNK);
                for (int64_t i = 0; i < width * CHUNK; i += LANES) {
                    vec y = load(rows[0] + i);
                    if (p.count == 2) y += load(rows[1] + i);
                    store(rows[0] + i, leaky(y, p.slope));
                }
                write_row(rows[0], width, many, to + place, c, NULL);
            }
        }
    }
    return 0;
}

/* The same, then y (N, V, C), the result, and g (N, V, C), its gradient. gx[k] (N, V, C): gradient of
 * the norm of x_k with sums gsums[k] (N, 2, C), or of x_k where none was pending; NULL: not wanted. */
int NAME(u2_sum_backward)(
    const int64_t *sizes, const float *const *tensors, const float *slopes, float *const *gx,
    float *const *gsums, int64_t threads)
{
    const addition p = addition_of(sizes, tensors, slopes);
    const float *y = tensors[10], *g = tensors[11];
    const int64_t c = p.channels, chunks = parts_of(c, CHUNK);
    gradient_sums *parts = calloc((size_t)(p.count * p.batch * chunks * p.each), sizeof *parts);
    if (!parts) return 1;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t task = 0; task < p.batch * p.each; task++) {
        const int64_t n = task / p.each, from = task % p.each * p.length;
        const int64_t end = least(p.voxels, from + p.length), at = n * p.voxels;
        for (int64_t chunk = 0; chunk < chunks; chunk++) {
            const int64_t first = chunk * CHUNK, many = least(CHUNK, c - first);
            const affine plain = {.slope = 1, .a = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}};
            affine todo[2];
            for (int64_t k = 0; k < p.count; k++) todo[k] = pending(p.in + k, n, first);
            for (int64_t begin = from; begin < end; begin += STRIP) {
                const int64_t width = least(STRIP, end - begin), place = (at + begin) * c + first;
                float row[STRIP * CHUNK] __attribute__((aligned(64))), value[STRIP * CHUNK];
                read_voxels(&plain, g + place, many, c, 1, width, row, CHUNK);
                read_voxels(&plain, y + place, many, c, 1, width, value, CHUNK);
                for (int64_t i = 0; i < width * CHUNK; i += LANES)
                    store(row + i, leaky_gradient(load(value + i), load(row + i), p.slope));
                for (int64_t k = 0; k < p.count; k++)
                    if (gx[k])
                        write_gradient_row(
                            p.in + k, todo + k, n, first, row, p.in[k].x + place, width, gx[k] + place,
                            parts + ((k * p.batch + n) * chunks + chunk) * p.each + task % p.each);
            }
        }
    }
    for (int64_t i = 0; i < p.count * p.batch * chunks; i++) {
        const int64_t k = i / (p.batch * chunks), n = i / chunks % p.batch, first = i % chunks * CHUNK;
        if (gx[k] && p.in[k].mean)
            add_gradient_sums(parts + i * p.each, p.each, least(CHUNK, c - first),
                              gsums[k] + 2 * n * c + first, c);
    }
    free(parts);
    return 0;
}
