/* From logits to labels: the first of the largest of K classes, in a plane or between two of them.
 *
 * A cell whose eight corners agree in their largest class needs no interpolation: a linear mean keeps
 * a >= b. Only spans of a row with cells that do not agree are interpolated, all classes of them. */

#define STEP 1024 /* voxels of a plane whose best lies in the first cache */

#ifndef PERMUTE
INLINE vec permuted(vec v, mask index)
{
    vec to;
    UNROLL for (int i = 0; i < LANES; i++) to[i] = v[index[i]];
    return to;
}
#define PERMUTE permuted
#endif

INLINE mask chosen(mask better, mask a, mask b) { return (better & a) | (~better & b); }

/* sizes: K, floats from class to class, voxels. x: the first class. to: uint8 (voxels). */
void NAME(u2_largest)(const int64_t *s, const float *x, uint8_t *to, int64_t threads)
{
    const int64_t classes = s[0], apart = s[1], voxels = s[2];
#pragma omp parallel for num_threads(threads) schedule(dynamic, 8)
    for (int64_t task = 0; task < parts_of(voxels, STEP); task++) {
        const int64_t from = task * STEP, many = least(STEP, voxels - from), even = many / LANES * LANES;
        float best[STEP];
        int32_t which[STEP] = {0};
        memcpy(best, x + from, (size_t)many * sizeof *best);
        for (int64_t k = 1; k < classes; k++) {
            const float *own = x + k * apart + from;
            for (int64_t i = 0; i < even; i += LANES) {
                const vec value = load(own + i), old = load(best + i);
                const mask better = value > old, all = (int32_t)k - (mask){0};
                store(best + i, (vec)chosen(better, (mask)value, (mask)old));
                *(mask *)(which + i) = chosen(better, all, *(const mask *)(which + i));
            }
            for (int64_t i = even; i < many; i++)
                if (own[i] > best[i]) best[i] = own[i], which[i] = (int32_t)k;
        }
        for (int64_t i = 0; i < many; i++) to[from + i] = (uint8_t)which[i];
    }
}

/* Two planes (K, h, w) and a grid (H, W) between them. Outputs of the cell from column c to c + 1 are
 * first[c] to first[c + 1] - 1; y and x hold the lower row or column of an output, y_share and x_share
 * (0 to 1) how far it lies on the way to the next. x and x_share are followed by LANES more. */
typedef struct {
    const float *plane[2];
    const uint8_t *largest[2];
    int64_t classes, apart[2], h, w, rows, columns;
    float share;
    const int32_t *y, *x, *first;
    const float *y_share, *x_share;
} between;

/* The four rows round row y of the output, of class 0, and their weights. */
typedef struct {
    const float *row[4];
    int64_t apart[4];
    float weight[4];
} rows;

static rows rows_round(const between *p, int64_t y)
{
    const int64_t low = p->y[y], high = least(low + 1, p->h - 1), w = p->w;
    const float *a = p->plane[0], *b = p->plane[1];
    const float d = p->share, e = p->y_share[y];
    return (rows){.row = {a + low * w, a + high * w, b + low * w, b + high * w},
                  .apart = {p->apart[0], p->apart[0], p->apart[1], p->apart[1]},
                  .weight = {(1 - d) * (1 - e), (1 - d) * e, d * (1 - e), d * e}};
}

/* Class k at LANES columns from c on. */
INLINE vec columns_from(const rows *r, int64_t k, int64_t c)
{
    vec sum = load(r->row[0] + k * r->apart[0] + c) * r->weight[0];
    UNROLL for (int i = 1; i < 4; i++) sum += load(r->row[i] + k * r->apart[i] + c) * r->weight[i];
    return sum;
}

/* Class k at one column. */
INLINE float column(const rows *r, int64_t k, int64_t c)
{
    float sum = r->row[0][k * r->apart[0] + c] * r->weight[0];
    UNROLL for (int i = 1; i < 4; i++) sum += r->row[i][k * r->apart[i] + c] * r->weight[i];
    return sum;
}

enum reach { FAR, NEAR, CLOSE };

/* Whether the columns round LANES outputs from o on are CLOSE, LANES of the row, NEAR, one more of
 * them, or FAR apart, or at the row's end. */
INLINE enum reach reach_of(const between *p, int64_t o)
{
    const int64_t c = p->x[o];
    if (p->columns < p->w || c + 1 + LANES > p->w) return FAR;
    return p->x[o + LANES - 1] + 1 - c < LANES ? CLOSE : NEAR;
}

