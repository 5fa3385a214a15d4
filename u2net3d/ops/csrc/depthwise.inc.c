/* Depthwise convolution of features, forward and backward; kernel 1 or 3 and stride 1 or 2 per axis,
 * padding kernel // 2 with zeros behind norm and activation.
 *
 * A task is one chunk of channels of a block of rows and planes. It holds the planes that a kernel
 * covers in a ring, normalised once and padded, so that no border is ever asked for.
 */

typedef struct {
    features in;                /* N batch */
    int64_t batch, fine[3];     /* input grid, up-sampled */
    int64_t out[3], kernel[3], stride[3];
    const float *weight;        /* (C, 1, kD, kH, kW) */
    int64_t out_channels, first; /* of the tensor that this convolution is a part of; its channels' place */
} depthwise;

/* How the rows and planes of a grid are shared out among tasks. */
typedef struct {
    int64_t batch, chunks, rows, depth, blocks, layers, tasks;
} tiling;

static tiling tile(int64_t batch, int64_t channels, const int64_t *grid, int64_t row_bytes)
{
    tiling t = {.batch = batch, .chunks = parts_of(channels, CHUNK), .depth = grid[0]};
    t.rows = most(4, TILE_BYTES / row_bytes - 2) / 2 * 2;
    t.rows = least(t.rows, grid[1] + grid[1] % 2);
    t.rows = parts_of(parts_of(grid[1], parts_of(grid[1], t.rows)), 2) * 2; /* even shares */
    t.blocks = parts_of(grid[1], t.rows);
    while (batch * t.chunks * t.blocks * parts_of(grid[0], t.depth) < MIN_TASKS && t.depth > 4)
        t.depth = parts_of(parts_of(t.depth, 2), 2) * 2;
    t.layers = parts_of(grid[0], t.depth);
    t.tasks = batch * t.chunks * t.blocks * t.layers;
    return t;
}

typedef struct {
    int64_t n, chunk, h[2], d[2]; /* rows and planes [from, to) */
} share;

INLINE share share_of(const tiling *t, const int64_t *grid, int64_t task)
{
    const int64_t layer = task % t->layers, block = task / t->layers % t->blocks;
    const int64_t chunk = task / (t->layers * t->blocks) % t->chunks;
    share s = {.n = task / (t->layers * t->blocks * t->chunks), .chunk = chunk};
    s.h[0] = block * t->rows, s.h[1] = least(grid[1], s.h[0] + t->rows);
    s.d[0] = layer * t->depth, s.d[1] = least(grid[0], s.d[0] + t->depth);
    return s;
}

/* weight[tap][16], taps in (kD, kH, kW) order, reversed along W for the backward pass. */
static void pack_weight(const depthwise *p, int64_t first, int reversed, float *to)
{
    const int64_t kw = p->kernel[2], taps = p->kernel[0] * p->kernel[1] * kw;
    for (int64_t tap = 0; tap < taps; tap++) {
        const int64_t from = reversed ? tap / kw * kw + (kw - 1 - tap % kw) : tap;
        for (int64_t i = 0; i < CHUNK; i++)
            to[tap * CHUNK + i]
                = first + i < p->in.channels ? p->weight[(first + i) * taps + from] : 0;
    }
}

/* `many` neighbouring outputs of a row: to[p] = sum over rows r, taps k of x_r[p * stride + k] w_r[k].
 * One register of channels at a time, so that sums and weights stay in registers. */
INLINE void convolve_block(
    const float *const *rows, const float *const *weights, int64_t count, int64_t at, float *to,
    const int many, const int kernel, const int stride)
{
    for (int v = 0; v < VECTORS; v++) {
        vec sum[8];
        UNROLL for (int p = 0; p < many; p++) sum[p] = (vec){0};
        for (int64_t r = 0; r < count; r++) {
            const float *x = rows[r] + at * stride * CHUNK + v * LANES;
            const float *weight = weights[r] + v * LANES;
            vec w[3];
            UNROLL for (int k = 0; k < kernel; k++) w[k] = load(weight + k * CHUNK);
            UNROLL for (int j = 0; j < (many - 1) * stride + kernel; j++) {
                const vec value = load(x + j * CHUNK);
                UNROLL for (int k = 0; k < kernel; k++) {
                    const int p = (j - k) / stride;
                    if (j >= k && (j - k) % stride == 0 && p < many) sum[p] += value * w[k];
                }
            }
        }
        UNROLL for (int p = 0; p < many; p++) store(to + (at + p) * CHUNK + v * LANES, sum[p]);
    }
}

