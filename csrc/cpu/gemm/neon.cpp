// Matrix product kernels for AArch64: 6 x 16 tiles, 24 of 32 registers accumulate.
#include "kernels.h"

#if defined(__aarch64__)

#include <arm_neon.h>

#include "../../half.h"

namespace anefast {
namespace {

using Vec = float32x4_t;
constexpr int WIDTH = 4, MR = 6, NV = 4, AHEAD = 0;

inline Vec load(const float *p) { return vld1q_f32(p); }
inline void store(float *p, Vec v) { vst1q_f32(p, v); }
inline Vec splat(float x) { return vdupq_n_f32(x); }
inline Vec fma(Vec a, float b, Vec c) { return vfmaq_n_f32(c, a, b); }
inline Vec load_half(const uint16_t *p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
inline void store_half(uint16_t *p, Vec v) { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(v))); }
inline void transpose(Vec r[4]) {
    const float32x4x2_t s = vtrnq_f32(r[0], r[1]), t = vtrnq_f32(r[2], r[3]);
    r[0] = vcombine_f32(vget_low_f32(s.val[0]), vget_low_f32(t.val[0]));
    r[1] = vcombine_f32(vget_low_f32(s.val[1]), vget_low_f32(t.val[1]));
    r[2] = vcombine_f32(vget_high_f32(s.val[0]), vget_high_f32(t.val[0]));
    r[3] = vcombine_f32(vget_high_f32(s.val[1]), vget_high_f32(t.val[1]));
}

#include "tile.h"

} // namespace

const GemmKernels *gemm_kernels_neon() {
    static constexpr GemmKernels kernels = kernels_of("NEON");
    return &kernels;
}

} // namespace anefast

#else
namespace anefast {
const GemmKernels *gemm_kernels_neon() { return nullptr; }
} // namespace anefast
#endif
