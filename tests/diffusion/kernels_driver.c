// Compares every kernel with a naive computation in double precision, over odd shapes: for processors and sanitizers
// under which no Python runs. tests/diffusion/test_kernels_driver.py runs it.
#include <stdio.h>
#include <stdlib.h>

#include "kernels.h"

void linear(const float *, const void *, int, const float *, const float *, float *, long, long, long, long, long, long,
            long, int, int, void *, const int *);
void linear_few(const float *, const void *, int, const float *, float *, long, long, long, long, long);
void conv(const float *, const void *, int, const float *, const float *, const float *, float *, long, long, long, long,
          long, long, long, long, long, long, long, long, int, void *, const int *);
void winograd_input(const float *, const float *, void *, long, long, long, long, int, long, long, int, int);
void winograd_kernel(const void *, int, void *, long, long, long, long, int, int);
void winograd_product(const void *, const void *, const float *, const float *, const float *, float *, long, long, long,
                      long, long, long, long, long, long, int, int, float *, const int *);
void attention_pack(const float *, const float *, long, long, long, long, long, void *, void *, int);
void attend(const float *, const void *, const void *, const float *, float *, long, long, long, long, long, long, long,
            long, float, int, float *, const int *);
void activation(const float *, float *, long, int);
void geglu(const float *, float *, long, long);
void layer_norm(const float *, const float *, const float *, float *, long, long, float, int);
void group_moments(const float *, double *, long, long, long, long, float *);
void group_norm_map(const double *, const float *, const float *, float *, long, long, long, long, long, double);
void group_apply(const float *, const float *, float *, long, long, long, int);

static uint64_t state = 1;
static int failures, comparisons;

static double uniform(void) {  // xorshift64*, in (-1, 1)
    state ^= state >> 12, state ^= state << 25, state ^= state >> 27;
    return (double)(int64_t)(state * 2685821657736338717ull) / 9.3e18;
}
static long within(long from, long to) { return from + (long)((uniform() + 1) / 2 * (to - from + 1)) % (to - from + 1); }
// Exactly so large, on a cache line: a sanitizer sees what is read or written beyond.
static void *space(long size_bytes) {
    void *memory;
    if (posix_memalign(&memory, 64, size_bytes > 0 ? size_bytes : 1)) abort();
    memset(memory, 0xff, size_bytes);  // NaN: what is used without having been written shows
    return memory;
}
static float *normal(long count) {
    float *values = space(4 * count);
    for (long i = 0; i < count; i++) values[i] = (float)(uniform() + uniform() + uniform());
    return values;
}
// Weights as stored in one of the three dtypes; `values` become what they hold.
static void *stored(float *values, long count, int kind) {
    if (kind == FLOAT32) return memcpy(space(4 * count), values, 4 * count);
    uint16_t *words = space(2 * count);
    for (long i = 0; i < count; i++) {
        uint32_t bits;
        values[i] = (float)(int)(values[i] * 64) / 64;  // exact in every dtype
        memcpy(&bits, values + i, 4);
        int exponent = (bits >> 23 & 255) - 112;
        uint32_t half = bits >> 16 & 0x8000;
        if (exponent > 0) half |= exponent << 10 | (bits >> 13 & 0x3ff);
        words[i] = kind == BFLOAT16 ? bits >> 16 : half;
    }
    return words;
}
static void compare(const char *name, const float *found, const double *expected, long count, double tolerance) {
    double largest = 1e-30, difference = 0;
    for (long i = 0; i < count; i++) {
        double d = fabs(found[i] - expected[i]);
        if (fabs(expected[i]) > largest) largest = fabs(expected[i]);
        if (!(d <= difference)) difference = d;
    }
    comparisons++;
    if (difference <= tolerance * largest) return;
    printf("%s differs: %g of %g, %ld values\n", name, difference, largest, count);
    failures++;
}
static double exact_gelu(double x) { return x / 2 * erfc(-x / sqrt(2)); }
static double tolerance_of(int half) { return half ? 2e-2 : 1e-5; }

