// Convolutions of 3x3 kernels with stride and padding 1 by Winograd's F(m x m, 3x3), m being 2 or 4: the points
// are 0, infinity, and +-1 (m = 2) or +-2/3, +-3/2 (m = 4).
//
// Tiles of m x m outputs are numbered through the batch. Blocks of at most tile_count(m) of them are held as
// [(m + 2)^2][tile_count][channels], a panel's kernels as [(m + 2)^2][channels][WIDTH].
#include "kernels.h"

#define A (2.0f / 3)
#define B (3.0f / 2)

INLINE long tile_count(int m) { return m == 2 ? 48 : 24; }

INLINE void transform_input(const vec d[6], vec out[6], int m) {
    if (m == 2) {
        out[0] = d[0] - d[2], out[1] = d[1] + d[2], out[2] = d[2] - d[1], out[3] = d[1] - d[3];
        return;
    }
    vec even = d[4] - d[2] * (B * B), odd = (d[3] - d[1] * (B * B)) * A;
    out[1] = even + odd, out[2] = even - odd;
    even = d[4] - d[2] * (A * A), odd = (d[3] - d[1] * (A * A)) * B;
    out[3] = even + odd, out[4] = even - odd;
    out[0] = d[0] - d[2] * (A * A + B * B) + d[4];
    out[5] = d[1] - d[3] * (A * A + B * B) + d[5];
}
INLINE void transform_kernel(vec g0, vec g1, vec g2, vec out[6], int m) {
    if (m == 2) {
        vec even = (g0 + g2) * 0.5f, odd = g1 * 0.5f;
        out[0] = g0, out[1] = even + odd, out[2] = even - odd, out[3] = g2;
        return;
    }
    // (1, p, p^2) over the product of p's distances to the other finite points
    const float a = 1 / (2 * A * A * (A * A - B * B)), b = 1 / (2 * B * B * (B * B - A * A));
    vec even = (g0 + g2 * (A * A)) * a, odd = g1 * (A * a);
    out[1] = even + odd, out[2] = even - odd;
    even = (g0 + g2 * (B * B)) * b, odd = g1 * (B * b);
    out[3] = even + odd, out[4] = even - odd;
    out[0] = g0, out[5] = g2;  // (A B)^2 is 1
}
INLINE void transform_output(const vec p[6], vec out[4], int m) {
    if (m == 2) {
        out[0] = p[0] + p[1] + p[2], out[1] = p[1] - p[2] - p[3];
        return;
    }
    vec sum_a = p[1] + p[2], difference_a = p[1] - p[2], sum_b = p[3] + p[4], difference_b = p[3] - p[4];
    out[0] = p[0] + sum_a + sum_b;
    out[1] = difference_a * A + difference_b * B;
    out[2] = sum_a * (A * A) + sum_b * (B * B);
    out[3] = difference_a * (A * A * A) + difference_b * (B * B * B) + p[5];
}

