// Vectors of float32 in the extensions of GCC and Clang: one source for AVX-512, AVX2 and NEON. Products are
// float32, or, where the compiler was told of AVX512_BF16, of inputs rounded to bfloat16 with float32 sums.
//
// All functions are reentrant, allocate nothing and start no threads: the caller shares the work among its
// own threads and gives each a scratch buffer aligned to 64 bytes. Those with a flag `stop` return within a tile of
// its being set; what they were to write is then undefined.
#ifndef KERNELS_H
#define KERNELS_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(__AVX512F__)
#define LANES 16
#define VECTORS 4
#elif defined(__AVX2__)
#define LANES 8
#define VECTORS 2
#else
#define LANES 4
#define VECTORS 4
#endif
#if defined(__AMX_BF16__) || defined(EMULATED_TILES)
#define TILES 1
#include "tiles.h"
#else
#define TILES 0
#endif
#define ROWS 6
#define WIDTH (LANES * VECTORS) /* columns of a register tile of ROWS rows */
#if defined(__AVX512BF16__)
#define HALF_PRODUCTS 1
#else
#define HALF_PRODUCTS 0
#endif

#define EXPORT __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))
#define EACH_ROW _Pragma("GCC unroll 6") for (int r = 0; r < ROWS; r++)
#define EACH_VECTOR _Pragma("GCC unroll 4") for (int c = 0; c < VECTORS; c++)
#define EACH_WANTED EACH_VECTOR if (c < vectors)

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef uint16_t half_vec __attribute__((vector_size(2 * LANES)));
typedef uint16_t bf16;

// Dtypes of stored weights.
enum { FLOAT32, FLOAT16, BFLOAT16 };

INLINE vec load(const float *p) {
    vec v;
    memcpy(&v, p, sizeof v);
    return v;
}
INLINE void store(float *p, vec v) { memcpy(p, &v, sizeof v); }
INLINE vec splat(float x) { return x - (vec){0}; }
INLINE vec load_part(const float *p, long count) {  // zeros after `count`
    float all[LANES] = {0};
    memcpy(all, p, sizeof(float) * count);
    return load(all);
}
INLINE void store_part(float *p, vec v, long count) {
    float all[LANES];
    store(all, v);
    memcpy(p, all, sizeof(float) * count);
}
INLINE vec load_up_to(const float *p, long count) { return count >= LANES ? load(p) : load_part(p, count); }
INLINE void store_up_to(float *p, vec v, long count) {
    if (count >= LANES) store(p, v);
    else store_part(p, v, count);
}
INLINE vec choose(ivec where, vec yes, vec no) { return (vec)((where & (ivec)yes) | (~where & (ivec)no)); }
// If one of them is not a number, b is: the order of operands decides whether that is passed on.
INLINE vec maximum(vec a, vec b) {
#if defined(__AVX512F__)
    return _mm512_max_ps(a, b);
#elif defined(__AVX2__)
    return _mm256_max_ps(a, b);
#elif defined(__aarch64__)
    return vmaxq_f32(a, b);
#else
    return choose(a > b, a, b);
#endif
}
INLINE vec minimum(vec a, vec b) { return -maximum(-a, -b); }
INLINE float add_lanes(vec v) {
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += v[i];
    return sum;
}
INLINE float top_lane(vec v) {
    float top = v[0];
    for (int i = 1; i < LANES; i++) top = v[i] > top ? v[i] : top;
    return top;
}
INLINE long least(long a, long b) { return a < b ? a : b; }
// Whether the caller wants no result any more. Another thread sets the flag; NULL is never set. Without it: to measure
// what reading it costs (benchmarks/stop_flag.py).
#if defined(WITHOUT_STOP)
#define stopped(stop) ((void)(stop), 0)
#else
INLINE int stopped(const int *stop) { return stop && __atomic_load_n(stop, __ATOMIC_RELAXED); }
#endif