static void check_linear(int half) {
    long rows = within(1, 30), inner = within(1, 100), width = within(1, 90);
    int kind = within(0, 2), gated = within(0, 1), with_bias = within(0, 1), with_addend = within(0, 1);
    long outputs = gated ? 2 * width : width, step = gated ? WIDTH / 2 : WIDTH, panels = (width + step - 1) / step;
    float *x = normal(rows * inner), *weight = normal(outputs * inner), *bias = normal(outputs);
    float *addend = normal(rows * width), *out = space(4 * rows * width);
    double *expected = space(8 * rows * width);
    void *weights = stored(weight, outputs * inner, kind);
    for (long i = 0; i < rows; i++)
        for (long n = 0; n < width; n++) {
            double sums[2] = {0};
            for (int part = 0; part <= gated; part++) {
                for (long k = 0; k < inner; k++)
                    sums[part] += (double)x[i * inner + k] * weight[(n + part * width) * inner + k];
                if (with_bias) sums[part] += bias[n + part * width];
            }
            double value = gated ? sums[0] * exact_gelu(sums[1]) : sums[0];
            expected[i * width + n] = value + (with_addend ? addend[i * width + n] : 0);
        }
    // in four parts, as workers share them
    void *scratch = space(element_size(half) * padded(inner, half) * (WIDTH + (half ? rows : 0)));
    for (int part = 0; part < 4; part++)
        linear(x, weights, kind, with_bias ? bias : NULL, with_addend ? addend : NULL, out, inner, outputs, width,
               part % 2 ? rows / 2 : 0, part % 2 ? rows : rows / 2, part / 2 ? panels / 2 : 0,
               part / 2 ? panels : panels / 2, half, gated, scratch, NULL);
    compare(gated ? "linear, gated" : "linear", out, expected, rows * width, tolerance_of(half));
    if (!gated && !with_addend) {
        linear_few(x, weights, kind, with_bias ? bias : NULL, out, rows, inner, outputs, 0, outputs);
        compare("linear_few", out, expected, rows * width, 1e-5);
    }
    void *all[] = {x, weight, bias, addend, out, expected, weights, scratch};
    for (int i = 0; i < 8; i++) free(all[i]);
}

static void check_convolution(int m, int half) {  // m: Winograd's tiles; 0 is the direct kernel
    int doubled = m ? within(0, 1) : 0, normalized = m ? within(0, 1) : 0;
    long batch = m ? within(1, 2) : 1, height = within(5, 15), width = within(5, 15), channels = within(1, 40);
    if (doubled) height = height / 2 * 2, width = width / 2 * 2;
    float *norm = normal(batch * 3 * channels);
    long outputs = within(1, 80), kernel = m ? 3 : within(0, 2) * 2 + 1, stride = m ? 1 : within(1, 2);
    long padding = m ? 1 : within(0, kernel / 2), panels = (outputs + WIDTH - 1) / WIDTH;
    long down = (height + 2 * padding - kernel) / stride + 1, across = (width + 2 * padding - kernel) / stride + 1;
    long count = batch * down * across * outputs, taps = kernel * kernel, length = padded(channels, half);
    int kind = within(0, 2);
    float *x = normal(batch * height * width * channels), *weight = normal(outputs * taps * channels);
    float *bias = normal(outputs), *more = normal(batch * outputs), *addend = normal(count), *out = space(4 * count);
    double *expected = space(8 * count);
    void *weights = stored(weight, outputs * taps * channels, kind);
    for (long at = 0; at < count; at++) {
        long n = at % outputs, j = at / outputs % across, i = at / outputs / across % down;
        long b = at / outputs / across / down;
        double sum = (double)bias[n] + more[b * outputs + n] + addend[at];
        for (long tap = 0; tap < taps; tap++) {
            long row = i * stride - padding + tap / kernel, column = j * stride - padding + tap % kernel;
            if (row < 0 || row >= height || column < 0 || column >= width) continue;
            for (long c = 0; c < channels; c++) {
                long pixel = (b * height + row) * width + column;
                if (doubled) pixel = (b * height / 2 + row / 2) * (width / 2) + column / 2;
                const float *maps = norm + b * 3 * channels + c;
                double value = x[pixel * channels + c];
                if (normalized) {
                    value = (value - maps[0]) * maps[channels] + maps[2 * channels];
                    value /= 1 + exp(-value);
                }
                sum += value * weight[(n * taps + tap) * channels + c];
            }
        }
        expected[at] = sum;
    }
    if (!m) {
        long middle = down / 2;
        void *scratch =
            space(element_size(half) * length *
                  (taps * WIDTH + ((down - middle - 1) * stride + kernel) * (width + 2 * padding)));
        for (int part = 0; part < 4; part++) {
            long from = part % 2 ? middle : 0, to = part % 2 ? down : middle;
            if (from < to)
                conv(x, weights, kind, bias, more, addend, out, height, width, channels, outputs, kernel, stride,
                     padding, across, from, to, part / 2 ? panels / 2 : 0, part / 2 ? panels : panels / 2, half,
                     scratch, NULL);
        }
        free(scratch);
    } else {
        long tiles = batch * ((height + m - 1) / m) * ((width + m - 1) / m), positions = (m + 2) * (m + 2);
        long together = m == 2 ? 48 : 24, size = element_size(half) * positions * length;
        void *block = space(size * together), *panel = space(size * WIDTH * panels);
        float *products = space(4 * positions * together * WIDTH);
        winograd_kernel(weights, kind, panel, channels, outputs, 0, panels, m, half);
        for (long from = 0; from < tiles; from += together) {
            long to = least(from + together, tiles);
            winograd_input(x, normalized ? norm : NULL, block, height, width, channels, channels, doubled, from, to, m,
                           half);
            winograd_product(block, panel, bias, more, addend, out, height, width, channels, outputs, outputs, from,
                             to, 0, panels, m, half, products, NULL);
        }
        free(block), free(panel), free(products);
    }
    compare(m == 4 ? "winograd 4" : m ? "winograd 2" : "conv", out, expected, count, tolerance_of(half));
    void *all[] = {x, weight, bias, more, addend, out, expected, weights};
    for (int i = 0; i < 8; i++) free(all[i]);
    free(norm);
}