/* Class k at LANES outputs from o on. */
INLINE vec outputs_from(const between *p, const rows *r, int64_t k, int64_t o, enum reach reach)
{
    const vec share = load(p->x_share + o);
    vec low, high;
    if (reach == FAR)
        for (int i = 0; i < LANES; i++) {
            low[i] = column(r, k, p->x[o + i]);
            high[i] = column(r, k, least(p->x[o + i] + 1, p->w - 1));
        }
    else {
        const mask index = *(const mask *)(p->x + o) - p->x[o];
        const vec from = columns_from(r, k, p->x[o]);
        low = PERMUTE(from, index);
        if (reach == CLOSE)
            high = PERMUTE(from, index + 1);
        else
            high = PERMUTE(columns_from(r, k, p->x[o] + 1), index);
    }
    return low * (1 - share) + high * share;
}

/* The first of the largest classes at LANES outputs from o on. */
INLINE mask largest_from(const between *p, const rows *r, int64_t o, enum reach reach)
{
    vec best = outputs_from(p, r, 0, o, reach);
    mask which = {0};
    for (int64_t k = 1; k < p->classes; k++) {
        const vec value = outputs_from(p, r, k, o, reach);
        const mask better = value > best, all = (int32_t)k - (mask){0};
        best = (vec)chosen(better, (mask)value, (mask)best);
        which = chosen(better, all, which);
    }
    return which;
}

/* Labels of the outputs of cells begin to end - 1. */
static void interpolate_span(const between *p, const rows *r, int64_t begin, int64_t end, uint8_t *to)
{
    for (int64_t o = p->first[begin]; o < p->first[end]; o += LANES) {
        const enum reach reach = reach_of(p, o);
        const mask which = reach == CLOSE  ? largest_from(p, r, o, CLOSE)
                           : reach == NEAR ? largest_from(p, r, o, NEAR)
                                           : largest_from(p, r, o, FAR);
        const int64_t many = least(LANES, p->first[end] - o);
        for (int64_t i = 0; i < many; i++) to[o + i] = (uint8_t)which[i];
    }
}

/* differs[c]: not 0 where the corners of the cell from column c on have not all one largest class;
 * 8 more bytes are 1. */
static void compare_corners(const between *p, int64_t y, uint8_t *differs)
{
    const int64_t low = p->y[y], high = least(low + 1, p->h - 1), w = p->w;
    const uint8_t *a = p->largest[0] + low * w, *b = p->largest[0] + high * w;
    const uint8_t *c = p->largest[1] + low * w, *d = p->largest[1] + high * w;
    for (int64_t i = 0; i < w; i++)
        differs[i] = (uint8_t)((a[i] ^ b[i]) | (a[i] ^ c[i]) | (a[i] ^ d[i]));
    for (int64_t i = 0; i < w - 1; i++)
        differs[i] = (uint8_t)(differs[i] | differs[i + 1] | (a[i] ^ a[i + 1]));
    memset(differs + w, 1, 8);
}

static void label_row(const between *p, int64_t y, uint8_t *differs, uint8_t *to)
{
    const rows r = rows_round(p, y);
    const uint8_t *corner = p->largest[0] + p->y[y] * p->w;
    compare_corners(p, y, differs);
    for (int64_t c = 0, end; c < p->w; c = end) {
        end = c;
        if (differs[c]) {
            while (end < p->w && differs[end]) end++;
            interpolate_span(p, &r, c, end, to);
            continue;
        }
        for (uint64_t eight = 0; !eight && end < p->w; end += eight ? 0 : 8)
            memcpy(&eight, differs + end, 8);
        while (end < p->w && !differs[end]) end++;
        end = least(end, p->w);
        memset(to + p->first[c], corner[c], (size_t)(p->first[end] - p->first[c]));
    }
}

/* sizes: K, floats from class to class of either plane, h, w, H, W. planes: their first classes.
 * largest: uint8 (h, w) of either. places: y (H), x (W + LANES), first (w + 1). shares: of y, of x.
 * share: how far the output lies on the way to the second plane. to: uint8 (H, W). */
int NAME(u2_labels_between)(
    const int64_t *s, const float *const *planes, const uint8_t *const *largest,
    const int32_t *const *places, const float *const *shares, float share, uint8_t *to, int64_t threads)
{
    const between p = {
        .plane = {planes[0], planes[1]}, .largest = {largest[0], largest[1]}, .classes = s[0],
        .apart = {s[1], s[2]}, .h = s[3], .w = s[4], .rows = s[5], .columns = s[6], .share = share,
        .y = places[0], .x = places[1], .first = places[2], .y_share = shares[0], .x_share = shares[1]};
    int failed = 0;
#pragma omp parallel num_threads(threads)
    {
        uint8_t *differs = malloc((size_t)p.w + 8);
        if (!differs) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic, 8)
        for (int64_t y = 0; y < p.rows; y++)
            if (differs) label_row(&p, y, differs, to + y * p.columns);
        free(differs);
    }
    return failed;
}
