// Q15.16 products for x86-64 with AVX-512: 8 x 32 tiles, 16 of 32 registers accumulate.
#include "fixed.h"
#include "kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>

#include "../target.h"

AVX512_BEGIN("avx512f,avx2,fma")

namespace anefast {
namespace {

using Vec = __m512;
using Int = __m512i;
constexpr int WIDTH = 16, MR = 8, NV = 2;

inline Vec load(const float *p) { return _mm512_loadu_ps(p); }
inline Vec splat(float x) { return _mm512_set1_ps(x); }
inline Vec masked(Vec x, uint32_t mask) {
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(static_cast<int>(mask))));
}
inline Vec size_of(Vec x) { return masked(x, 0x7fffffff); }
inline Vec sign_of(Vec x) { return masked(x, 0x80000000); }
inline Int zero() { return _mm512_setzero_si512(); }
inline Int add(Int a, Int b) { return _mm512_add_epi32(a, b); }
inline void store(int32_t *p, Int x) { _mm512_store_si512(p, x); }
inline Int term(Vec a, Vec least, Vec half, Vec b, Vec size, Vec sign) {
    const Vec away = _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(half), _mm512_castps_si512(sign)));
    return _mm512_maskz_cvttps_epi32(_mm512_cmp_ps_mask(size, least, _CMP_GE_OQ), _mm512_fmadd_ps(a, b, away));
}

#include "fixed_tile.h"

} // namespace
} // namespace anefast

AVX512_END

namespace anefast {
const GemmKernels *gemm_kernels_avx512_fixed() {
    static constexpr GemmKernels kernels = kernels_of("AVX-512 Q15.16");
    return &kernels;
}
} // namespace anefast

#else
namespace anefast {
const GemmKernels *gemm_kernels_avx512_fixed() { return nullptr; }
} // namespace anefast
#endif
