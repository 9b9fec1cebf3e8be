// softmax(scale q k^T + mask) v of one head, by blocks of keys with a running maximum.
#include "kernels.h"

enum { QUERIES = 96, KEYS = 512, SUMMED = 128 };  // scores in memory at a time; keys in one sum

INLINE long panels_of(long count) { return (count + WIDTH - 1) / WIDTH; }

// k [key_count, width] and v [key_count, value_width], rows so many floats apart, as panels:
// keys [key_count / WIDTH][width][WIDTH], values [value_width / WIDTH][key_count][WIDTH]; lengths rounded up.
INLINE void pack_part(const float *k, const float *v, long k_stride, long v_stride, long key_count, long width,
                      long value_width, void *keys, void *values, int half) {
    long length = padded(width, half), words = half ? length / 2 : length, step = half ? 2 * LANES : LANES;
    long all = panels_of(key_count) * WIDTH;
    for (long s = 0; s < all; s += LANES) {
        float *panel = (float *)keys + s / WIDTH * words * WIDTH;
        for (long d = 0; d < width; d += step) {
            vec block[LANES];
            for (int i = 0; i < LANES; i++) {
                const float *row = k + (s + i) * k_stride + d;
                if (s + i >= key_count) block[i] = (vec){0};
                else if (!half) block[i] = load_up_to(row, width - d);
                else block[i] = round_pairs(load_up_to(row, width - d),
                                            width - d > LANES ? load_up_to(row + LANES, width - d - LANES) : (vec){0});
            }
            write_block(panel, block, half ? d / 2 : d, words, s % WIDTH);
        }
    }
    for (long d = 0; d < panels_of(value_width) * WIDTH; d += LANES) {
        long left = value_width - d;
        float *panel = (float *)values + d / WIDTH * (half ? all / 2 : all) * WIDTH + d % WIDTH;
        for (long s = 0; s < all; s += half ? 2 : 1) {
            vec first = left > 0 && s < key_count ? load_up_to(v + s * v_stride + d, left) : (vec){0};
            if (!half) {
                store(panel + s * WIDTH, first);
                continue;
            }
            vec second = left > 0 && s + 1 < key_count ? load_up_to(v + (s + 1) * v_stride + d, left) : (vec){0};
#if HALF_PRODUCTS
            __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(first));
            __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(second));
            _mm512_storeu_si512(panel + s / 2 * WIDTH, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
#else
            (void)second;
#endif
        }
    }
}
EXPORT void attention_pack(const float *k, const float *v, long k_stride, long v_stride, long key_count, long width,
                           long value_width, void *keys, void *values, int half) {
    if (half && HALF_PRODUCTS) pack_part(k, v, k_stride, v_stride, key_count, width, value_width, keys, values, 1);
    else pack_part(k, v, k_stride, v_stride, key_count, width, value_width, keys, values, 0);
}

// total [ROWS][stride] += weights [ROWS][KEYS] times some vectors of a panel. Sums of SUMMED keys at a time: the many
// equal keys of a padded prompt, added one by one to a large sum, would all be rounded in the same direction.
INLINE void add_values(const char *weights, const char *panel, float *total, long stride, long count, int half,
                       int vectors) {
    long size = element_size(half);
    for (long from = 0; from < count; from += SUMMED) {
        const void *rows[ROWS];
        vec acc[ROWS][VECTORS];
        for (int r = 0; r < ROWS; r++) rows[r] = weights + (r * KEYS + from) * size;
        clear(acc);
        multiply(acc, rows, panel + from * WIDTH * size, least(SUMMED, count - from), half, vectors);
        EACH_ROW EACH_WANTED {
            float *to = total + r * stride + LANES * c;
            store(to, load(to) + acc[r][c]);
        }
    }
}

// Exponentials of a row's scores in place (or, rounded, into `weights`); rescales what is summed so far.
INLINE void exponentiate(float *scores, bf16 *weights, const float *mask, long count, long all, float scale,
                         float *top, float *sum, float *total, long total_width, int half) {
    const float log2_e = 1.44269504f;
    vec most = splat(-INFINITY), part = {0};
    for (long k = 0; k < all; k += LANES) {
        vec s = load(scores + k) * scale;
        // finite: a row whose keys are all masked sees all of them alike
        if (mask) s = maximum(splat(-1e30f), s + load_up_to(mask + k, count - k > 0 ? count - k : 0));
        if (k + LANES > count)
            for (long i = count > k ? count - k : 0; i < LANES; i++) s[i] = -INFINITY;
        store(scores + k, s);
        most = maximum(most, s);
    }
    float now = top_lane(most);
    if (now > *top) {
        vec factor = exp2_vec(splat((*top - now) * log2_e));
        if (*top == -INFINITY) factor = (vec){0};
        *top = now, *sum *= factor[0];
        for (long d = 0; d < total_width; d += LANES) store(total + d, load(total + d) * factor);
    }
    for (long k = 0; k < all; k += 2 * LANES) {
        // differences first: large scores lose nothing in the change of base
        vec low = exp2_vec((load(scores + k) - *top) * log2_e);
        vec high = exp2_vec((load(scores + k + LANES) - *top) * log2_e);
        part += low + high;
        if (half) {
            vec pairs = round_pairs(low, high);
            memcpy(weights + k, &pairs, sizeof pairs);
        } else {
            store(scores + k, low), store(scores + k + LANES, high);
        }
    }
    *sum += add_lanes(part);
}

