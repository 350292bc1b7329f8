// Q15.16 products in plain C++: a referee of the others, and what AArch64 uses, where compilers make vectors of it.
#include "fixed.h"
#include "kernels.h"

namespace anefast {
namespace {

constexpr int WIDTH = 4, MR = 4, NV = 2;
struct Vec {
    float x[WIDTH];
};
struct Int {
    int32_t x[WIDTH];
};

template <class F> inline Vec each(F &&f) {
    Vec v;
    for (int i = 0; i < WIDTH; ++i) v.x[i] = f(i);
    return v;
}
inline Vec load(const float *p) {
    return each([=](int i) { return p[i]; });
}
inline Vec splat(float x) {
    return each([=](int) { return x; });
}
inline Vec size_of(Vec v) {
    return each([=](int i) { return std::fabs(v.x[i]); });
}
inline Vec sign_of(Vec v) {
    return each([=](int i) { return fixed_bits_to_float(fixed_float_to_bits(v.x[i]) & 0x80000000); });
}
inline Int zero() { return {}; }
inline Int add(Int a, Int b) {
    for (int i = 0; i < WIDTH; ++i) a.x[i] += b.x[i];
    return a;
}
inline void store(int32_t *p, Int v) { std::memcpy(p, v.x, sizeof v.x); }
inline Int term(Vec a, Vec least, Vec half, Vec b, Vec size, Vec sign) {
    Int z;
    for (int i = 0; i < WIDTH; ++i) {
        const float away = fixed_bits_to_float(fixed_float_to_bits(half.x[i]) ^ fixed_float_to_bits(sign.x[i]));
        const int32_t rounded = static_cast<int32_t>(a.x[i] * b.x[i] + away);
        z.x[i] = size.x[i] >= least.x[i] ? rounded : 0;
    }
    return z;
}

#include "fixed_tile.h"

} // namespace

const GemmKernels *gemm_kernels_portable_fixed() {
    static constexpr GemmKernels kernels = kernels_of("portable Q15.16");
    return &kernels;
}

} // namespace anefast