INLINE void convolve_row_of(
    const float *const *rows, const float *const *weights, int64_t count, int64_t width, float *to,
    const int kernel, const int stride)
{
    int64_t w = 0;
    for (; w + 8 <= width; w += 8)
        convolve_block(rows, weights, count, w, to, 8, kernel, stride);
    for (; w + 4 <= width; w += 4)
        convolve_block(rows, weights, count, w, to, 4, kernel, stride);
    for (; w < width; w++) convolve_block(rows, weights, count, w, to, 1, kernel, stride);
}

static void convolve_row(
    const float *const *rows, const float *const *weights, int64_t count, int64_t width, float *to,
    int64_t kernel, int64_t stride)
{
    if (kernel == 3 && stride == 1) convolve_row_of(rows, weights, count, width, to, 3, 1);
    else if (kernel == 3) convolve_row_of(rows, weights, count, width, to, 3, 2);
    else if (stride == 1) convolve_row_of(rows, weights, count, width, to, 1, 1);
    else convolve_row_of(rows, weights, count, width, to, 1, 2);
}

/* Planes of 16 lanes a voxel around a task; row 0 is `top`, `pad` zeros stand left and right. */
typedef struct {
    float *at;
    int64_t planes, rows, width, top, pad;
} ring;

INLINE float *ring_row(const ring *r, int64_t plane, int64_t row)
{
    const int64_t slot = (plane + r->planes) % r->planes; /* plane >= -1 */
    return r->at + (slot * r->rows + row - r->top) * r->width * CHUNK;
}

INLINE int64_t ring_floats(const ring *r) { return r->planes * r->rows * r->width * CHUNK; }

/* A row of the input's chunk as the kernel sees it. */
INLINE void read_row(
    const depthwise *p, const share *s, const affine *todo, int64_t d, int64_t h, float *to)
{
    const int64_t c = p->in.channels, first = s->chunk * CHUNK;
    read_voxels(todo, voxel_row(&p->in, s->n, d, h) + first, least(CHUNK, c - first), c, p->in.up[2],
                p->fine[2], to, CHUNK);
}

static void fill_plane(
    const depthwise *p, const ring *r, const share *s, const affine *todo, int64_t d)
{
    const int64_t row_floats = r->width * CHUNK;
    if (d < 0 || d >= p->fine[0]) {
        memset(ring_row(r, d, r->top), 0, (size_t)(r->rows * row_floats) * sizeof(float));
        return;
    }
    for (int64_t h = most(0, r->top); h < least(p->fine[1], r->top + r->rows); h++)
        read_row(p, s, todo, d, h, ring_row(r, d, h) + r->pad * CHUNK);
}

static void forward_task(
    const depthwise *p, const share *s, float *buffer, float *row, float *to, moments *m)
{
    const int64_t first = s->chunk * CHUNK, many = least(CHUNK, p->in.channels - first);
    const int64_t *k = p->kernel, *stride = p->stride, pad[2] = {k[0] / 2, k[1] / 2};
    float weight[MAX_TAPS * CHUNK] __attribute__((aligned(64)));
    pack_weight(p, first, 0, weight);
    const affine todo = pending(&p->in, s->n, first);
    ring r = {.at = buffer, .planes = k[0], .pad = k[2] / 2, .width = p->fine[2] + 2 * (k[2] / 2)};
    r.top = s->h[0] * stride[1] - pad[1];
    r.rows = (s->h[1] - s->h[0] - 1) * stride[1] + k[1];
    memset(r.at, 0, (size_t)ring_floats(&r) * sizeof(float));
    int64_t filled = s->d[0] * stride[0] - pad[0];
    for (int64_t d = s->d[0]; d < s->d[1]; d++) {
        const int64_t begin = d * stride[0] - pad[0];
        for (filled = most(filled, begin); filled < begin + k[0]; filled++)
            fill_plane(p, &r, s, &todo, filled);
        for (int64_t h = s->h[0]; h < s->h[1]; h++) {
            const float *rows[9], *weights[9];
            for (int64_t i = 0; i < k[0] * k[1]; i++) {
                rows[i] = ring_row(&r, begin + i / k[1], h * stride[1] - pad[1] + i % k[1]);
                weights[i] = weight + i * k[2] * CHUNK;
            }
            convolve_row(rows, weights, k[0] * k[1], p->out[2], row, k[2], stride[2]);
            const int64_t at = ((s->n * p->out[0] + d) * p->out[1] + h) * p->out[2];
            write_row(row, p->out[2], many, to + at * p->out_channels + p->first + first,
                      p->out_channels, m);
        }
    }
}

