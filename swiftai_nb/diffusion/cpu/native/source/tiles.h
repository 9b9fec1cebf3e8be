// Products of bfloat16 by AMX, Intel's matrix unit (Intel's Intrinsics Guide, AMX-TILE and AMX-BF16). EMULATED_TILES
// computes the same in C, for tests: no processor with AMX was at hand, so its speed is not known.
#ifndef TILES_H
#define TILES_H

#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <immintrin.h>

#define INNER 32 /* bfloat16 in a row of a tile */

// What LDTILECFG reads: rows, and bytes of a row, of the eight tiles.
typedef struct __attribute__((aligned(64))) {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_config;

#if defined(EMULATED_TILES)
static __thread tile_config emulated_config;
static __thread uint8_t emulated_tiles[8][16][64];

static inline void tile_configure(const tile_config *config) { emulated_config = *config; }
static inline void tile_release(void) { memset(&emulated_config, 0, sizeof emulated_config); }
static inline void emulated_load(int tile, const void *from, long stride) {
    for (int r = 0; r < emulated_config.rows[tile]; r++)
        memcpy(emulated_tiles[tile][r], (const char *)from + r * stride, emulated_config.row_bytes[tile]);
}
static inline void emulated_store(int tile, void *to, long stride) {
    for (int r = 0; r < emulated_config.rows[tile]; r++)
        memcpy((char *)to + r * stride, emulated_tiles[tile][r], emulated_config.row_bytes[tile]);
}
static inline float emulated_half(const uint8_t *at) {
    uint16_t bits;
    memcpy(&bits, at, sizeof bits);
    uint32_t word = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &word, sizeof value);
    return value;
}
static inline void emulated_product(int to, int a, int b) {
    for (int m = 0; m < emulated_config.rows[to]; m++)
        for (int k = 0; k < emulated_config.row_bytes[a] / 4; k++)
            for (int n = 0; n < emulated_config.row_bytes[to] / 4; n++) {
                float sum;
                memcpy(&sum, emulated_tiles[to][m] + 4 * n, sizeof sum);
                for (int i = 0; i < 4; i += 2)
                    sum += emulated_half(emulated_tiles[a][m] + 4 * k + i) * emulated_half(emulated_tiles[b][k] + 4 * n + i);
                memcpy(emulated_tiles[to][m] + 4 * n, &sum, sizeof sum);
            }
}
#define tile_load(tile, from, stride) emulated_load(tile, from, stride)
#define tile_store(tile, to, stride) emulated_store(tile, to, stride)
#define tile_product(to, a, b) emulated_product(to, a, b)
// Whether the system lets this process use the tiles.
static inline int tiles_permitted(void) { return 1; }
#else
#define tile_configure(config) _tile_loadconfig(config)
#define tile_release() _tile_release()
#define tile_load(tile, from, stride) _tile_loadd(tile, from, stride)
#define tile_store(tile, to, stride) _tile_stored(tile, to, stride)
#define tile_product(to, a, b) _tile_dpbf16ps(to, a, b)
static inline int tiles_permitted(void) {
    const long request_permission = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}
#endif

// acc [rows, 16 columns x 4], float32, += rows [inner] times panel [inner / 2][64][2]; inner is even.
// Tiles 0 to 3 are the sums, 4 and 5 hold INNER values of the rows and of 16 columns, 6 and 7 what is left of them.
static inline __attribute__((always_inline)) void multiply_tiles(float *acc, const uint16_t *const *rows, int count,
                                                                  const uint16_t *panel, long inner, int vectors) {
    const long row_bytes = 4 * 16 * sizeof(float), pair_bytes = 4 * 64;
    long rest = inner % INNER;
    uint16_t strip[16][INNER] __attribute__((aligned(64)));
    tile_config config = {.palette = 1};
    for (int tile = 0; tile < 8; tile++) {
        long values = tile < 6 ? INNER : rest;
        int is_panel = tile == 5 || tile == 7;
        config.rows[tile] = is_panel ? values / 2 : values ? count : 0;
        config.row_bytes[tile] = values == 0 ? 0 : tile < 4 || is_panel ? 64 : 2 * values;
    }
    tile_configure(&config);
#define COLUMNS(DO) DO(0) if (vectors > 1) { DO(1) } if (vectors > 2) { DO(2) } if (vectors > 3) { DO(3) }
#define LOAD_SUMS(c) tile_load(c, acc + 16 * c, row_bytes);
#define STORE_SUMS(c) tile_store(c, acc + 16 * c, row_bytes);
#define WHOLE(c) tile_load(5, panel + 32 * c, pair_bytes); tile_product(c, 4, 5);
#define REST(c) tile_load(7, panel + 32 * c, pair_bytes); tile_product(c, 6, 7);
    COLUMNS(LOAD_SUMS)
    for (long k = 0; k + INNER <= inner; k += INNER, panel += INNER * 64) {
        for (int r = 0; r < count; r++) memcpy(strip[r], rows[r] + k, sizeof strip[r]);
        tile_load(4, strip, sizeof strip[0]);
        COLUMNS(WHOLE)
    }
    if (rest) {
        for (int r = 0; r < count; r++) memcpy(strip[r], rows[r] + inner - rest, sizeof(uint16_t) * rest);
        tile_load(6, strip, sizeof strip[0]);
        COLUMNS(REST)
    }
    COLUMNS(STORE_SUMS)
    tile_release();
#undef COLUMNS
#undef LOAD_SUMS
#undef STORE_SUMS
#undef WHOLE
#undef REST
}

#endif