// One tile's inputs from channel c on, transformed: n x n vectors. norm: see winograd_input.
INLINE void input_tile(const float *x, const float *norm, long height, long width, long channels, long stride,
                       int doubled, long y, long x0, long c, vec out[36], int m) {
    int n = m + 2;
    vec columns[36], center = {0}, scale = {0}, shift = {0};
    long left = channels - c, row_length = doubled ? width / 2 : width;
    if (norm && left > 0) {
        center = load_up_to(norm + c, left);
        scale = load_up_to(norm + channels + c, left), shift = load_up_to(norm + 2 * channels + c, left);
    }
    _Pragma("GCC unroll 6") for (int j = 0; j < n; j++) {
        vec d[6];
        for (int i = 0; i < n; i++) {
            long row = y + i, column = x0 + j, inside = row >= 0 && row < height && column >= 0 && column < width;
            if (!inside || left <= 0) {
                d[i] = (vec){0};
                continue;
            }
            if (doubled) row /= 2, column /= 2;
            vec value = load_up_to(x + (row * row_length + column) * stride + c, left);
            d[i] = norm ? normalized_silu(value, center, scale, shift) : value;
        }
        vec t[6];
        transform_input(d, t, m);
        for (int i = 0; i < n; i++) columns[i * n + j] = t[i];
    }
    _Pragma("GCC unroll 6") for (int i = 0; i < n; i++) transform_input(columns + i * n, out + i * n, m);
}
INLINE void input_part(const float *x, const float *norm, void *block, long height, long width, long channels,
                       long stride, int doubled, long tile_from, long tile_to, int m, int half) {
    int positions = (m + 2) * (m + 2);
    long across = (width + m - 1) / m, down = (height + m - 1) / m, length = padded(channels, half);
    long step = half ? 2 * LANES : LANES;
    for (long tile = tile_from; tile < tile_to; tile++) {
        long image = tile / (across * down), pixels = height * width;
        const float *picture = x + image * (doubled ? pixels / 4 : pixels) * stride;
        const float *of_picture = norm ? norm + image * 3 * channels : NULL;
        long y = tile / across % down * m - 1, x0 = tile % across * m - 1;
        for (long c = 0; c < channels; c += step) {
            vec low[36], high[36];
            input_tile(picture, of_picture, height, width, channels, stride, doubled, y, x0, c, low, m);
            if (half) input_tile(picture, of_picture, height, width, channels, stride, doubled, y, x0, c + LANES, high, m);
            for (int e = 0; e < positions; e++) {
                char *to = (char *)block + ((e * tile_count(m) + tile - tile_from) * length + c) * element_size(half);
                vec values = half ? round_pairs(low[e], high[e]) : low[e];
                if (channels - c >= step) memcpy(to, &values, sizeof values);
                else memcpy(to, &values, (length - c) * element_size(half));
            }
        }
    }
}
// Tiles tile_from ... tile_to of x [batch, height, width, channels], pixels `stride` floats apart -> block.
// norm: [batch, 3, channels] or NULL; the input is then the silu of (x - norm[0]) * norm[1] + norm[2].
// doubled: x is [batch, height / 2, width / 2, channels], and each of its pixels stands for four.
EXPORT void winograd_input(const float *x, const float *norm, void *block, long height, long width, long channels,
                           long stride, int doubled, long tile_from, long tile_to, int m, int half) {
#define PART(norm_, m_, h) \
    input_part(x, norm_, block, height, width, channels, stride, doubled, tile_from, tile_to, m_, h)
    if (m == 4) norm ? PART(norm, 4, 0) : PART(NULL, 4, 0);
    else if (half && HALF_PRODUCTS) norm ? PART(norm, 2, 1) : PART(NULL, 2, 1);
    else norm ? PART(norm, 2, 0) : PART(NULL, 2, 0);
#undef PART
}

// One kernel's channels from c on, transformed.
INLINE void kernel_tile(const void *weight, int kind, long output, long channels, long c, vec out[36], int m) {
    int n = m + 2;
    vec rows[3][6];
    long left = channels - c;
    if (left <= 0) {
        for (int e = 0; e < n * n; e++) out[e] = (vec){0};
        return;
    }
    for (int i = 0; i < 3; i++) {
        vec g[3];
        for (int j = 0; j < 3; j++) g[j] = load_weights_up_to(weight, kind, (output * 9 + 3 * i + j) * channels + c, left);
        transform_kernel(g[0], g[1], g[2], rows[i], m);
    }
    for (int j = 0; j < n; j++) {
        vec column[6];
        transform_kernel(rows[0][j], rows[1][j], rows[2][j], column, m);
        for (int i = 0; i < n; i++) out[i * n + j] = column[i];
    }
}
// The kernels [outputs, 3, 3, channels] of panels panel_from ... panel_to, transformed and packed.
INLINE void kernel_part(const void *weight, int kind, void *panels, long channels, long outputs, long panel_from,
                        long panel_to, int m, int half) {
    int positions = (m + 2) * (m + 2);
    long length = padded(channels, half), words = half ? length / 2 : length, step = half ? 2 * LANES : LANES;
    for (long column = 0; column < (panel_to - panel_from) * WIDTH; column += LANES) {
        float *panel = (float *)panels + column / WIDTH * positions * words * WIDTH;
        for (long c = 0; c < channels; c += step) {
            vec blocks[36][LANES];
            for (int i = 0; i < LANES; i++) {
                vec low[36], high[36];
                long output = panel_from * WIDTH + column + i;
                int used = output < outputs;
                kernel_tile(weight, kind, used ? output : 0, used ? channels : 0, c, low, m);
                if (half) kernel_tile(weight, kind, used ? output : 0, used ? channels : 0, c + LANES, high, m);
                for (int e = 0; e < positions; e++) blocks[e][i] = half ? round_pairs(low[e], high[e]) : low[e];
            }
            for (int e = 0; e < positions; e++)
                write_block(panel + e * words * WIDTH, blocks[e], half ? c / 2 : c, words, column % WIDTH);
        }
    }
}
EXPORT void winograd_kernel(const void *weight, int kind, void *panels, long channels, long outputs, long panel_from,
                            long panel_to, int m, int half) {
    if (m == 4) kernel_part(weight, kind, panels, channels, outputs, panel_from, panel_to, 4, 0);
    else if (half && HALF_PRODUCTS) kernel_part(weight, kind, panels, channels, outputs, panel_from, panel_to, 2, 1);
    else kernel_part(weight, kind, panels, channels, outputs, panel_from, panel_to, 2, 0);
}