// 2^x within 2e-7 relative, for x from -126 to 127; what lies outside is taken as the nearest of these.
INLINE vec exp2_vec(vec x) {
    const vec magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    x = minimum(splat(127.0f), maximum(splat(-126.0f), x));
    vec rounded = x + magic, f = x - (rounded - magic);
    vec p = splat(1.326473133e-3f);  // least maximum error of its degree
    p = p * f + 9.671513410e-3f;
    p = p * f + 5.550733728e-2f;
    p = p * f + 2.402224207e-1f;
    p = p * f + 6.931469776e-1f;
    p = p * f + 1.0f;
    return (vec)((ivec)p + (((ivec)rounded - (ivec)magic) << 23));
}
// e^x within one unit in the last place (Cephes), for x from -87 to 88.
INLINE vec exp_vec(vec x) {
    const vec magic = splat(12582912.0f);
    x = minimum(splat(88.0f), maximum(splat(-87.0f), x));
    vec rounded = x * 1.44269504f + magic, n = rounded - magic;
    vec f = x - n * 0.693359375f + n * 2.12194440e-4f;
    vec p = splat(1.9875691500e-4f);
    p = p * f + 1.3981999507e-3f;
    p = p * f + 8.3334519073e-3f;
    p = p * f + 4.1665795894e-2f;
    p = p * f + 1.6666665459e-1f;
    p = p * f + 5.0000001201e-1f;
    p = p * (f * f) + f + 1.0f;
    return (vec)((ivec)p + (((ivec)rounded - (ivec)magic) << 23));
}
INLINE vec sigmoid(vec x) { return 1.0f / (1.0f + exp_vec(-x)); }
INLINE vec normalized_silu(vec x, vec center, vec scale, vec shift) {
    vec y = (x - center) * scale + shift;
    return y * sigmoid(y);
}
// x Phi(x); erf by Abramowitz and Stegun 7.1.26, 1.5e-7 absolute.
INLINE vec gelu_vec(vec x) {
    vec z = maximum(x, -x) * 0.70710678f;
    vec t = 1.0f / (z * 0.3275911f + 1.0f);
    vec p = splat(1.061405429f);
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    vec tail = p * t * exp_vec(z * z * -1.0f) * 0.5f;  // 1 - Phi(|x|)
    return x * choose(x >= 0.0f, 1.0f - tail, tail);
}

// LANES stored weights from element i on, as float32: exact.
INLINE vec load_weights(const void *weights, int kind, long i) {
    if (kind == FLOAT32) return load((const float *)weights + i);
    half_vec bits;
    memcpy(&bits, (const uint16_t *)weights + i, sizeof bits);
    if (kind == BFLOAT16) return (vec)(__builtin_convertvector(bits, ivec) << 16);
#if defined(__AVX512F__)
    return _mm512_cvtph_ps((__m256i)bits);
#elif defined(__F16C__)
    return _mm256_cvtph_ps((__m128i)bits);
#elif defined(__aarch64__)
    return vcvt_f32_f16((float16x4_t)bits);
#else  // for all finite values
    ivec words = __builtin_convertvector(bits, ivec);
    // sign and value in place, then the difference of the exponents' biases
    return (vec)(((words & 0x8000) << 16) | ((words & 0x7fff) << 13)) * 0x1p112f;
#endif
}
INLINE vec load_weights_up_to(const void *weights, int kind, long i, long count) {
    if (count >= LANES) return load_weights(weights, kind, i);
    char all[4 * LANES] = {0};
    long size = kind == FLOAT32 ? 4 : 2;
    memcpy(all, (const char *)weights + size * i, size * count);
    return load_weights(all, kind, 0);
}

INLINE void transpose(vec v[LANES]) {
#if defined(__clang__)
    float from[LANES][LANES], to[LANES][LANES];
    memcpy(from, v, sizeof from);
    for (int i = 0; i < LANES; i++)
        for (int j = 0; j < LANES; j++) to[j][i] = from[i][j];
    memcpy(v, to, sizeof to);
#else
    ivec lane;
    for (int i = 0; i < LANES; i++) lane[i] = i;
    _Pragma("GCC unroll 4") for (int s = LANES / 2; s > 0; s /= 2) {
        ivec low = lane + (((lane & s) != 0) & (LANES - s));
        _Pragma("GCC unroll 16") for (int i = 0; i < LANES; i++) {
            if (i & s) continue;
            vec a = v[i], b = v[i + s];
            v[i] = __builtin_shuffle(a, b, low);
            v[i + s] = __builtin_shuffle(a, b, low + s);
        }
    }
#endif
}

