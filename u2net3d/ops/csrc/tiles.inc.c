/* Joining tiles: a patch of logits times its weights is added to the sums of a volume. */

#define ROW 512 /* voxels of a product's buffer */

/* sizes: K, d, h, w of the patch; floats from class to class, slice to slice, row to row, voxel to
 * voxel of the logits; of the sums, whose voxels are dense. weight (d, h, w). The product is rounded
 * before it is added (two loops), as torch does it: the sums have the same bits. */
void NAME(u2_add_tile)(
    const int64_t *s, const float *logits, const float *weight, float *sums, int64_t threads)
{
    const int64_t *from = s + 4, *to = s + 8, height = s[2], width = s[3];
#pragma omp parallel for num_threads(threads) schedule(dynamic, 8)
    for (int64_t row = 0; row < s[1] * height; row++) {
        const int64_t d = row / height, h = row % height;
        const float *share = weight + row * width;
        for (int64_t k = 0; k < s[0]; k++) {
            const float *x = logits + k * from[0] + d * from[1] + h * from[2];
            float *sum = sums + k * to[0] + d * to[1] + h * to[2];
            for (int64_t begin = 0; begin < width; begin += ROW) {
                const int64_t end = least(width, begin + ROW);
                float product[ROW];
                if (from[3] == 1)
                    for (int64_t w = begin; w < end; w++) product[w - begin] = x[w] * share[w];
                else
                    for (int64_t w = begin; w < end; w++) product[w - begin] = x[w * from[3]] * share[w];
                for (int64_t w = begin; w < end; w++) sum[w] += product[w - begin];
            }
        }
    }
}
