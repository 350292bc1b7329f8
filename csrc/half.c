/* fp16 <-> fp32 conversion: portable C, F16C and AVX-512 on x86 (asked of the CPU once), NEON on arm64.
 *
 * What it is not: arithmetic in fp16. Halves are storage here; sums and products happen in fp32
 * elsewhere. Everything agrees bit for bit with the portable version, which is written in integers
 * so that no rounding mode or flush-to-zero setting can bend it. Each instruction set is one row of
 * a table: two array functions. Rows and transposes are built on them, once for all.
 * Read tests/test_half.py next, and tests/native/half_check.c, which holds every row to the portable one.
 */
#include "half.h"

#include <stdatomic.h>
#include <string.h>

#include "isa.h"

#if defined(__x86_64__) || defined(__i386__)
#define HALF_X86 1
#include <immintrin.h>
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
        magnitude += 0xfff + (magnitude >> 13 & 1);                   /* nearest, ties to even; carries may climb */
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
    if (exponent == 0x1f) return sign | 0x7f800000u | (fraction ? 0x400000u | fraction << 13 : 0);
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

#define AVX512 __attribute__((target("avx512f")))

AVX512 static void avx512_from_floats(const float *x, uint16_t *h, size_t n) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        const __m256i a = _mm512_cvtps_ph(_mm512_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT);
        _mm256_storeu_si256((__m256i *)(void *)(h + i), a);
    }
    for (; i < n; i++) h[i] = half_from_float(x[i]);
}

AVX512 static void avx512_to_floats(const uint16_t *h, float *x, size_t n) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        const __m256i a = _mm256_loadu_si256((const __m256i *)(const void *)(h + i));
        _mm512_storeu_ps(x + i, _mm512_cvtph_ps(a));
    }
    for (; i < n; i++) x[i] = half_to_float(h[i]);
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

typedef struct {
    const char *isa;
    void (*from_floats)(const float *x, uint16_t *h, size_t n);
    void (*to_floats)(const uint16_t *h, float *x, size_t n);
} Kernels;

static const Kernels PORTABLE = {"portable", half_from_floats_portable, half_to_floats_portable};
#if HALF_X86
static const Kernels WITH_F16C = {"F16C", f16c_from_floats, f16c_to_floats};
static const Kernels WITH_AVX512 = {"AVX-512", avx512_from_floats, avx512_to_floats};
#elif HALF_NEON
static const Kernels WITH_NEON = {"NEON", neon_from_floats, neon_to_floats};
#endif

static const Kernels *allowed(void) {
    switch (isa_allowed()) {
#if HALF_X86
    case ISA_AVX512: return &WITH_AVX512;
    case ISA_AVX2: return &WITH_F16C;
#elif HALF_NEON
    case ISA_NEON: return &WITH_NEON;
#endif
    default: return &PORTABLE;
    }
}

/* Kept, because rows are short and many. Two threads may both choose: the same. */
static const Kernels *kernels(void) {
    static const Kernels *_Atomic kept;
    const Kernels *k = atomic_load_explicit(&kept, memory_order_relaxed);
    if (!k) {
        k = allowed();
        atomic_store_explicit(&kept, k, memory_order_relaxed);
    }
    return k;
}

void half_from_floats(const float *x, uint16_t *h, size_t n) { kernels()->from_floats(x, h, n); }
void half_to_floats(const uint16_t *h, float *x, size_t n) { kernels()->to_floats(h, x, n); }
const char *half_isa(void) { return kernels()->isa; }

/* ---- rows ---- */

void half_from_floats_rows(const float *x, size_t x_stride, uint16_t *h, size_t h_stride, size_t rows, size_t columns) {
    const Kernels *k = kernels();
    if (rows > 1 && x_stride == columns && h_stride == columns) columns *= rows, rows = 1;
    for (size_t r = 0; r < rows; r++) k->from_floats(x + r * x_stride, h + r * h_stride, columns);
}

void half_to_floats_rows(const uint16_t *h, size_t h_stride, float *x, size_t x_stride, size_t rows, size_t columns) {
    const Kernels *k = kernels();
    if (rows > 1 && x_stride == columns && h_stride == columns) columns *= rows, rows = 1;
    for (size_t r = 0; r < rows; r++) k->to_floats(h + r * h_stride, x + r * x_stride, columns);
}

/* ---- transposed ---- */

enum { TILE_ROWS = 32, TILE_COLUMNS = 64 }; /* 4 KiB of halves; each output run is one cache line */

/* t: 8 rows of 8 halves, t_pitch apart. h: where their transpose goes, h_pitch apart. */
static void transpose8(const uint16_t *t, size_t t_pitch, uint16_t *h, size_t h_pitch) {
#if defined(__SSE2__)
    __m128i r[8], s[8];
    for (int i = 0; i < 8; i++) r[i] = _mm_loadu_si128((const __m128i *)(const void *)(t + i * t_pitch));
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
    for (int i = 0; i < 8; i++) _mm_storeu_si128((__m128i *)(void *)(h + i * h_pitch), s[i]);
#elif HALF_NEON
    uint16x8_t r[8], s[8];
    for (int i = 0; i < 8; i++) r[i] = vld1q_u16(t + i * t_pitch);
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
    for (int i = 0; i < 8; i++) vst1q_u16(h + i * h_pitch, s[i]);
#else
    for (int i = 0; i < 8; i++)
        for (int j = 0; j < 8; j++) h[i * h_pitch + j] = t[j * t_pitch + i];
#endif
}

/* (rows, columns) at t into (columns, rows) at h, in squares of 8 where they fit. */
static void transpose(const uint16_t *t, size_t t_pitch, uint16_t *h, size_t h_pitch, size_t rows, size_t columns) {
    const size_t high = rows / 8 * 8, wide = columns / 8 * 8;
    for (size_t j = 0; j < wide; j += 8)
        for (size_t i = 0; i < high; i += 8) transpose8(t + i * t_pitch + j, t_pitch, h + j * h_pitch + i, h_pitch);
    for (size_t j = 0; j < columns; j++)
        for (size_t i = j < wide ? high : 0; i < rows; i++) h[j * h_pitch + i] = t[i * t_pitch + j];
}

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

void half_from_floats_transposed(const float *x, size_t x_stride, uint16_t *h, size_t h_stride, size_t rows,
                                 size_t columns) {
    uint16_t tile[TILE_ROWS * TILE_COLUMNS];
    for (size_t r = 0; r < rows; r += TILE_ROWS) {
        const size_t high = least(TILE_ROWS, rows - r);
        for (size_t c = 0; c < columns; c += TILE_COLUMNS) {
            const size_t wide = least(TILE_COLUMNS, columns - c);
            half_from_floats_rows(x + r * x_stride + c, x_stride, tile, TILE_COLUMNS, high, wide);
            transpose(tile, TILE_COLUMNS, h + c * h_stride + r, h_stride, high, wide);
        }
    }
}

void half_to_floats_transposed(const uint16_t *h, size_t h_stride, float *x, size_t x_stride, size_t rows,
                               size_t columns) {
    uint16_t tile[TILE_COLUMNS * TILE_ROWS];
    for (size_t r = 0; r < rows; r += TILE_ROWS) {
        const size_t high = least(TILE_ROWS, rows - r);
        for (size_t c = 0; c < columns; c += TILE_COLUMNS) {
            const size_t wide = least(TILE_COLUMNS, columns - c);
            transpose(h + r * h_stride + c, h_stride, tile, high, high, wide);
            half_to_floats_rows(tile, high, x + c * x_stride + r, x_stride, wide, high);
        }
    }
}
