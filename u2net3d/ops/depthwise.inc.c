/* Weight gradient of a depthwise 3-D convolution, float32, channels-last (N, D, H, W, C).
 *
 * Each of `threads` workers handles a fixed share of the output rows and writes its own part, so
 * that the caller can add the parts in a fixed order.
 */

#define lanes NAME(lanes16)
#define sizes_t NAME(depthwise_sizes)
#define row_lanes NAME(row_lanes)
#define row_scalar NAME(row_scalar)
#define weight_gradient_rows NAME(weight_gradient_rows)

typedef struct {
    int64_t batch, channels, in[3], out[3], kernel[3], stride[3];
} sizes_t;

/* One row of outputs against one row of inputs: sum over w of g[w] * x[w * stride + k - pad]. */
INLINE void row_lanes(
    const float *x, const float *g, float *part, const sizes_t *s, int64_t first)
{
    const int64_t c = s->channels, kernel = s->kernel[2], stride = s->stride[2], pad = kernel / 2;
    const int64_t width_in = s->in[2], width_out = s->out[2];
    lanes sum[3];
    for (int64_t k = 0; k < kernel; k++) sum[k] = *(const lanes *)(part + k * c + first);
    for (int64_t w = 0; w < width_out; w++) {
        const lanes gradient = *(const lanes *)(g + w * c + first);
        const int64_t start = w * stride - pad;
        if (start >= 0 && start + kernel <= width_in) {
            const float *at = x + start * c + first;
            sum[0] += gradient * *(const lanes *)at;
            if (kernel == 3) {
                sum[1] += gradient * *(const lanes *)(at + c);
                sum[2] += gradient * *(const lanes *)(at + 2 * c);
            }
        } else {
            for (int64_t k = 0; k < kernel; k++) {
                const int64_t i = start + k;
                if (i >= 0 && i < width_in) sum[k] += gradient * *(const lanes *)(x + i * c + first);
            }
        }
    }
    for (int64_t k = 0; k < kernel; k++) *(lanes *)(part + k * c + first) = sum[k];
}

static void row_scalar(
    const float *x, const float *g, float *part, const sizes_t *s, int64_t channel)
{
    const int64_t c = s->channels, kernel = s->kernel[2], stride = s->stride[2];
    for (int64_t k = 0; k < kernel; k++) {
        float sum = part[k * c + channel];
        for (int64_t w = 0; w < s->out[2]; w++) {
            const int64_t i = w * stride + k - kernel / 2;
            if (i >= 0 && i < s->in[2]) sum += g[w * c + channel] * x[i * c + channel];
        }
        part[k * c + channel] = sum;
    }
}

static void weight_gradient_rows(
    const float *x, const float *g, float *part, const sizes_t *s, int64_t from, int64_t to)
{
    const int64_t c = s->channels, row_in = s->in[2] * c, row_out = s->out[2] * c;
    for (int64_t row = from; row < to; row++) {
        const int64_t h = row % s->out[1], d = row / s->out[1] % s->out[0];
        const int64_t n = row / (s->out[1] * s->out[0]);
        for (int64_t kd = 0; kd < s->kernel[0]; kd++) {
            const int64_t id = d * s->stride[0] + kd - s->kernel[0] / 2;
            if (id < 0 || id >= s->in[0]) continue;
            for (int64_t kh = 0; kh < s->kernel[1]; kh++) {
                const int64_t ih = h * s->stride[1] + kh - s->kernel[1] / 2;
                if (ih < 0 || ih >= s->in[1]) continue;
                const float *xr = x + ((n * s->in[0] + id) * s->in[1] + ih) * row_in;
                float *tap = part + (kd * s->kernel[1] + kh) * s->kernel[2] * c;
                int64_t first = 0;
                for (; first + LANES <= c; first += LANES)
                    row_lanes(xr, g + row * row_out, tap, s, first);
                for (; first < c; first++) row_scalar(xr, g + row * row_out, tap, s, first);
            }
        }
    }
}

/* parts (threads, kD*kH*kW, C), zeroed by the caller; sizes as sizes_t. */
void NAME(u2_depthwise_weight_gradient)(
    const float *x, const float *g, float *parts, const int64_t *sizes, int64_t threads)
{
    sizes_t s;
    memcpy(&s, sizes, sizeof s);
    const int64_t rows = s.batch * s.out[0] * s.out[1];
    const int64_t part = s.kernel[0] * s.kernel[1] * s.kernel[2] * s.channels;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t t = 0; t < threads; t++)
        weight_gradient_rows(
            x, g, parts + t * part, &s, rows * t / threads, rows * (t + 1) / threads);
}

#undef lanes
#undef sizes_t
#undef row_lanes
#undef row_scalar
#undef weight_gradient_rows
