// Thin products: a few columns (or rows) of C, so that what costs is to read the wide operand. It is read once, where
// it lies, and nothing of it is packed. Numbers are gemm.h's; thin.h is the code.
#include "thin.h"

#include <algorithm>
#include <numeric>

#include "../../half.h"
#include "../../round.h"
#include "kernels.h"
#include "path.h"
#include "../pool.h"
#include "../scratch.h"

namespace anefast {
namespace {

constexpr int64_t SERIAL_BYTES = 48 * 1024; // of the wide operand: one thread is done before another wakes
constexpr int64_t TASK_BYTES = 64 * 1024;

// Never destroyed: a worker may outlive static destructors.
ScratchShelf &shelf() {
    static ScratchShelf &one = *new ScratchShelf;
    return one;
}

const GemmKernels &kernels_for(const Gemm &g) {
    return g.a.elem == Elem::f16 && g.b.elem == Elem::f16 ? *gemm_path().halves : *gemm_path().floats;
}

bool contiguous(const MatrixView &v) { return v.row_stride == 1 || v.col_stride == 1; }
bool a_is_wide(const Gemm &g) { return g.n <= THIN_MOST && contiguous(g.a) && (g.m >= g.n || !contiguous(g.b)); }
bool b_is_wide(const Gemm &g) { return g.m <= THIN_MOST && contiguous(g.b); }
int64_t size_of(Elem e) { return e == Elem::f16 ? 2 : 4; }

// (k, count) floats of the thin operand.
void gather(const MatrixView &v, int64_t k_stride, int64_t stride, int64_t k_count, int64_t count, float *out) {
    if (v.elem == Elem::f16) {
        const auto *const halves = static_cast<const uint16_t *>(v.data);
        if (stride == 1) return half_to_floats_rows(halves, k_stride, out, count, k_count, count);
        if (k_stride == 1) return half_to_floats_transposed(halves, stride, out, count, count, k_count);
    }
    for (int64_t k = 0; k < k_count; ++k)
        for (int64_t j = 0; j < count; ++j) {
            const int64_t at = k * k_stride + j * stride;
            *out++ = v.elem == Elem::f32 ? static_cast<const float *>(v.data)[at]
                                         : half_to_float(static_cast<const uint16_t *>(v.data)[at]);
        }
}

} // namespace

bool is_thin(const Gemm &g) {
    return g.arithmetic == Arithmetic::fp32 && g.k > 0 && kernels_for(g).thin && (a_is_wide(g) || b_is_wide(g));
}

bool gemm_wants_blocks(const Gemm &g) {
    return is_thin(g) && a_is_wide(g) && g.a.elem == Elem::f16 && g.a.col_stride == 1 && g.a.row_stride == g.k &&
           g.m >= THIN_BLOCK;
}

size_t gemm_blocked_size(int64_t m, int64_t k) { return static_cast<size_t>(round_up(m, THIN_BLOCK) * k); }

void gemm_block_rows(const uint16_t *a, int64_t m, int64_t k, uint16_t *out) {
    Pool::shared().parallel(ceil_div(m, THIN_BLOCK), [&](int64_t block) {
        const int64_t first = block * THIN_BLOCK, rows = std::min(THIN_BLOCK, m - first);
        const uint16_t *const from = a + first * k;
        uint16_t *const to = out + first * k;
        for (int64_t j = 0; j < k; ++j)
            for (int64_t i = 0; i < THIN_BLOCK; ++i) to[j * THIN_BLOCK + i] = i < rows ? from[i * k + j] : 0;
    });
}

void gemm_thin(const Gemm &g, bool alone) {
    const bool by_rows = a_is_wide(g); // the wide operand is A
    if (by_rows && g.prologue) (*g.prologue)(g.first_column, g.n);
    const MatrixView &wide = by_rows ? g.a : g.b, &other = by_rows ? g.b : g.a;
    Thin t{};
    t.lanes = by_rows ? g.m : g.n;
    t.count = by_rows ? g.n : g.m;
    t.k_count = g.k;
    t.wide_half = wide.elem == Elem::f16;
    t.lane_stride = by_rows ? wide.row_stride : wide.col_stride;
    t.k_stride = by_rows ? wide.col_stride : wide.row_stride;
    const bool blocked = g.blocked && gemm_wants_blocks(g);
    if (blocked) {
        t.block = t.k_stride = THIN_BLOCK;
        t.lane_stride = g.k; // from block to block, where tasks begin
    }
    t.c_half = g.c_elem == Elem::f16;
    t.c_lane_stride = by_rows ? g.c_row_stride : 1;
    t.c_thin_stride = by_rows ? 1 : g.c_row_stride;
    t.accumulate = g.accumulate;
    const ScratchShelf::Lent held = shelf().take();
    float *const thin = held->get(g.k * t.count);
    gather(other, by_rows ? other.row_stride : other.col_stride, by_rows ? other.col_stride : other.row_stride, g.k,
           t.count, thin);
    t.thin = thin;

    const int64_t lane_bytes = g.k * size_of(wide.elem);
    const int64_t unit = by_rows && g.epilogue ? std::lcm(THIN_BLOCK, g.epilogue->unit) : THIN_BLOCK;
    int64_t share = t.lanes;
    if (!alone && t.lanes * lane_bytes > SERIAL_BYTES)
        share = std::min(round_up(std::max<int64_t>(1, TASK_BYTES / lane_bytes), unit),
                         round_up(ceil_div(t.lanes, static_cast<int64_t>(Pool::shared().threads())), unit));
    const auto run = [&](int64_t task) {
        Thin part = t;
        const int64_t first = task * share;
        part.lanes = std::min(share, t.lanes - first);
        part.wide = (blocked ? reinterpret_cast<const char *>(g.blocked) : static_cast<const char *>(wide.data)) +
                    first * t.lane_stride * size_of(wide.elem);
        part.c = static_cast<char *>(g.c) + first * t.c_lane_stride * size_of(g.c_elem);
        if (!by_rows && g.prologue) (*g.prologue)(g.first_column + first, part.lanes);
        kernels_for(g).thin(part);
        if (!g.epilogue) return;
        if (by_rows) g.epilogue->run(first, part.lanes, g.first_column, g.n);
        else g.epilogue->run(0, g.m, g.first_column + first, part.lanes);
    };
    const int64_t tasks = ceil_div(t.lanes, share);
    if (tasks == 1) run(0);
    else Pool::shared().parallel_apart(tasks, run);
}

} // namespace anefast
