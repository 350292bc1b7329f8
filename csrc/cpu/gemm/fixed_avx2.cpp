// Q15.16 products for x86-64 with AVX2 and FMA: 4 x 16 tiles, 8 of 16 registers accumulate.
#include "fixed.h"
#include "kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>

#include "../target.h"

TARGET_BEGIN("avx2,fma")

namespace anefast {
namespace {

using Vec = __m256;
using Int = __m256i;
constexpr int WIDTH = 8, MR = 4, NV = 2;

inline Vec load(const float *p) { return _mm256_loadu_ps(p); }
inline Vec splat(float x) { return _mm256_set1_ps(x); }
inline Vec size_of(Vec x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }
inline Vec sign_of(Vec x) { return _mm256_and_ps(_mm256_set1_ps(-0.0f), x); }
inline Int zero() { return _mm256_setzero_si256(); }
inline Int add(Int a, Int b) { return _mm256_add_epi32(a, b); }
inline void store(int32_t *p, Int x) { _mm256_store_si256(reinterpret_cast<__m256i *>(p), x); }
inline Int term(Vec a, Vec least, Vec half, Vec b, Vec size, Vec sign) {
    const Int keep = _mm256_castps_si256(_mm256_cmp_ps(size, least, _CMP_GE_OQ));
    return _mm256_and_si256(keep, _mm256_cvttps_epi32(_mm256_fmadd_ps(a, b, _mm256_xor_ps(half, sign))));
}

#include "fixed_tile.h"

} // namespace
} // namespace anefast

TARGET_END

namespace anefast {
const GemmKernels *gemm_kernels_avx2_fixed() {
    static constexpr GemmKernels kernels = kernels_of("AVX2 FMA Q15.16");
    return &kernels;
}
} // namespace anefast

#else
namespace anefast {
const GemmKernels *gemm_kernels_avx2_fixed() { return nullptr; }
} // namespace anefast
#endif
