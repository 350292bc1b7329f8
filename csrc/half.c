/* fp16 <-> fp32 conversion: portable C, F16C on x86 (asked of the CPU once), NEON on arm64.
 *
 * What it is not: arithmetic in fp16. Halves are storage here; sums and products happen in fp32
 * elsewhere. AVX-512 has no rung of its own: arrays worth converting are bound by memory, and F16C
 * already runs at that speed. Everything agrees bit for bit with the portable version, which is
 * written in integers so that no rounding mode or flush-to-zero setting can bend it.
 * Read tests/test_half.py next.
 */
#include "half.h"

#include <string.h>

#if defined(__x86_64__) || defined(__i386__)
#define HALF_X86 1
#include <cpuid.h>
#include <immintrin.h>
#include <stdatomic.h>
#elif defined(__aarch64__)
#define HALF_NEON 1
#include <arm_neon.h>
#endif

enum { SIGN = 0x8000, INFINITE = 0x7c00, QUIET = 0x0200 };

/* ---- portable: the referee ---- */

static uint16_t narrow(uint32_t bits) {
    const uint16_t sign = (uint16_t)(bits >> 16 & SIGN);
    uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) /* NaN: keep the top payload bits, as the hardware does */
        return (uint16_t)(sign | INFINITE | QUIET | (magnitude >> 13 & 0x3ff));
    if (magnitude >= 0x477ff000u) return (uint16_t)(sign | INFINITE); /* 65520 and up */
    if (magnitude >= 0x38800000u) {                                   /* 2^-14: a normal half */
        magnitude += 0xfff + (magnitude >> 13 & 1); /* nearest, ties to even; carries may climb */
        return (uint16_t)(sign | (magnitude - 0x38000000u) >> 13);
    }
    const uint32_t exponent = magnitude >> 23;
    if (exponent < 102) return sign; /* below half of the smallest subnormal, 2^-25 */
    const uint32_t significand = (magnitude & 0x7fffffu) | 0x800000u;
    const uint32_t shift = 126 - exponent; /* 14..24: in units of 2^-24 */
    const uint32_t lost = significand & ((1u << shift) - 1), middle = 1u << (shift - 1);
    uint32_t kept = significand >> shift;
    kept += lost > middle || (lost == middle && (kept & 1));
    return (uint16_t)(sign | kept);
}

static uint32_t widen(uint16_t h) {
    const uint32_t sign = (uint32_t)(h & SIGN) << 16;
    const uint32_t exponent = h >> 10 & 0x1f;
    uint32_t fraction = h & 0x3ff;
    if (exponent == 0x1f)
        return sign | 0x7f800000u | (fraction ? 0x400000u | fraction << 13 : 0);
    if (exponent) return sign | (exponent + 112) << 23 | fraction << 13;
    if (!fraction) return sign;
    uint32_t scale = 113;
    while (!(fraction & 0x400)) fraction <<= 1, scale--;
    return sign | scale << 23 | (fraction & 0x3ff) << 13;
}

uint16_t half_from_float(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return narrow(bits);
}

float half_to_float(uint16_t h) {
    const uint32_t bits = widen(h);
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

void half_from_floats_portable(const float *x, uint16_t *h, size_t n) {
    for (size_t i = 0; i < n; i++) h[i] = half_from_float(x[i]);
}

void half_to_floats_portable(const uint16_t *h, float *x, size_t n) {
    for (size_t i = 0; i < n; i++) x[i] = half_to_float(h[i]);
}

/* ---- F16C ---- */

#if HALF_X86
#define F16C __attribute__((target("avx,f16c")))

F16C static void f16c_from_floats(const float *x, uint16_t *h, size_t n) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        const __m128i a = _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT);
        const __m128i b = _mm256_cvtps_ph(_mm256_loadu_ps(x + i + 8), _MM_FROUND_TO_NEAREST_INT);
        _mm_storeu_si128((__m128i *)(void *)(h + i), a);
        _mm_storeu_si128((__m128i *)(void *)(h + i + 8), b);
    }
    for (; i < n; i++) h[i] = half_from_float(x[i]);
}

F16C static void f16c_to_floats(const uint16_t *h, float *x, size_t n) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        const __m128i a = _mm_loadu_si128((const __m128i *)(const void *)(h + i));
        const __m128i b = _mm_loadu_si128((const __m128i *)(const void *)(h + i + 8));
        _mm256_storeu_ps(x + i, _mm256_cvtph_ps(a));
        _mm256_storeu_ps(x + i + 8, _mm256_cvtph_ps(b));
    }
    for (; i < n; i++) x[i] = half_to_float(h[i]);
}

static int has_f16c(void) {
    /* CPUID traps under some hypervisors, so the answer is kept. Two threads may both ask: they
     * get the same answer. __builtin_cpu_supports checks that the OS saves the wide registers;
     * it does not know "f16c" in every compiler, hence the leaf by hand. */
    static atomic_int known = 0; /* 0 unknown, 1 no, 2 yes */
    int state = atomic_load_explicit(&known, memory_order_relaxed);
    if (!state) {
        unsigned a, b, c = 0, d;
        state = __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C) && __builtin_cpu_supports("avx") ? 2 : 1;
        atomic_store_explicit(&known, state, memory_order_relaxed);
    }
    return state == 2;
}
#endif

/* ---- NEON ---- */