// Rows of one head: q [., width] -> out [., value_width], rows so many floats apart; mask [., key_count] or NULL.
// scratch: QUERIES * (2 KEYS + value_width and width, each rounded up to WIDTH) floats.
INLINE void attend_part(const float *q, const void *keys, const void *values, const float *mask, float *out,
                        long q_stride, long mask_stride, long out_stride, long row_from, long row_to, long key_count,
                        long width, long value_width, float scale, int half, float *scratch, const int *stop) {
    long size = element_size(half), length = padded(width, half), all = panels_of(key_count) * WIDTH;
    long total_width = panels_of(value_width) * WIDTH;
    float *scores = scratch, *total = scores + QUERIES * KEYS;
    bf16 *weights = (bf16 *)(total + QUERIES * total_width);
    char *queries = (char *)(weights + 2 * QUERIES * KEYS);
    float top[QUERIES], sum[QUERIES];
    for (long first = row_from; first < row_to; first += QUERIES) {
        long count = least(QUERIES, row_to - first);
        memset(total, 0, sizeof(float) * QUERIES * total_width);
        for (long i = 0; i < count; i++) {
            top[i] = -INFINITY, sum[i] = 0;
            write_row(queries + i * length * size, q + (first + i) * q_stride, width, half);
        }
        for (long from = 0; from < key_count; from += KEYS) {
            long here = least(KEYS, all - from), used = least(KEYS, key_count - from);
            if (stopped(stop)) return;
            for (long n = 0; n < here; n += WIDTH)
                for (long i = 0; i < count; i += ROWS) {
                    const void *rows[ROWS];
                    for (int r = 0; r < ROWS; r++) rows[r] = queries + (i + r < count ? i + r : i) * length * size;
                    vec acc[ROWS][VECTORS];
                    clear(acc);
                    multiply(acc, rows, (const char *)keys + (from + n) * length * size, length, half, VECTORS);
                    EACH_ROW EACH_VECTOR store(scores + (i + r) * KEYS + n + LANES * c, acc[r][c]);
                }
            for (long i = 0; i < count; i++)
                exponentiate(scores + i * KEYS, weights + i * KEYS, mask ? mask + (first + i) * mask_stride + from : NULL,
                             used, here, scale, top + i, sum + i, total + i * total_width, total_width, half);
            for (long n = 0; n < total_width; n += WIDTH) {
                const char *panel = (const char *)values + (n * all + from * WIDTH) * size;
                long wanted = (value_width - n + LANES - 1) / LANES;
                for (long i = 0; i < count; i += ROWS) {
                    const char *row = half ? (const char *)(weights + i * KEYS) : (const char *)(scores + i * KEYS);
                    float *to = total + i * total_width + n;
                    if (wanted >= VECTORS) add_values(row, panel, to, total_width, here, half, VECTORS);
                    else if (wanted == 3) add_values(row, panel, to, total_width, here, half, least(3, VECTORS));
                    else if (wanted == 2) add_values(row, panel, to, total_width, here, half, least(2, VECTORS));
                    else add_values(row, panel, to, total_width, here, half, 1);
                }
            }
        }
        for (long i = 0; i < count; i++)
            for (long d = 0; d < value_width; d += LANES)
                store_up_to(out + (first + i) * out_stride + d, load(total + i * total_width + d) * (1 / sum[i]),
                            value_width - d);
    }
}
EXPORT void attend(const float *q, const void *keys, const void *values, const float *mask, float *out, long q_stride,
                   long mask_stride, long out_stride, long row_from, long row_to, long key_count, long width,
                   long value_width, float scale, int half, float *scratch, const int *stop) {
#define PART(h) \
    attend_part(q, keys, values, mask, out, q_stride, mask_stride, out_stride, row_from, row_to, key_count, width, \
                value_width, scale, h, scratch, stop)
    if (half && HALF_PRODUCTS) PART(1);
    else PART(0);
#undef PART
}
