/* Resampling: a new voxel is a weighted mean of a few neighbours along D, H and W.
 *
 * It is computed as base + sum w (x - base), base being the neighbour that the new centre lies in:
 * where all neighbours are equal the result is exactly that value. A task makes the new voxels of a
 * few rows and slices; what lies between the axes stays in the second cache. */

#define SLAB_BYTES (128 * 1024) /* of old rows in a task */
#define SLAB_SLICES 16          /* new slices of a task: they share old ones */

/* Where the `size` new voxels of a line lie among its `old` ones: `many` neighbours from first[o] on
 * with their weights, the base being first[o] + middle[o]. many 0: the line stays as it is. */
typedef struct {
    int64_t old, size, many;
    const int32_t *first, *middle;
    const float *weight;
} line;

typedef struct {
    line d, h, w;
    const float *x, *range;
    float *to;
} volume;

/* The neighbours of one new voxel: `apart` floats from one to the next. */
typedef struct {
    const float *first, *base, *weight;
    int64_t many, apart;
} neighbours;

static neighbours neighbours_of(const line *l, int64_t o, const float *first, int64_t apart)
{
    return (neighbours){first, first + l->middle[o] * apart, l->weight + o * l->many, l->many, apart};
}

/* The mean of rows at `vectors` vectors from i on. */
INLINE void mean_vectors(const neighbours *n, int64_t i, float *to, const int vectors)
{
    vec base[4], sum[4];
    UNROLL for (int v = 0; v < vectors; v++) base[v] = load(n->base + i + v * LANES), sum[v] = (vec){0};
    for (int64_t t = 0; t < n->many; t++)
        UNROLL for (int v = 0; v < vectors; v++)
            sum[v] += (load(n->first + t * n->apart + i + v * LANES) - base[v]) * n->weight[t];
    UNROLL for (int v = 0; v < vectors; v++) store(to + i + v * LANES, base[v] + sum[v]);
}

/* The mean of rows of `width` floats. */
static void mean_rows(neighbours n, int64_t width, float *to)
{
    int64_t i = 0;
    for (; i + 4 * LANES <= width; i += 4 * LANES) mean_vectors(&n, i, to, 4);
    for (; i + LANES <= width; i += LANES) mean_vectors(&n, i, to, 1);
    for (; i < width; i++) {
        float sum = 0;
        for (int64_t t = 0; t < n.many; t++)
            sum += (n.first[t * n.apart + i] - n.base[i]) * n.weight[t];
        to[i] = n.base[i] + sum;
    }
}

/* Rows along W, LANES at a time as the columns of a turned copy. turned: LANES * (old + size). */
static void resample_lines(const line *w, const float *x, int64_t rows, float *to, float *turned)
{
    float *made = turned + LANES * w->old;
    for (int64_t row = 0; row < rows; row += LANES) {
        const int64_t many = least(LANES, rows - row);
        for (int64_t r = 0; r < LANES; r++) {
            const float *from = x + (row + least(r, many - 1)) * w->old;
            for (int64_t i = 0; i < w->old; i++) turned[i * LANES + r] = from[i];
        }
        for (int64_t o = 0; o < w->size; o++) {
            const neighbours n = neighbours_of(w, o, turned + w->first[o] * LANES, LANES);
            mean_vectors(&n, 0, made + o * LANES, 1);
        }
        for (int64_t r = 0; r < many; r++)
            for (int64_t o = 0; o < w->size; o++) to[(row + r) * w->size + o] = made[o * LANES + r];
    }
}

/* New rows begin to end - 1 of a slice whose rows lie from old row `from` on at x. */
static void resample_rows(
    const line *h, const float *x, int64_t from, int64_t begin, int64_t end, int64_t width, float *to)
{
    for (int64_t o = begin; o < end; o++, to += width)
        mean_rows(neighbours_of(h, o, x + (h->first[o] - from) * width, width), width, to);
}

static void keep_within(const float *range, int64_t many, float *x)
{
    const float low = range[0], high = range[1];
    for (int64_t i = 0; i < many; i++) {
        const float raised = x[i] < low ? low : x[i];
        x[i] = raised > high ? high : raised;
    }
}

INLINE int64_t old_begin(const line *h, int64_t o) { return h->many ? h->first[o] : o; }
INLINE int64_t old_end(const line *h, int64_t o) { return h->many ? h->first[o - 1] + h->many : o; }

