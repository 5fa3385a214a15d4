/* The gradient of a raw tensor from that of its norm, and the norm's own; in place. */

/* sizes: N, voxels, C. tensors: x; mean, rstd, weight of its norm; sums (N, 2, C). g (N, V, C) becomes
 * g * a + x * b + c, see `finishing`. */
void NAME(u2_finish)(const int64_t *s, const float *const *t, float *g, int64_t threads)
{
    const int64_t batch = s[0], voxels = s[1], c = s[2];
    const features f = {.x = t[0], .mean = t[1], .rstd = t[2], .weight = t[3], .channels = c};
    const int64_t length = most(32, 32768 / c), each = parts_of(voxels, length);
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t task = 0; task < batch * each; task++) {
        const int64_t n = task / each, from = task % each * length;
        const int64_t to = least(voxels, from + length);
        for (int64_t first = 0; first < c; first += CHUNK) {
            const int64_t many = least(CHUNK, c - first);
            const tail end = finishing(&f, n, first, many, t[4], voxels);
            float *at = g + (n * voxels + from) * c + first;
            const float *raw = f.x + (n * voxels + from) * c + first;
            if (many == CHUNK) {
                finish_voxels(&end, at, raw, c, to - from, at, c);
                continue;
            }
            for (int64_t v = 0; v < to - from; v++)
                for (int64_t i = 0; i < many; i++)
                    at[v * c + i] = at[v * c + i] * end.a[i] + raw[v * c + i] * end.b[i] + end.c[i];
        }
    }
}