static depthwise depthwise_of(const int64_t *s, const float *const *t, float slope)
{
    depthwise p = {.batch = s[0], .weight = t[5], .out_channels = s[17], .first = s[18]};
    p.in = (features){.x = t[0], .mean = t[1], .rstd = t[2], .weight = t[3], .bias = t[4],
                      .slope = slope, .channels = s[1]};
    for (int i = 0; i < 3; i++) {
        p.in.size[i] = s[2 + i], p.in.up[i] = s[5 + i], p.fine[i] = s[8 + i];
        p.kernel[i] = s[11 + i], p.stride[i] = s[14 + i];
        p.out[i] = parts_of(p.fine[i], p.stride[i]);
    }
    return p;
}

/* sizes: N, C, D, H, W, up (3), fine grid (3), kernel (3), stride (3), channels of `to`, the first of
 * them to write. tensors: x; mean, rstd, weight, bias of its pending norm (NULL: none); weight. mean and rstd (N, channels of `to`) of
 * what is written; NULL: not wanted. Gives 0, or 1 without memory. */
int NAME(u2_depthwise_forward)(
    const int64_t *sizes, const float *const *tensors, float slope, float *to, float eps, float *mean,
    float *rstd, int64_t threads)
{
    const depthwise p = depthwise_of(sizes, tensors, slope);
    const int64_t width = p.fine[2] + 2, row_bytes = p.kernel[0] * p.stride[1] * width * CHUNK * 4;
    const tiling t = tile(p.batch, p.in.channels, p.out, row_bytes);
    const int64_t ring_size = p.kernel[0] * ((t.rows - 1) * p.stride[1] + 3) * width * CHUNK;
    moments *parts = mean ? calloc((size_t)t.tasks, sizeof *parts) : NULL;
    int failed = mean && !parts;
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        float *buffer = floats(ring_size), *row = floats(p.out[2] * CHUNK);
        failed |= !buffer || !row;
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < t.tasks; task++) {
            const share s = share_of(&t, p.out, task);
            if (!failed) forward_task(&p, &s, buffer, row, to, parts ? parts + task : NULL);
        }
        free(buffer);
        free(row);
    }
    const int64_t each = t.blocks * t.layers;
    if (parts && !failed)
        for (int64_t i = 0; i < p.batch * t.chunks; i++) {
            const int64_t first = i % t.chunks * CHUNK;
            const int64_t at = i / t.chunks * p.out_channels + p.first + first;
            normalise(parts + i * each, each, least(CHUNK, p.in.channels - first), eps, mean + at,
                      rstd + at);
        }
    free(parts);
    return failed;
}

/* ---- backward ---- */

/* The gradient of the convolution's result; g * a + u * b + c where a norm of u was pending. */
typedef struct {
    const float *g;    /* (N, D', H', W', out_channels) */
    const float *sums; /* (N, 2, out_channels) of g; NULL: g as it is */
    features norm;     /* u and its pending norm */
} arriving;

static void read_gradient_row(
    const depthwise *p, const arriving *a, const share *s, const tail *end, int64_t d, int64_t h,
    float *to)
{
    const int64_t c = p->out_channels, first = s->chunk * CHUNK, width = p->out[2];
    const int64_t many = least(CHUNK, p->in.channels - first);
    const int64_t at = ((s->n * p->out[0] + d) * p->out[1] + h) * width * c + p->first + first;
    const float *g = a->g + at, *u = a->sums ? a->norm.x + at : g;
    if (many == CHUNK) {
        finish_voxels(end, g, u, c, width, to, CHUNK);
        return;
    }
    for (int64_t w = 0; w < width; w++)
        for (int64_t i = 0; i < many; i++)
            to[w * CHUNK + i] = g[w * c + i] * end->a[i] + u[w * c + i] * end->b[i] + end->c[i];
}

