// The AVX-512 intrinsics of csrc/cpu/gemm/avx512.cpp by SIMDe, which says in portable C what each does.
// The two conversions it lacks are made of the 256-bit ones.
#pragma once

#include <immintrin.h>
#include <simde/x86/avx512.h>

#define __m512 simde__m512
#define _mm512_loadu_ps simde_mm512_loadu_ps
#define _mm512_storeu_ps simde_mm512_storeu_ps
#define _mm512_set1_ps simde_mm512_set1_ps
#define _mm512_fmadd_ps simde_mm512_fmadd_ps
#define _mm512_unpacklo_ps simde_mm512_unpacklo_ps
#define _mm512_unpackhi_ps simde_mm512_unpackhi_ps
#define _mm512_shuffle_ps simde_mm512_shuffle_ps
#define _mm512_shuffle_f32x4 simde_mm512_shuffle_f32x4

inline simde__m512 cvtph(__m256i halves) {
    float x[16];
    _mm256_storeu_ps(x, _mm256_cvtph_ps(_mm256_castsi256_si128(halves)));
    _mm256_storeu_ps(x + 8, _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1)));
    return simde_mm512_loadu_ps(x);
}
inline __m256i cvtps(simde__m512 v) {
    float x[16];
    simde_mm512_storeu_ps(x, v);
    const __m128i low = _mm256_cvtps_ph(_mm256_loadu_ps(x), 0), high = _mm256_cvtps_ph(_mm256_loadu_ps(x + 8), 0);
    return _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
}
#define _mm512_cvtph_ps cvtph
#define _mm512_cvtps_ph(v, rounding) cvtps(v)