#if HALF_NEON
static void neon_from_floats(const float *x, uint16_t *h, size_t n) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const float16x4_t low = vcvt_f16_f32(vld1q_f32(x + i));
        const float16x8_t both = vcvt_high_f16_f32(low, vld1q_f32(x + i + 4));
        vst1q_u16(h + i, vreinterpretq_u16_f16(both));
    }
    for (; i < n; i++) h[i] = half_from_float(x[i]);
}

static void neon_to_floats(const uint16_t *h, float *x, size_t n) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const float16x8_t both = vreinterpretq_f16_u16(vld1q_u16(h + i));
        vst1q_f32(x + i, vcvt_f32_f16(vget_low_f16(both)));
        vst1q_f32(x + i + 4, vcvt_high_f32_f16(both));
    }
    for (; i < n; i++) x[i] = half_to_float(h[i]);
}
#endif

/* ---- the choice ---- */

void half_from_floats(const float *x, uint16_t *h, size_t n) {
#if HALF_NEON
    neon_from_floats(x, h, n);
#else
#if HALF_X86
    if (has_f16c()) {
        f16c_from_floats(x, h, n);
        return;
    }
#endif
    half_from_floats_portable(x, h, n);
#endif
}

void half_to_floats(const uint16_t *h, float *x, size_t n) {
#if HALF_NEON
    neon_to_floats(h, x, n);
#else
#if HALF_X86
    if (has_f16c()) {
        f16c_to_floats(h, x, n);
        return;
    }
#endif
    half_to_floats_portable(h, x, n);
#endif
}

const char *half_isa(void) {
#if HALF_NEON
    return "NEON";
#elif HALF_X86
    return has_f16c() ? "F16C" : "portable";
#else
    return "portable";
#endif
}

/* ---- transposed ---- */

enum { TILE_ROWS = 32, TILE_COLUMNS = 64 }; /* 4 KiB of halves; each output run is one cache line */

/* t: 8 rows of 8 halves, TILE_COLUMNS apart. h: where their transpose goes, `pitch` halves apart. */
static void transpose8(const uint16_t *t, uint16_t *h, size_t pitch) {
#if defined(__SSE2__)
    __m128i r[8], s[8];
    for (int i = 0; i < 8; i++) r[i] = _mm_loadu_si128((const __m128i *)(const void *)(t + i * TILE_COLUMNS));
    for (int i = 0; i < 4; i++) { /* three rounds of interleaving row i with row i + 4 */
        s[2 * i] = _mm_unpacklo_epi16(r[i], r[i + 4]);
        s[2 * i + 1] = _mm_unpackhi_epi16(r[i], r[i + 4]);
    }
    for (int i = 0; i < 4; i++) {
        r[2 * i] = _mm_unpacklo_epi16(s[i], s[i + 4]);
        r[2 * i + 1] = _mm_unpackhi_epi16(s[i], s[i + 4]);
    }
    for (int i = 0; i < 4; i++) {
        s[2 * i] = _mm_unpacklo_epi16(r[i], r[i + 4]);
        s[2 * i + 1] = _mm_unpackhi_epi16(r[i], r[i + 4]);
    }
    for (int i = 0; i < 8; i++) _mm_storeu_si128((__m128i *)(void *)(h + i * pitch), s[i]);
#elif HALF_NEON
    uint16x8_t r[8], s[8];
    for (int i = 0; i < 8; i++) r[i] = vld1q_u16(t + i * TILE_COLUMNS);
    for (int i = 0; i < 4; i++) {
        s[2 * i] = vzip1q_u16(r[i], r[i + 4]);
        s[2 * i + 1] = vzip2q_u16(r[i], r[i + 4]);
    }
    for (int i = 0; i < 4; i++) {
        r[2 * i] = vzip1q_u16(s[i], s[i + 4]);
        r[2 * i + 1] = vzip2q_u16(s[i], s[i + 4]);
    }
    for (int i = 0; i < 4; i++) {
        s[2 * i] = vzip1q_u16(r[i], r[i + 4]);
        s[2 * i + 1] = vzip2q_u16(r[i], r[i + 4]);
    }
    for (int i = 0; i < 8; i++) vst1q_u16(h + i * pitch, s[i]);
#else
    for (int i = 0; i < 8; i++)
        for (int j = 0; j < 8; j++) h[i * pitch + j] = t[j * TILE_COLUMNS + i];
#endif
}

void half_from_floats_transposed(const float *x, uint16_t *h, size_t rows, size_t columns) {
    uint16_t tile[TILE_ROWS * TILE_COLUMNS];
    for (size_t r = 0; r < rows; r += TILE_ROWS) {
        const size_t high = rows - r < TILE_ROWS ? rows - r : TILE_ROWS;
        for (size_t c = 0; c < columns; c += TILE_COLUMNS) {
            const size_t wide = columns - c < TILE_COLUMNS ? columns - c : TILE_COLUMNS;
            for (size_t i = 0; i < high; i++)
                half_from_floats(x + (r + i) * columns + c, tile + i * TILE_COLUMNS, wide);
            if (high == TILE_ROWS && wide == TILE_COLUMNS) {
                for (size_t j = 0; j < TILE_COLUMNS; j += 8)
                    for (size_t i = 0; i < TILE_ROWS; i += 8)
                        transpose8(tile + i * TILE_COLUMNS + j, h + (c + j) * rows + r + i, rows);
            } else {
                for (size_t j = 0; j < wide; j++)
                    for (size_t i = 0; i < high; i++)
                        h[(c + j) * rows + r + i] = tile[i * TILE_COLUMNS + j];
            }
        }
    }
}