static void fill_gradient_plane(
    const depthwise *p, const arriving *a, const ring *r, const share *s, const tail *end, int64_t d)
{
    if (d < 0 || d >= p->out[0]) {
        memset(ring_row(r, d, r->top), 0, (size_t)(r->rows * r->width * CHUNK) * sizeof(float));
        return;
    }
    for (int64_t h = most(0, r->top); h < least(p->out[1], r->top + r->rows); h++)
        read_gradient_row(p, a, s, end, d, h, ring_row(r, d, h) + r->pad * CHUNK);
}

/* Taps that lead from one fine position to outputs: with stride 2 every second. */
typedef struct {
    int64_t count, tap[3], out[3];
} reach;

INLINE reach reached(int64_t position, int64_t kernel, int64_t stride)
{
    reach r = {0};
    for (int64_t tap = 0; tap < kernel; tap++) {
        const int64_t at = position + kernel / 2 - tap;
        if (at % stride) continue; /* at >= -1: odd, then */
        r.tap[r.count] = tap;
        r.out[r.count++] = at / stride;
    }
    return r;
}

/* gx of a row at stride 2 along W: pairs of fine voxels share their outputs. taps are reversed:
 * weights[r][j] is that of tap kernel - 1 - j. Rows begin with the zero left of output 0. */
INLINE void spread_row(
    const float *const *rows, const float *const *weights, int64_t count, int64_t width, float *to,
    const int kernel)
{
    const int pad = kernel / 2;
    for (int64_t w = 0; w < width; w += 2) {
        vec even[VECTORS], odd[VECTORS];
        UNROLL for (int v = 0; v < VECTORS; v++) even[v] = odd[v] = (vec){0};
        for (int64_t r = 0; r < count; r++) {
            const float *g = rows[r] + (w / 2 + pad) * CHUNK, *weight = weights[r];
            UNROLL for (int v = 0; v < VECTORS; v++) {
                const vec here = load(g + v * LANES);
                even[v] += here * load(weight + pad * CHUNK + v * LANES);
                if (kernel == 3) {
                    odd[v] += here * load(weight + v * LANES);
                    odd[v] += load(g + CHUNK + v * LANES) * load(weight + 2 * CHUNK + v * LANES);
                }
            }
        }
        UNROLL for (int v = 0; v < VECTORS; v++) {
            store(to + w * CHUNK + v * LANES, even[v]);
            if (w + 1 < width) store(to + (w + 1) * CHUNK + v * LANES, odd[v]);
        }
    }
}

/* part[r][j] += sum over w of x[w] * g_r[w + j], for `many` rows at once. */
INLINE void correlate(
    const float *x, const float *const *rows, float *const *parts, int64_t width, const int many,
    const int kernel)
{
    UNROLL for (int v = 0; v < VECTORS; v++) {
        vec sum[3][3];
        UNROLL for (int r = 0; r < many; r++) UNROLL for (int j = 0; j < kernel; j++)
            sum[r][j] = load(parts[r] + j * CHUNK + v * LANES);
        for (int64_t w = 0; w < width; w++) {
            const vec value = load(x + w * CHUNK + v * LANES);
            UNROLL for (int r = 0; r < many; r++) UNROLL for (int j = 0; j < kernel; j++)
                sum[r][j] += value * load(rows[r] + (w + j) * CHUNK + v * LANES);
        }
        UNROLL for (int r = 0; r < many; r++) UNROLL for (int j = 0; j < kernel; j++)
            store(parts[r] + j * CHUNK + v * LANES, sum[r][j]);
    }
}

/* The same at stride 2 along W. */
INLINE void correlate_spread(
    const float *x, const float *g, float *part, int64_t width, const int kernel)
{
    const int pad = kernel / 2;
    UNROLL for (int v = 0; v < VECTORS; v++) {
        vec sum[3];
        UNROLL for (int j = 0; j < kernel; j++) sum[j] = load(part + j * CHUNK + v * LANES);
        for (int64_t w = 0; w < width; w += 2) {
            const vec here = load(g + (w / 2 + pad) * CHUNK + v * LANES);
            sum[pad] += here * load(x + w * CHUNK + v * LANES);
            if (kernel == 3 && w + 1 < width) {
                const vec value = load(x + (w + 1) * CHUNK + v * LANES);
                sum[0] += here * value;
                sum[2] += load(g + (w / 2 + 2) * CHUNK + v * LANES) * value;
            }
        }
        UNROLL for (int j = 0; j < kernel; j++) store(part + j * CHUNK + v * LANES, sum[j]);
    }
}