// A block of transformed tiles times panels, transformed back into out [batch, height, width, outputs].
// bias: [outputs]; more: [batch, outputs]; addend: like out, or out itself; their pixels are `stride` floats apart. scratch: (m + 2)^2 * tile_count * WIDTH floats.
INLINE void product_part(const void *block, const void *panels, const float *bias, const float *more,
                         const float *addend, float *out, long height, long width, long channels, long outputs, long stride,
                         long tile_from, long tile_to, long panel_from, long panel_to, int m, int half, float *scratch,
                         const int *stop) {
    int n = m + 2, positions = n * n;
    long across = (width + m - 1) / m, down = (height + m - 1) / m, length = padded(channels, half);
    long size = element_size(half), count = tile_to - tile_from;
    for (long panel = panel_from; panel < panel_to; panel++) {
        const char *kernels = (const char *)panels + (panel - panel_from) * positions * length * size * WIDTH;
        for (int e = 0; e < positions; e++)
            for (long i = 0; i < count; i += ROWS) {
                if (stopped(stop)) return;
                const void *rows[ROWS];
                for (int r = 0; r < ROWS; r++)
                    rows[r] = (const char *)block + (e * tile_count(m) + (i + r < count ? i + r : i)) * length * size;
                vec acc[ROWS][VECTORS];
                clear(acc);
                multiply(acc, rows, kernels + e * length * size * WIDTH, length, half, VECTORS);
                EACH_ROW EACH_VECTOR store(scratch + (e * tile_count(m) + i + r) * WIDTH + LANES * c, acc[r][c]);
            }
        for (long i = 0; i < count; i++) {
            long tile = tile_from + i, image = tile / (across * down);
            long y0 = tile / across % down * m, x0 = tile % across * m;
            for (long c = 0; c < WIDTH; c += LANES) {
                long column = panel * WIDTH + c, left = outputs - column;
                if (left <= 0) break;
                vec rows[4][6], offset = bias ? load_up_to(bias + column, left) : (vec){0};
                if (more) offset += load_up_to(more + image * outputs + column, left);
                for (int j = 0; j < n; j++) {
                    vec p[6], t[4];
                    for (int k = 0; k < n; k++) p[k] = load(scratch + ((k * n + j) * tile_count(m) + i) * WIDTH + c);
                    transform_output(p, t, m);
                    for (int k = 0; k < m; k++) rows[k][j] = t[k];
                }
                for (int k = 0; k < m && y0 + k < height; k++) {
                    vec t[4];
                    transform_output(rows[k], t, m);
                    for (int j = 0; j < m && x0 + j < width; j++) {
                        long at = ((image * height + y0 + k) * width + x0 + j) * stride + column;
                        vec sum = t[j] + offset;
                        if (addend) sum += load_up_to(addend + at, left);
                        store_up_to(out + at, sum, left);
                    }
                }
            }
        }
    }
}
EXPORT void winograd_product(const void *block, const void *panels, const float *bias, const float *more,
                             const float *addend, float *out, long height, long width, long channels, long outputs,
                             long stride, long tile_from, long tile_to, long panel_from, long panel_to, int m, int half,
                             float *scratch, const int *stop) {
#define PART(m_, h) \
    product_part(block, panels, bias, more, addend, out, height, width, channels, outputs, stride, tile_from, tile_to, \
                 panel_from, panel_to, m_, h, scratch, stop)
    if (m == 4) PART(4, 0);
    else if (half && HALF_PRODUCTS) PART(2, 1);
    else PART(2, 0);
#undef PART
}
