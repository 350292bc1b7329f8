// Packed products: strips of C side by side, each on its panel of B in cache.
#include "panels.h"

#include <algorithm>

#include "library.h"
#include "path.h"
#include "rows.h"
#include "../scratch.h"

namespace anefast {
namespace {

constexpr int64_t K_BLOCK = 384; // a panel of B that long stays in the nearest caches

thread_local Scratch rows_scratch; // rows of A, for kernels that read panels only

const GemmKernels &kernels(Elem elem) { return elem == Elem::f16 ? *gemm_path().halves : *gemm_path().floats; }

bool goes_to_library(Elem elem) { return gemm_path().library && elem == Elem::f32; }

// Rows first.. of v (rows x columns, fp32) side by side.
void copy_rows(const MatrixView &v, int64_t first, int64_t rows, int64_t columns, float *out) {
    const float *const from = static_cast<const float *>(v.data);
    for (int64_t i = first; i < first + rows; ++i)
        for (int64_t j = 0; j < columns; ++j) out[i * columns + j] = from[i * v.row_stride + j * v.col_stride];
}

// Whether the kernels take a where it lies: contiguous rows of fp32 where they take rows at all.
bool reads_in_place(const GemmKernels &kern, const PanelGemm &g) {
    if (g.a.elem == Elem::f32) return kern.pack_a_rows && g.a.col_stride == 1;
    Gemm whole{};
    whole.m = g.m, whole.n = g.n, whole.k = g.k, whole.a = g.a;
    return kern.in_place && kern.in_place(whole);
}

} // namespace

int64_t b_panels_floats(int64_t k, int64_t n, Elem elem) {
    const GemmKernels &kern = kernels(elem);
    return round_up(k, kern.k_unit) * round_up(n, kern.nr) * kern.packed_bytes / 4;
}

void pack_b_panels(const MatrixView &b, int64_t k, int64_t n, int64_t k_first, int64_t k_count, float *out) {
    if (goes_to_library(b.elem)) return copy_rows(b, k_first, k_count, n, out);
    const GemmKernels &kern = kernels(b.elem);
    const int64_t per_k = kern.nr * kern.packed_bytes;
    kern.pack_b(b, k_first, k_count, 0, n, reinterpret_cast<uint8_t *>(out) + k_first * per_k,
                round_up(k, kern.k_unit) * per_k);
}

void gemm_panels(const PanelGemm &g) {
    if (goes_to_library(g.a.elem)) {
        const Gemm plain{g.m,          g.n, g.k, g.a, {g.b, Elem::f32, g.n, 1}, g.c, Elem::f32, g.c_row_stride,
                         g.accumulate, true};
        return gemm_library_rows(plain, 0, g.m);
    }
    const GemmKernels &kern = kernels(g.a.elem);
    const int64_t block = round_up(ceil_div(g.k, ceil_div(g.k, K_BLOCK)), kern.k_unit),
                  padded = round_up(g.k, kern.k_unit);
    const bool in_place = reads_in_place(kern, g);
    const Entered entered(kern);
    for (int64_t k = 0; k < g.k; k += block) {
        const int64_t k_count = std::min(block, g.k - k);
        Strip s;
        take_rows(kern, g.a, 0, g.m, k, k_count, in_place, rows_scratch, &s);
        s.rows = g.m;
        s.k_count = k_count;
        s.c_half = false;
        s.start_row_stride = s.c_row_stride = g.c_row_stride;
        for (int64_t j = 0; j < g.n; j += kern.nr) {
            s.columns = std::min(kern.nr, g.n - j);
            s.b = reinterpret_cast<const uint8_t *>(g.b) + (j * padded + k * kern.nr) * kern.packed_bytes;
            s.c = g.c + j;
            s.start = k > 0 || g.accumulate ? g.c + j : nullptr;
            kern.strip(s);
        }
    }
}

} // namespace anefast