static void correlate_rows(
    const float *x, const float *const *rows, float *const *parts, int64_t count, int64_t width,
    int64_t kernel, int64_t stride)
{
    int64_t r = 0;
    if (stride == 2) {
        for (; r < count; r++)
            if (kernel == 3) correlate_spread(x, rows[r], parts[r], width, 3);
            else correlate_spread(x, rows[r], parts[r], width, 1);
        return;
    }
    for (; kernel == 3 && r + 3 <= count; r += 3) correlate(x, rows + r, parts + r, width, 3, 3);
    for (; r < count; r++)
        if (kernel == 3) correlate(x, rows + r, parts + r, width, 1, 3);
        else correlate(x, rows + r, parts + r, width, 1, 1);
}

/* Adds a fine row to the row of the coarse grid that was repeated `up` times. */
static void gather_row(const float *row, int64_t width, int64_t up, float *to)
{
    for (int64_t w = 0; w < width; w++)
        UNROLL for (int v = 0; v < VECTORS; v++) {
            float *at = to + w / up * CHUNK + v * LANES;
            store(at, load(at) + load(row + w * CHUNK + v * LANES));
        }
}

typedef struct {
    float *ring, *x, *row, *coarse; /* scratch of a worker */
} scratch;

static void backward_task(
    const depthwise *p, const arriving *a, const share *s, const scratch *own, float *gx,
    gradient_sums *sums, float *parts)
{
    const int64_t first = s->chunk * CHUNK, *k = p->kernel, *up = p->in.up;
    const int64_t *stride = p->stride, width = p->fine[2], coarse_width = p->in.size[2];
    const int whole = up[0] * up[1] * up[2] == 1;
    float weight[MAX_TAPS * CHUNK] __attribute__((aligned(64)));
    pack_weight(p, first, 1, weight);
    const affine todo = pending(&p->in, s->n, first);
    const tail end = finishing(&a->norm, s->n, p->first + first, least(CHUNK, p->in.channels - first),
                               a->sums, p->out[0] * p->out[1] * p->out[2]);
    ring r = {.at = own->ring, .planes = k[0], .pad = k[2] / 2, .width = p->out[2] + 2 * (k[2] / 2)};
    r.top = down(s->h[0] - k[1] / 2, stride[1]);
    r.rows = down(s->h[1] - 1 + k[1] / 2, stride[1]) - r.top + 1;
    memset(r.at, 0, (size_t)ring_floats(&r) * sizeof(float));
    const int64_t coarse_rows = parts_of(s->h[1] - s->h[0], up[1]);
    int64_t filled = down(s->d[0] - k[0] / 2, stride[0]);
    for (int64_t d = s->d[0]; d < s->d[1]; d++) {
        const reach along_d = reached(d, k[0], stride[0]);
        for (; filled <= down(d + k[0] / 2, stride[0]); filled++)
            fill_gradient_plane(p, a, &r, s, &end, filled);
        if (!whole && d % up[0] == 0)
            memset(own->coarse, 0, (size_t)(coarse_rows * coarse_width * CHUNK) * sizeof(float));
        for (int64_t h = s->h[0]; h < s->h[1]; h++) {
            const reach along_h = reached(h, k[1], stride[1]);
            const float *rows[9], *weights[9];
            float *part[9];
            int64_t count = 0;
            for (int64_t i = 0; i < along_d.count; i++)
                for (int64_t j = 0; j < along_h.count; j++, count++) {
                    const int64_t tap = (along_d.tap[i] * k[1] + along_h.tap[j]) * k[2] * CHUNK;
                    rows[count] = ring_row(&r, along_d.out[i], along_h.out[j]);
                    weights[count] = weight + tap;
                    part[count] = parts + tap;
                }
            read_row(p, s, &todo, d, h, own->x);
            correlate_rows(own->x, rows, part, count, width, k[2], stride[2]);
            if (!gx) continue;
            if (stride[2] == 1)
                convolve_row(rows, weights, count, width, own->row, k[2], 1);
            else if (k[2] == 3) spread_row(rows, weights, count, width, own->row, 3);
            else spread_row(rows, weights, count, width, own->row, 1);
            const float *x = voxel_row(&p->in, s->n, d, h) + first;
            if (whole)
                write_gradient_row(&p->in, &todo, s->n, first, own->row, x, width, gx + (x - p->in.x), sums);
            else
                gather_row(own->row, width, up[2],
                           own->coarse + (h - s->h[0]) / up[1] * coarse_width * CHUNK);
        }
        if (!gx || whole || (d % up[0] != up[0] - 1 && d + 1 < p->fine[0])) continue;
        for (int64_t h = 0; h < coarse_rows; h++) {
            const float *x = voxel_row(&p->in, s->n, d, s->h[0] + h * up[1]) + first;
            write_gradient_row(&p->in, &todo, s->n, first, own->coarse + h * coarse_width * CHUNK, x,
                               coarse_width, gx + (x - p->in.x), sums);
        }
    }
}

