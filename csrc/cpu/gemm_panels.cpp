// Packed products: two loops around a kernel's tile, the panel of B innermost in cache.
#include "gemm_panels.h"

#include <algorithm>

#include "gemm_kernels.h"
#include "gemm_library.h"

namespace anefast {
namespace {

constexpr int64_t K_BLOCK = 384; // a panel of B that long stays in the first cache

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Rows first.. of v (rows x columns, fp32) side by side.
void copy_rows(const MatrixView &v, int64_t first, int64_t rows, int64_t columns, float *out) {
    const float *const from = static_cast<const float *>(v.data);
    for (int64_t i = first; i < first + rows; ++i)
        for (int64_t j = 0; j < columns; ++j)
            out[i * columns + j] = from[i * v.row_stride + j * v.col_stride];
}

} // namespace

int64_t b_panels_floats(int64_t k, int64_t n) {
    const int64_t nr = gemm_kernels().nr;
    return k * ceil_div(n, nr) * nr;
}

int64_t a_panels_floats(int64_t m, int64_t k) {
    const int64_t mr = gemm_kernels().mr;
    return k * ceil_div(m, mr) * mr;
}

void pack_b_panels(const MatrixView &b, int64_t k, int64_t n, int64_t k_first, int64_t k_count, float *out) {
    if (gemm_has_library())
        return copy_rows(b, k_first, k_count, n, out);
    const GemmKernels &kern = gemm_kernels();
    kern.pack_b(b, k_first, k_count, 0, n, out + k_first * kern.nr, k * kern.nr);
}

void pack_a_panels(const MatrixView &a, int64_t m, int64_t k, float *out) {
    if (gemm_has_library())
        return copy_rows({a.data, a.elem, a.col_stride, a.row_stride}, 0, k, m, out);
    gemm_kernels().pack_a_panels(a, 0, m, 0, k, out);
}

void gemm_panels(const PanelGemm &g) {
    if (gemm_has_library()) {
        const MatrixView a = g.a_row_stride ? MatrixView{g.a, Elem::f32, g.a_row_stride, 1}
                                            : MatrixView{g.a, Elem::f32, 1, g.m};
        const Gemm plain{g.m, g.n, g.k, a, {g.b, Elem::f32, g.n, 1}, g.c, Elem::f32, g.c_row_stride, g.accumulate, true};
        return gemm_library_rows(plain, 0, g.m);
    }
    const GemmKernels &kern = gemm_kernels();
    const int64_t block = ceil_div(g.k, ceil_div(g.k, K_BLOCK));
    for (int64_t k = 0; k < g.k; k += block)
        for (int64_t j = 0; j < g.n; j += kern.nr)
            for (int64_t i = 0; i < g.m; i += kern.mr) {
                Tile t;
                t.rows = std::min(kern.mr, g.m - i);
                t.columns = std::min(kern.nr, g.n - j);
                t.k_count = std::min(block, g.k - k);
                t.a = g.a_row_stride ? g.a + i * g.a_row_stride + k : g.a + i * g.k + k * kern.mr;
                t.a_row_stride = g.a_row_stride;
                t.b = g.b + j * g.k + k * kern.nr;
                t.c = g.c + i * g.c_row_stride + j;
                t.c_row_stride = g.c_row_stride;
                t.c_half = false;
                t.start = k > 0 || g.accumulate ? static_cast<const float *>(t.c) : nullptr;
                t.start_row_stride = g.c_row_stride;
                kern.tile(t);
            }
}

} // namespace anefast