/* New rows `begin` to `end` - 1 of slice d of channel c. scratch: along D, between H and W, turned. */
static void resample_slice(
    const volume *p, int64_t c, int64_t d, int64_t begin, int64_t end, float *const *scratch)
{
    const line *h = &p->h, *w = &p->w;
    const int64_t from = old_begin(h, begin), rows = old_end(h, end) - from, new_rows = end - begin;
    const int64_t plane = h->old * w->old;
    const float *x = p->x + c * p->d.old * plane + from * w->old;
    float *to = p->to + ((c * p->d.size + d) * h->size + begin) * w->size;
    if (p->d.many) {
        float *into = h->many || w->many ? scratch[0] : to;
        mean_rows(neighbours_of(&p->d, d, x + p->d.first[d] * plane, plane), rows * w->old, into);
        x = into;
    } else
        x += d * plane;
    if (h->many && w->many && h->size < h->old) {
        resample_rows(h, x, from, begin, end, w->old, scratch[1]);
        resample_lines(w, scratch[1], new_rows, to, scratch[2]);
    } else {
        if (w->many) {
            float *into = h->many ? scratch[1] : to;
            resample_lines(w, x, rows, into, scratch[2]);
            x = into;
        }
        if (h->many) resample_rows(h, x, from, begin, end, w->size, to);
    }
    if (p->range) keep_within(p->range + 2 * c, new_rows * w->size, to);
}

/* sizes: C; old and new size and neighbours along D, H, W. places: first and middle along D, H, W.
 * range: lowest and highest of each channel (C, 2), what is beyond is set to it; or NULL. */
int NAME(u2_resample)(
    const int64_t *s, const float *x, const int32_t *const *places, const float *const *weights,
    const float *range, float *to, int64_t threads)
{
    const volume p = {.d = {s[1], s[2], s[3], places[0], places[1], weights[0]},
                      .h = {s[4], s[5], s[6], places[2], places[3], weights[1]},
                      .w = {s[7], s[8], s[9], places[4], places[5], weights[2]},
                      .x = x, .range = range, .to = to};
    const int64_t wide = most(p.w.old, p.w.size);
    const int64_t old_rows = most(8, SLAB_BYTES / 4 / p.w.old);
    const int64_t rows = least(p.h.size, most(8, old_rows * p.h.size / p.h.old));
    const int64_t bands = parts_of(p.h.size, rows), slabs = parts_of(p.d.size, SLAB_SLICES);
    int64_t most_rows = rows;
    for (int64_t begin = 0; begin < p.h.size; begin += rows) {
        const int64_t end = least(p.h.size, begin + rows);
        most_rows = most(most_rows, old_end(&p.h, end) - old_begin(&p.h, begin));
    }
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        float *const scratch[3] = {floats(most_rows * wide), floats(most_rows * wide),
                                   floats(LANES * (p.w.old + p.w.size))};
        const int all = scratch[0] && scratch[1] && scratch[2];
        failed |= !all;
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < s[0] * slabs * bands; task++) {
            const int64_t begin = task % bands * rows, end = least(p.h.size, begin + rows);
            const int64_t from = task / bands % slabs * SLAB_SLICES, c = task / bands / slabs;
            for (int64_t d = from; all && d < least(p.d.size, from + SLAB_SLICES); d++)
                resample_slice(&p, c, d, begin, end, scratch);
        }
        for (int i = 0; i < 3; i++) free(scratch[i]);
    }
    return failed;
}

#define RANGE_STEP 16384 /* voxels whose extremes are found at a time; a multiple of LANES */

/* sizes: C, voxels. range: lowest and highest of each channel (C, 2). */
void NAME(u2_range)(const int64_t *s, const float *x, float *range, int64_t threads)
{
    for (int64_t c = 0; c < s[0]; c++) {
        const float *own = x + c * s[1];
        float lowest = own[0], highest = own[0];
#pragma omp parallel for num_threads(threads) reduction(min : lowest) reduction(max : highest)
        for (int64_t begin = 0; begin < s[1]; begin += RANGE_STEP) {
            const int64_t end = least(s[1], begin + RANGE_STEP);
            vec low = own[begin] - (vec){0}, high = low;
            int64_t i = begin;
            for (; i + LANES <= end; i += LANES) {
                const vec value = load(own + i);
                low = (vec)chosen(value < low, (mask)value, (mask)low);
                high = (vec)chosen(value > high, (mask)value, (mask)high);
            }
            for (int v = 0; v < LANES; v++) {
                lowest = low[v] < lowest ? low[v] : lowest;
                highest = high[v] > highest ? high[v] : highest;
            }
            for (; i < end; i++) {
                lowest = own[i] < lowest ? own[i] : lowest;
                highest = own[i] > highest ? own[i] : highest;
            }
        }
        range[2 * c] = lowest, range[2 * c + 1] = highest;
    }
}
