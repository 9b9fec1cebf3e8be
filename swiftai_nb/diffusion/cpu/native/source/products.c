// Dense layers, and convolutions as sums of them over the taps of a kernel.
#include "kernels.h"

// Weights of the outputs `first` ... as a panel. Rows hold `taps` groups of `inner` weights; in bfloat16 each
// group is padded to an even length. gated: the panel is half values, half the gates `outputs / 2` after them.
static void pack_panel(const void *weight, int kind, void *panel, long first, long outputs, long taps, long inner,
                       int half, int gated) {
    long length = padded(inner, half), words = half ? length / 2 : length, step = half ? 2 * LANES : LANES;
    for (long group = 0; group < WIDTH; group += LANES)
        for (long tap = 0; tap < taps; tap++) {
            void *to = (float *)panel + tap * words * WIDTH;
            for (long k = 0; k < inner; k += step) {
                vec block[LANES];
                for (int i = 0; i < LANES; i++) {
                    long column = group + i, row = first + column;
                    if (gated) row = first + column % (WIDTH / 2) + (column >= WIDTH / 2 ? outputs / 2 : 0);
                    int used = gated ? first + column % (WIDTH / 2) < outputs / 2 : row < outputs;
                    long at = (row * taps + tap) * inner + k, left = inner - k;
                    if (!used) block[i] = (vec){0};
                    else if (!half) block[i] = load_weights_up_to(weight, kind, at, left);
                    else
                        block[i] = round_pairs(load_weights_up_to(weight, kind, at, left),
                                               left > LANES ? load_weights_up_to(weight, kind, at + LANES, left - LANES)
                                                            : (vec){0});
                }
                write_block(to, block, k * words / length, words, group);
            }
        }
}

// Adds bias and addend to a tile and stores its first `rows` and `columns`; gated: value * gelu(gate).
INLINE void store_tile(vec acc[ROWS][VECTORS], const float *bias, const float *addend, float *out, long stride,
                       long rows, long columns, int gated) {
    EACH_ROW {
        if (r >= rows) break;
        EACH_VECTOR acc[r][c] += load(bias + LANES * c);
        float *to = out + r * stride;
        EACH_VECTOR {
            long left = columns - c * LANES;
            if (left <= 0) break;
            vec sum = acc[r][c];
            if (gated) sum *= gelu_vec(acc[r][(c + VECTORS / 2) % VECTORS]);
            if (addend) sum += load_up_to(addend + r * stride + LANES * c, left);
            store_up_to(to + LANES * c, sum, left);
        }
    }
}
static void panel_bias(float bias_of_panel[WIDTH], const float *bias, const float *more, long first, long outputs,
                       int gated) {
    for (long c = 0; c < WIDTH; c++) {
        long row = first + c, used = row < outputs;
        if (gated) {
            row = first + c % (WIDTH / 2), used = row < outputs / 2;
            if (c >= WIDTH / 2) row += outputs / 2;
        }
        bias_of_panel[c] = (used && bias ? bias[row] : 0) + (used && more ? more[row] : 0);
    }
}

// out[rows, outputs] = x[rows, inner] weight[outputs, inner]^T + bias + addend, for some rows and panels.
// gated: out[rows, outputs / 2] is the first half of that times the gelu of the second.
// Rows of out and addend are `stride` floats apart; with stride `inner` out may be x, if all panels are asked for.
// scratch: (WIDTH + rows) * padded inner elements.
INLINE void linear_part(const float *x, const void *weight, int kind, const float *bias, const float *addend,
                        float *out, long inner, long outputs, long stride, long row_from, long row_to, long panel_from,
                        long panel_to, int half, int gated, void *scratch, const int *stop) {
    long length = padded(inner, half), size = element_size(half);
    long width = gated ? outputs / 2 : outputs, step = gated ? WIDTH / 2 : WIDTH;
    char *panel = scratch, *inputs = panel + size * length * WIDTH;
    if (half || x == out)
        for (long i = row_from; i < row_to; i++)
            write_row(inputs + (i - row_from) * length * size, x + i * inner, inner, half);
    else inputs = (char *)(x + row_from * inner);
    for (long n = panel_from; n < panel_to; n++) {
        float bias_of_panel[WIDTH];
        long first = n * step, columns = least(step, width - first);
        panel_bias(bias_of_panel, bias, NULL, first, outputs, gated);
        pack_panel(weight, kind, panel, first, outputs, 1, inner, half, gated);
        for (long i = row_from; i < row_to; i += ROWS) {
            if (stopped(stop)) return;
            const void *rows[ROWS];
            long count = least(ROWS, row_to - i);
            for (int r = 0; r < ROWS; r++) rows[r] = inputs + (i - row_from + (r < count ? r : 0)) * length * size;
            vec acc[ROWS][VECTORS];
            clear(acc);
            multiply(acc, rows, panel, length, half, VECTORS);
            long at = i * stride + first;
            store_tile(acc, bias_of_panel, addend ? addend + at : NULL, out + at, stride, count, columns, gated);
        }
    }
}
EXPORT void linear(const float *x, const void *weight, int kind, const float *bias, const float *addend, float *out,
                   long inner, long outputs, long stride, long row_from, long row_to, long panel_from, long panel_to,
                   int half, int gated, void *scratch, const int *stop) {
#define PART(h, g) \
    linear_part(x, weight, kind, bias, addend, out, inner, outputs, stride, row_from, row_to, panel_from, panel_to, h, g, \
                scratch, stop)
    if (half && HALF_PRODUCTS) gated ? PART(1, 1) : PART(1, 0);
    else gated ? PART(0, 1) : PART(0, 0);
#undef PART
}