static void check_attention(int half) {
    long rows = within(1, 130), keys = within(1, 700), width = within(1, 90), value_width = within(1, 90);
    int masked = within(0, 1);
    long all_keys = (keys + WIDTH - 1) / WIDTH * WIDTH, wide = (value_width + WIDTH - 1) / WIDTH * WIDTH;
    float *q = normal(rows * width), *k = normal(keys * width), *v = normal(keys * value_width);
    float *mask = normal(rows * keys), *out = space(4 * rows * value_width), scale = 1 / sqrtf(width);
    double *expected = space(8 * rows * value_width), *weights = space(8 * keys);
    for (long i = 0; i < rows; i++) {
        double sum = 0;
        for (long s = 0; s < keys; s++) {
            double score = 0;
            for (long d = 0; d < width; d++) score += (double)q[i * width + d] * k[s * width + d];
            sum += weights[s] = exp(score * scale + (masked ? mask[i * keys + s] : 0));
        }
        for (long d = 0; d < value_width; d++) {
            double value = 0;
            for (long s = 0; s < keys; s++) value += weights[s] * v[s * value_width + d];
            expected[i * value_width + d] = value / sum;
        }
    }
    long size = element_size(half);
    void *packed_keys = space(size * all_keys * padded(width, half)), *packed_values = space(size * all_keys * wide);
    float *scratch = space(4 * 96 * (2 * 512 + wide + width + width % 2));
    attention_pack(k, v, width, value_width, keys, width, value_width, packed_keys, packed_values, half);
    for (int part = 0; part < 2; part++)
        attend(q, packed_keys, packed_values, masked ? mask : NULL, out, width, keys, value_width,
               part ? rows / 2 : 0, part ? rows : rows / 2, keys, width, value_width, scale, half, scratch, NULL);
    compare("attention", out, expected, rows * value_width, 3 * tolerance_of(half));
    void *all[] = {q, k, v, mask, out, expected, weights, packed_keys, packed_values, scratch};
    for (int i = 0; i < 10; i++) free(all[i]);
}