static void add_weight_parts(
    const depthwise *p, const tiling *t, const float *parts, float *gweight)
{
    const int64_t kw = p->kernel[2], taps = p->kernel[0] * p->kernel[1] * kw;
    const int64_t each = t->blocks * t->layers;
    for (int64_t channel = 0; channel < p->in.channels; channel++)
        for (int64_t tap = 0; tap < taps; tap++) {
            const int64_t place = tap / kw * kw + (kw - 1 - tap % kw); /* parts hold W reversed */
            double sum = 0;
            for (int64_t n = 0; n < p->batch; n++)
                for (int64_t i = 0; i < each; i++) {
                    const int64_t task = (n * t->chunks + channel / CHUNK) * each + i;
                    sum += parts[(task * taps + place) * CHUNK + channel % CHUNK];
                }
            gweight[channel * taps + tap] = (float)sum;
        }
}

/* sizes and the first six tensors as in forward; then g; its sums (N, 2, channels of g), u, and mean,
 * rstd, weight of the norm of u (NULL: none was pending). gx (N, D, H, W, C): gradient of the norm of
 * x with sums gsums (N, 2, C), or of x where none was pending; NULL where not wanted. gweight
 * (C, 1, kD, kH, kW). */
int NAME(u2_depthwise_backward)(
    const int64_t *sizes, const float *const *t, float slope, float *gx, float *gsums, float *gweight,
    int64_t threads)
{
    const depthwise p = depthwise_of(sizes, t, slope);
    const arriving a = {.g = t[6], .sums = t[7],
                        .norm = {.x = t[8], .mean = t[9], .rstd = t[10], .weight = t[11],
                                 .channels = p.out_channels}};
    const int64_t width = p.out[2] + 2, taps = p.kernel[0] * p.kernel[1] * p.kernel[2];
    const tiling tiles = tile(p.batch, p.in.channels, p.fine, p.kernel[0] * width * CHUNK * 4);
    const int64_t ring_size = p.kernel[0] * (tiles.rows + 3) * width * CHUNK;
    gradient_sums *sums = calloc((size_t)tiles.tasks, sizeof *sums);
    float *parts = calloc((size_t)(tiles.tasks * taps), CHUNK * sizeof(float));
    int failed = !sums || !parts;
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        const scratch own = {floats(ring_size), floats(p.fine[2] * CHUNK), floats(p.fine[2] * CHUNK),
                             floats(tiles.rows * p.in.size[2] * CHUNK)};
        failed |= !own.ring || !own.x || !own.row || !own.coarse;
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < tiles.tasks; task++) {
            const share s = share_of(&tiles, p.fine, task);
            if (!failed) backward_task(&p, &a, &s, &own, gx, sums + task, parts + task * taps * CHUNK);
        }
        free(own.ring), free(own.x), free(own.row), free(own.coarse);
    }
    const int64_t each = tiles.blocks * tiles.layers, c = p.in.channels;
    if (!failed) add_weight_parts(&p, &tiles, parts, gweight);
    if (!failed && gx && p.in.mean)
        for (int64_t i = 0; i < p.batch * tiles.chunks; i++) {
            const int64_t first = i % tiles.chunks * CHUNK;
            add_gradient_sums(sums + i * each, each, least(CHUNK, c - first),
                              gsums + i / tiles.chunks * 2 * c + first, c);
        }
    free(sums), free(parts);
    return failed;
}