// The same for few rows, in float32: each weight is read once and not rearranged.
EXPORT void linear_few(const float *x, const void *weight, int kind, const float *bias, float *out, long rows,
                       long inner, long outputs, long output_from, long output_to) {
    for (long n = output_from; n < output_to; n++)
        for (long first = 0; first < rows; first += 4) {
            vec sums[4] = {{0}};
            long count = least(4, rows - first);
            for (long k = 0; k < inner; k += LANES) {
                long left = inner - k;
                vec w = load_weights_up_to(weight, kind, n * inner + k, left);
                for (long r = 0; r < count; r++) sums[r] += w * load_up_to(x + (first + r) * inner + k, left);
            }
            for (long r = 0; r < count; r++)
                out[(first + r) * outputs + n] = add_lanes(sums[r]) + (bias ? bias[n] : 0);
        }
}

// Rows y_from ... y_to of one picture's convolution: x [height, width, channels] -> out [., out_width, outputs].
// weight: [outputs, kernel, kernel, channels]; bias, more: [outputs]; addend: like out.
// scratch: a panel of kernel^2 taps, then the strip of inputs with its border.
INLINE void conv_part(const float *x, const void *weight, int kind, const float *bias, const float *more,
                      const float *addend, float *out, long height, long width, long channels, long outputs,
                      long kernel, long stride, long padding, long out_width, long y_from, long y_to,
                      long panel_from, long panel_to, int half, void *scratch, const int *stop) {
    long length = padded(channels, half), size = element_size(half), taps = kernel * kernel;
    long strip_height = (y_to - y_from - 1) * stride + kernel, strip_width = width + 2 * padding;
    char *panel = scratch, *strip = panel + size * length * taps * WIDTH;
    for (long y = 0; y < strip_height; y++) {
        char *row = strip + y * strip_width * length * size;
        long source = y_from * stride - padding + y;
        if (source < 0 || source >= height) {
            memset(row, 0, strip_width * length * size);
            continue;
        }
        memset(row, 0, padding * length * size);
        memset(row + (padding + width) * length * size, 0, padding * length * size);
        for (long i = 0; i < width; i++)
            write_row(row + (padding + i) * length * size, x + (source * width + i) * channels, channels, half);
    }
    for (long n = panel_from; n < panel_to; n++) {
        float bias_of_panel[WIDTH];
        long first = n * WIDTH, columns = least(WIDTH, outputs - first), pixels = (y_to - y_from) * out_width;
        panel_bias(bias_of_panel, bias, more, first, outputs, 0);
        pack_panel(weight, kind, panel, first, outputs, taps, channels, half, 0);
        for (long i = 0; i < pixels; i += ROWS) {
            if (stopped(stop)) return;
            const char *corners[ROWS];
            long count = least(ROWS, pixels - i);
            for (int r = 0; r < ROWS; r++) {
                long pixel = i + (r < count ? r : 0);
                corners[r] = strip + (pixel / out_width * strip_width + pixel % out_width) * stride * length * size;
            }
            vec acc[ROWS][VECTORS];
            clear(acc);
            for (long tap = 0; tap < taps; tap++) {
                const void *rows[ROWS];
                long offset = (tap / kernel * strip_width + tap % kernel) * length * size;
                for (int r = 0; r < ROWS; r++) rows[r] = corners[r] + offset;
                multiply(acc, rows, panel + tap * length * size * WIDTH, length, half, VECTORS);
            }
            long at = (y_from * out_width + i) * outputs + first;
            store_tile(acc, bias_of_panel, addend ? addend + at : NULL, out + at, outputs, count, columns, 0);
        }
    }
}
EXPORT void conv(const float *x, const void *weight, int kind, const float *bias, const float *more,
                 const float *addend, float *out, long height, long width, long channels, long outputs, long kernel,
                 long stride, long padding, long out_width, long y_from, long y_to, long panel_from, long panel_to,
                 int half, void *scratch, const int *stop) {
#define PART(h) \
    conv_part(x, weight, kind, bias, more, addend, out, height, width, channels, outputs, kernel, stride, padding, \
              out_width, y_from, y_to, panel_from, panel_to, h, scratch, stop)
    if (half && HALF_PRODUCTS) PART(1);
    else PART(0);
#undef PART
}

// What the caller must know to make panels and scratch buffers.
EXPORT int tile_width(void) { return WIDTH; }
EXPORT int half_products(void) { return HALF_PRODUCTS; }
// Whether this process may use what the library needs of the processor.
EXPORT int permitted(void) {
#if TILES
    return tiles_permitted();
#else
    return 1;
#endif
}
// Of the sources and options this was compiled from, to recognize a library that is older than they are.
EXPORT const char *source_digest(void) { return SOURCE_DIGEST; }
