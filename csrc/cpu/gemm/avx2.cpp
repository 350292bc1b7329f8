// Matrix product kernels for x86-64 with AVX2, FMA and F16C: 6 x 16 tiles, 12 of 16 registers accumulate.
#include "kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>

#include "../../half.h"
#include "../target.h"

TARGET_BEGIN("avx2,fma,f16c")

namespace anefast {
namespace {

using Vec = __m256;
constexpr int WIDTH = 8, MR = 6, NV = 2, AHEAD = 0;

inline Vec load(const float *p) { return _mm256_loadu_ps(p); }
inline void store(float *p, Vec v) { _mm256_storeu_ps(p, v); }
inline Vec splat(float x) { return _mm256_set1_ps(x); }
inline Vec fma(Vec a, float b, Vec c) { return _mm256_fmadd_ps(a, _mm256_set1_ps(b), c); }
inline Vec load_half(const uint16_t *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)));
}
inline void store_half(uint16_t *p, Vec v) {
    _mm_storeu_si128(reinterpret_cast<__m128i *>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

inline void transpose(Vec r[8]) {
    Vec s[8], t[8];
    for (int i = 0; i < 8; i += 2) { // pairs of rows
        s[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        s[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) { // fours
        t[i] = _mm256_shuffle_ps(s[i], s[i + 2], 0x44);
        t[i + 1] = _mm256_shuffle_ps(s[i], s[i + 2], 0xee);
        t[i + 2] = _mm256_shuffle_ps(s[i + 1], s[i + 3], 0x44);
        t[i + 3] = _mm256_shuffle_ps(s[i + 1], s[i + 3], 0xee);
    }
    for (int i = 0; i < 4; ++i) { // halves of the register
        r[i] = _mm256_permute2f128_ps(t[i], t[i + 4], 0x20);
        r[i + 4] = _mm256_permute2f128_ps(t[i], t[i + 4], 0x31);
    }
}

#include "tile.h"

} // namespace
} // namespace anefast

TARGET_END

namespace anefast {
const GemmKernels *gemm_kernels_avx2() {
    static constexpr GemmKernels kernels = kernels_of("AVX2 FMA F16C");
    return &kernels;
}
} // namespace anefast

#else
namespace anefast {
const GemmKernels *gemm_kernels_avx2() { return nullptr; }
} // namespace anefast
#endif
