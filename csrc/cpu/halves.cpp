// Which kernels of halves.h this processor runs: 16 lanes with AVX-512, 8 with AVX2 and F16C, 8 in plain C++
// elsewhere. The same bits from all of them.
#include "halves.h"

#include <cmath>
#include <cstring>

#include "../half.h"
#include "../isa.h"
#include "exp_sum.h"
#include "target.h"
#include "vecmath.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace anefast {
namespace {

// double -> fp16 in one rounding: to odd in fp32 first.
inline uint16_t half_from_double(double d) {
    float f = static_cast<float>(d);
    if (static_cast<double>(f) != d && d == d && std::fabs(d) <= 3.4e38) {
        uint32_t bits;
        std::memcpy(&bits, &f, 4);
        if (std::fabs(static_cast<double>(f)) > std::fabs(d)) bits -= 1;
        bits |= 1;
        std::memcpy(&f, &bits, 4);
    }
    return half_from_float(f);
}

namespace plain {
constexpr int WIDTH = 8;
typedef float F __attribute__((vector_size(32)));
typedef int32_t I __attribute__((vector_size(32)));
typedef float H __attribute__((vector_size(16)));
typedef double D __attribute__((vector_size(32)));
inline void load_half(F &v, const uint16_t *p) {
    float lanes[WIDTH];
    half_to_floats(p, lanes, WIDTH);
    memcpy(&v, lanes, sizeof v);
}
inline void store_half(uint16_t *p, const F &v) {
    float lanes[WIDTH];
    memcpy(lanes, &v, sizeof v);
    half_from_floats(lanes, p, WIDTH);
}
inline void round_half(F &v) {
    uint16_t rounded[WIDTH];
    store_half(rounded, v);
    load_half(v, rounded);
}
#include "halves_loops.h"
} // namespace plain

} // namespace
} // namespace anefast

#if defined(__x86_64__)

// Neither target has fma: the compiler could not fuse if it wanted to.
TARGET_BEGIN("avx2,f16c")
namespace anefast {
namespace {
namespace eight {
constexpr int WIDTH = 8;
typedef float F __attribute__((vector_size(32)));
typedef int32_t I __attribute__((vector_size(32)));
typedef float H __attribute__((vector_size(16)));
typedef double D __attribute__((vector_size(32)));
inline void load_half(F &v, const uint16_t *p) {
    v = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)));
}
inline void store_half(uint16_t *p, const F &v) {
    _mm_storeu_si128(reinterpret_cast<__m128i *>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
inline void round_half(F &v) { v = _mm256_cvtph_ps(_mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT)); }
#include "halves_loops.h"
} // namespace eight
} // namespace
} // namespace anefast
TARGET_END

AVX512_BEGIN("avx512f,avx2,f16c")
namespace anefast {
namespace {
namespace sixteen {
constexpr int WIDTH = 16;
typedef float F __attribute__((vector_size(64)));
typedef int32_t I __attribute__((vector_size(64)));
typedef float H __attribute__((vector_size(32)));
typedef double D __attribute__((vector_size(64)));
inline void load_half(F &v, const uint16_t *p) {
    v = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)));
}
inline void store_half(uint16_t *p, const F &v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
#ifndef ANEFAST_AVX512
#define TIMES_POWER_OF_2(p, n) _mm512_scalef_ps(p, n)
#define WIDEN(v, low, high)                                                                                            \
    low = _mm512_cvtps_pd(_mm512_castps512_ps256(v));                                                                  \
    high = _mm512_cvtps_pd(_mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(v), 1)))
#endif
inline void round_half(F &v) { v = _mm512_cvtph_ps(_mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT)); }
#include "halves_loops.h"
#undef TIMES_POWER_OF_2
#undef WIDEN
} // namespace sixteen
} // namespace
} // namespace anefast
AVX512_END

#endif

namespace anefast {

const HalfKernels &half_kernels() {
    static const HalfKernels &chosen = []() -> const HalfKernels & {
#if defined(__x86_64__)
        if (isa_allowed() == ISA_AVX512) return sixteen::KERNELS;
        if (isa_allowed() == ISA_AVX2) return eight::KERNELS;
#endif
        return plain::KERNELS;
    }();
    return chosen;
}

} // namespace anefast