static void check_elementwise(void) {
    long rows = within(1, 20), width = within(2, 90), count = rows * width;
    float *x = normal(2 * count), *weight = normal(width), *bias = normal(width), *out = space(4 * count);
    double *expected = space(8 * count);
    static const char *names[] = {"silu", "gelu", "gelu_tanh", "quick_gelu"};
    for (int kind = 0; kind < 4; kind++) {
        for (long i = 0; i < count; i++) {
            double v = x[i], tanh_of = tanh(sqrt(2 / 3.14159265358979) * (v + 0.044715 * v * v * v));
            double values[] = {v / (1 + exp(-v)), exact_gelu(v), v / 2 * (1 + tanh_of), v / (1 + exp(-1.702 * v))};
            expected[i] = values[kind];
        }
        activation(x, out, count, kind);
        compare(names[kind], out, expected, count, 1e-5);
    }
    for (long i = 0; i < count; i++) {
        const float *pair = x + i / width * 2 * width + i % width;
        expected[i] = pair[0] * exact_gelu(pair[width]);
    }
    geglu(x, out, rows, width);
    compare("geglu", out, expected, count, 1e-5);
    for (int plain = 0; plain < 2; plain++) {
        for (long i = 0; i < rows; i++) {
            double mean = 0, square = 0;
            for (long c = 0; c < width; c++) mean += plain ? 0 : (double)x[i * width + c] / width;
            for (long c = 0; c < width; c++) square += (x[i * width + c] - mean) * (x[i * width + c] - mean) / width;
            for (long c = 0; c < width; c++)
                expected[i * width + c] = (x[i * width + c] - mean) / sqrt(square + 1e-5) * weight[c] + bias[c];
        }
        layer_norm(x, weight, bias, out, rows, width, 1e-5f, plain);
        compare(plain ? "rms_norm" : "layer_norm", out, expected, count, 1e-5);
    }
    long groups = width % 3 ? width % 2 ? 1 : 2 : 3, size = width / groups;
    double *moments = space(8 * 2 * groups), *exact = space(8 * 2 * groups);
    float *found = space(4 * 2 * groups), *scratch = space(4 * (width + LANES));
    for (long g = 0; g < groups; g++) {
        double sum = 0, squares = 0;
        for (long i = 0; i < rows * size; i++) sum += x[i / size * width + g * size + i % size];
        for (long i = 0; i < rows * size; i++) {
            double d = x[i / size * width + g * size + i % size] - sum / (rows * size);
            squares += d * d;
        }
        exact[g] = sum, exact[groups + g] = squares;
    }
    group_moments(x, moments, rows, width, width, groups, scratch);
    for (long g = 0; g < 2 * groups; g++) found[g] = (float)moments[g];
    compare("group_moments", found, exact, 2 * groups, 1e-5);
    float *norm = space(4 * 3 * width);  // center, scale, shift
    for (long c = 0; c < width; c++) norm[c] = norm[2 * width + c] = bias[c], norm[width + c] = weight[c];
    for (int silu = 0; silu < 2; silu++) {
        for (long i = 0; i < count; i++) {
            double y = ((double)x[i] - bias[i % width]) * weight[i % width] + bias[i % width];
            expected[i] = silu ? y / (1 + exp(-y)) : y;
        }
        group_apply(x, norm, out, rows, width, width, silu);
        compare("group_apply", out, expected, count, 1e-5);
    }
    long part = (rows + 1) / 2, parts = rows > part ? 2 : 1;
    double *in_parts = space(8 * 4 * groups);
    group_moments(x, in_parts, part, width, width, groups, scratch);
    if (parts > 1) group_moments(x + part * width, in_parts + 2 * groups, rows - part, width, width, groups, scratch);
    group_norm_map(in_parts, weight, bias, norm, parts, part, rows, width, groups, 1e-5);
    group_apply(x, norm, out, rows, width, width, 0);
    for (long i = 0; i < count; i++) {
        long g = i % width / size;
        double n = (double)rows * size, difference = x[i] - exact[g] / n;
        expected[i] = difference / sqrt(exact[groups + g] / n + 1e-5) * weight[i % width] + bias[i % width];
    }
    compare("group_norm_map", out, expected, count, 1e-5);
    void *all[] = {x, weight, bias, out, expected, moments, exact, found, scratch, norm, in_parts};
    for (int i = 0; i < 11; i++) free(all[i]);
}

int main(int count, char **arguments) {
    int rounds = count > 1 ? atoi(arguments[1]) : 20;
    for (int round = 0; round < rounds; round++)
        for (int half = 0; half <= HALF_PRODUCTS; half++) {
            check_linear(half);
            check_convolution(0, half);
            check_convolution(2, half);
            if (!half) check_convolution(4, 0), check_elementwise();
            check_attention(half);
        }
    printf("%d comparisons, %d differ\n", comparisons, failures);
    return failures > 0;
}
