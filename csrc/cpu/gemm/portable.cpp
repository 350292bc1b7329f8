// Matrix product kernels in plain C++, for processors without a path of their own and as a referee of the others.
#include "../../half.h"
#include "kernels.h"

namespace anefast {
namespace {

struct Vec {
    float x[4];
};
constexpr int WIDTH = 4, MR = 4, NV = 1, AHEAD = 0;

inline Vec load(const float *p) { return {{p[0], p[1], p[2], p[3]}}; }
inline void store(float *p, Vec v) { std::memcpy(p, v.x, sizeof v.x); }
inline Vec splat(float x) { return {{x, x, x, x}}; }
inline Vec fma(Vec a, float b, Vec c) {
    for (int i = 0; i < WIDTH; ++i) c.x[i] = fma_exact(a.x[i], b, c.x[i]);
    return c;
}
inline Vec load_half(const uint16_t *p) {
    return {{half_to_float(p[0]), half_to_float(p[1]), half_to_float(p[2]), half_to_float(p[3])}};
}
inline void store_half(uint16_t *p, Vec v) {
    for (int i = 0; i < WIDTH; ++i) p[i] = half_from_float(v.x[i]);
}
inline void transpose(Vec r[WIDTH]) {
    for (int i = 0; i < WIDTH; ++i)
        for (int j = 0; j < i; ++j) {
            const float t = r[i].x[j];
            r[i].x[j] = r[j].x[i];
            r[j].x[i] = t;
        }
}

#include "tile.h"

} // namespace

const GemmKernels *gemm_kernels_portable() {
    static constexpr GemmKernels kernels = kernels_of("portable");
    return &kernels;
}

} // namespace anefast
