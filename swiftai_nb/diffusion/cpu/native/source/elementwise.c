// Activations and norms: float32 in, float32 out.
#include "kernels.h"

enum { SILU, GELU, GELU_TANH, QUICK_GELU };

INLINE vec activate(vec x, int kind) {
    if (kind == GELU) return gelu_vec(x);
    if (kind == GELU_TANH) return x * sigmoid((x + x * x * x * 0.044715f) * 1.59576912f);  // 2 sqrt(2 / pi)
    return x * sigmoid(kind == QUICK_GELU ? x * 1.702f : x);
}
INLINE void activation_part(const float *x, float *out, long count, int kind) {
    long i = 0;
    for (; i + LANES <= count; i += LANES) store(out + i, activate(load(x + i), kind));
    if (i < count) store_part(out + i, activate(load_part(x + i, count - i), kind), count - i);
}
EXPORT void activation(const float *x, float *out, long count, int kind) {
    if (kind == SILU) activation_part(x, out, count, SILU);
    else if (kind == GELU) activation_part(x, out, count, GELU);
    else if (kind == GELU_TANH) activation_part(x, out, count, GELU_TANH);
    else activation_part(x, out, count, QUICK_GELU);
}
// x [rows, 2 width] -> out [rows, width], the first half times the gelu of the second.
EXPORT void geglu(const float *x, float *out, long rows, long width) {
    for (long i = 0; i < rows; i++)
        for (long c = 0; c < width; c += LANES) {
            const float *value = x + i * 2 * width + c;
            long left = width - c;
            store_up_to(out + i * width + c, load_up_to(value, left) * gelu_vec(load_up_to(value + width, left)), left);
        }
}

// out = (x - mean) / sqrt(variance + eps) * weight + bias by rows; weight and bias may be NULL. root_mean_square: no
// mean is subtracted.
EXPORT void layer_norm(const float *x, const float *weight, const float *bias, float *out, long rows, long channels,
                       float eps, int root_mean_square) {
    long whole = channels / LANES * LANES;
    for (long i = 0; i < rows; i++, x += channels, out += channels) {
        vec sums = {0}, squares = {0};
        float mean = 0, square = 0;
        if (!root_mean_square) {
            for (long c = 0; c < whole; c += LANES) sums += load(x + c);
            for (long c = whole; c < channels; c++) mean += x[c];
            mean = (mean + add_lanes(sums)) / channels;
        }
        for (long c = 0; c < whole; c += LANES) {
            vec difference = load(x + c) - mean;
            squares += difference * difference;
        }
        for (long c = whole; c < channels; c++) square += (x[c] - mean) * (x[c] - mean);
        float factor = 1 / sqrtf((square + add_lanes(squares)) / channels + eps);
        for (long c = 0; c < channels; c += LANES) {
            long left = channels - c;
            vec y = (load_up_to(x + c, left) - mean) * factor;
            if (weight) y *= load_up_to(weight + c, left);
            if (bias) y += load_up_to(bias + c, left);
            store_up_to(out + c, y, left);
        }
    }
}

// Sums and sums of squared differences from their own mean, of each group of neighboring channels over some pixels
// that fit a cache, `stride` floats apart: moments [2][groups]. scratch: channels + LANES floats.
EXPORT void group_moments(const float *x, double *moments, long pixels, long channels, long stride, long groups,
                          float *scratch) {
    long size = channels / groups;
    for (int centered = 0; centered < 2; centered++) {
        for (long c = 0; c < channels; c += LANES) {
            vec sums = {0}, center = centered ? load_up_to(scratch + c, channels - c) : (vec){0};
            for (long i = 0; i < pixels; i++) {
                vec values = load_up_to(x + i * stride + c, channels - c);
                if (centered) values -= center, values *= values;
                sums += values;
            }
            store(scratch + c, sums);
        }
        for (long g = 0; g < groups; g++) {
            double sum = 0;
            for (long c = g * size; c < (g + 1) * size; c++) sum += scratch[c];
            moments[centered * groups + g] = sum;
            for (long c = g * size; c < (g + 1) * size; c++) scratch[c] = (float)(sum / ((double)pixels * size));
        }
        if (!centered) continue;
        // corrects for the rounded center
        for (long g = 0; g < groups; g++) {
            double count = (double)pixels * size, mean = moments[g] / count, error = mean - (double)(float)mean;
            moments[groups + g] -= count * error * error;
        }
    }
}
// The norm of group_apply from the moments of parts, which hold part_pixels each, the last one the rest: moments
// [parts][2][groups]; weight and bias [channels] or NULL. Sums of parts by Chan, Golub and LeVeque.
EXPORT void group_norm_map(const double *moments, const float *weight, const float *bias, float *norm, long parts,
                           long part_pixels, long pixels, long channels, long groups, double eps) {
    long size = channels / groups;
    for (long g = 0; g < groups; g++) {
        double sum = 0, spread = 0, count = (double)pixels * size;
        for (long i = 0; i < parts; i++) sum += moments[2 * i * groups + g];
        double mean = sum / count;
        for (long i = 0; i < parts; i++) {
            double here = (double)least(part_pixels, pixels - i * part_pixels) * size;
            double difference = moments[2 * i * groups + g] / here - mean;
            spread += moments[(2 * i + 1) * groups + g] + here * difference * difference;
        }
        double deviation = sqrt(spread / count + eps);
        for (long c = g * size; c < (g + 1) * size; c++) {
            norm[c] = (float)mean;
            norm[channels + c] = (float)((weight ? weight[c] : 1) / deviation);
            norm[2 * channels + c] = (float)((bias ? bias[c] : 0) - (mean - norm[c]) * norm[channels + c]);
        }
    }
}
// out = (x - norm[0]) * norm[1] + norm[2] by channels, then its silu if asked; norm: [3, channels].
// Pixels of x are `stride` floats apart.
EXPORT void group_apply(const float *x, const float *norm, float *out, long pixels, long channels, long stride, int silu) {
    const float *scales = norm + channels, *shifts = scales + channels;
    for (long i = 0; i < pixels; i++)
        for (long c = 0; c < channels; c += LANES) {
            long left = channels - c;
            vec value = load_up_to(x + i * stride + c, left), center = load_up_to(norm + c, left);
            vec scale = load_up_to(scales + c, left), shift = load_up_to(shifts + c, left);
            vec y = silu ? normalized_silu(value, center, scale, shift) : (value - center) * scale + shift;
            store_up_to(out + i * channels + c, y, left);
        }
}