// Two vectors as 2 LANES bfloat16, in the lanes of one vector: (a0 a1) (a2 a3) ... (b0 b1) ...
INLINE vec round_pairs(vec a, vec b) {
#if HALF_PRODUCTS
    return (vec)_mm512_cvtne2ps_pbh(b, a);
#else
    (void)b;
    return a;
#endif
}

// acc[r][c] += row r times panel. Rows are [inner], panels [inner][WIDTH]; in bfloat16 [inner / 2][WIDTH][2].
// vectors: how many of the panel's columns are wanted, in vectors.
INLINE void multiply(vec acc[ROWS][VECTORS], const void *const rows[ROWS], const void *panel, long inner, int half,
                     int vectors) {
    if (half) {
#if HALF_PRODUCTS && TILES
        multiply_tiles((float *)acc, (const bf16 *const *)rows, ROWS, panel, inner, vectors);
#elif HALF_PRODUCTS
        const bf16 *b = panel;
        const bf16 *p0 = rows[0], *p1 = rows[1], *p2 = rows[2], *p3 = rows[3], *p4 = rows[4], *p5 = rows[5];
        for (long k = 0; k < inner; k += 2, b += 2 * WIDTH) {
            __m512bh column[VECTORS];
            EACH_WANTED column[c] = (__m512bh)_mm512_load_si512(b + 32 * c);
            EACH_WANTED _mm_prefetch((const char *)(b + 16 * WIDTH + 32 * c), _MM_HINT_T0);
#define STEP(r) { \
        __m512bh x = (__m512bh)_mm512_set1_epi32(*(const int *)(p##r + k)); \
        EACH_WANTED acc[r][c] = (vec)_mm512_dpbf16_ps(acc[r][c], x, column[c]); }
            STEP(0) STEP(1) STEP(2) STEP(3) STEP(4) STEP(5)
#undef STEP
        }
#endif
        return;
    }
    const float *b = panel;
    const float *p0 = rows[0], *p1 = rows[1], *p2 = rows[2], *p3 = rows[3], *p4 = rows[4], *p5 = rows[5];
    for (long k = 0; k < inner; k++, b += WIDTH) {
        vec column[VECTORS];
        EACH_WANTED column[c] = load(b + LANES * c);
#define STEP(r) EACH_WANTED acc[r][c] += p##r[k] * column[c];
        STEP(0) STEP(1) STEP(2) STEP(3) STEP(4) STEP(5)
#undef STEP
    }
}
INLINE void clear(vec acc[ROWS][VECTORS]) { EACH_ROW EACH_VECTOR acc[r][c] = (vec){0}; }

// An inner length as rows and panels hold it.
INLINE long padded(long inner, int half) { return half ? (inner + 1) / 2 * 2 : inner; }
INLINE long element_size(int half) { return half ? sizeof(bf16) : sizeof(float); }

// Float32 values as a row of `multiply` needs them.
INLINE void write_row(void *out, const float *x, long count, int half) {
    if (!half) {
        memcpy(out, x, sizeof(float) * count);
        return;
    }
    bf16 *to = out;
    long i = 0;
    for (; i + 2 * LANES <= count; i += 2 * LANES) {
        vec pairs = round_pairs(load(x + i), load(x + i + LANES));
        memcpy(to + i, &pairs, sizeof pairs);
    }
    if (i < count) {
        vec pairs = round_pairs(load_up_to(x + i, count - i), load_up_to(x + i + LANES, count - i > LANES ? count - i - LANES : 0));
        memcpy(to + i, &pairs, sizeof(bf16) * padded(count - i, half));
    }
}

// Puts vectors of LANES rows by `inner` (twice that in bfloat16) into columns `at` ... of a panel from row k on.
INLINE void write_block(void *panel, vec block[LANES], long k, long inner, long at) {
    transpose(block);
    float *to = (float *)panel + k * WIDTH + at;
    for (long i = 0; i < least(LANES, inner - k); i++) store(to + i * WIDTH, block[i]);
}

#endif
