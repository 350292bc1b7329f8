// Matrix product kernels for x86-64 with AVX-512F: 8 x 48 tiles, 24 of 32 registers accumulate.
// Wider than high, as a broadcast from A takes a load and feeds one multiplication for each vector of a row.
#include "kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>

#include "../../half.h"
#include "../target.h"

AVX512_BEGIN("avx512f,avx2,fma,f16c")

namespace anefast {
namespace {

using Vec = __m512;
constexpr int WIDTH = 16, MR = 8, NV = 3, AHEAD = 8;

inline Vec load(const float *p) { return _mm512_loadu_ps(p); }
inline void store(float *p, Vec v) { _mm512_storeu_ps(p, v); }
inline Vec splat(float x) { return _mm512_set1_ps(x); }
inline Vec fma(Vec a, float b, Vec c) { return _mm512_fmadd_ps(a, _mm512_set1_ps(b), c); }
inline Vec load_half(const uint16_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)));
}
inline void store_half(uint16_t *p, Vec v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

inline void transpose(Vec r[16]) {
    Vec s[16], t[16];
    for (int i = 0; i < 16; i += 2) { // pairs of rows
        s[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        s[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) { // fours: t[i + j] has column j of each 128-bit quarter
        t[i] = _mm512_shuffle_ps(s[i], s[i + 2], 0x44);
        t[i + 1] = _mm512_shuffle_ps(s[i], s[i + 2], 0xee);
        t[i + 2] = _mm512_shuffle_ps(s[i + 1], s[i + 3], 0x44);
        t[i + 3] = _mm512_shuffle_ps(s[i + 1], s[i + 3], 0xee);
    }
    for (int j = 0; j < 4; ++j) { // the 4 x 4 transpose of quarters
        const Vec a = _mm512_shuffle_f32x4(t[j], t[j + 4], 0x88), b = _mm512_shuffle_f32x4(t[j], t[j + 4], 0xdd);
        const Vec c = _mm512_shuffle_f32x4(t[j + 8], t[j + 12], 0x88),
                  d = _mm512_shuffle_f32x4(t[j + 8], t[j + 12], 0xdd);
        r[j] = _mm512_shuffle_f32x4(a, c, 0x88);
        r[j + 4] = _mm512_shuffle_f32x4(b, d, 0x88);
        r[j + 8] = _mm512_shuffle_f32x4(a, c, 0xdd);
        r[j + 12] = _mm512_shuffle_f32x4(b, d, 0xdd);
    }
}

#include "tile.h"

} // namespace
} // namespace anefast

AVX512_END

namespace anefast {
const GemmKernels *gemm_kernels_avx512() {
    static constexpr GemmKernels kernels = kernels_of("AVX-512");
    return &kernels;
}
} // namespace anefast

#else
namespace anefast {
const GemmKernels *gemm_kernels_avx512() { return nullptr; }
} // namespace anefast
#endif
