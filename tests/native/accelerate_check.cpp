// Runs csrc/cpu/gemm/accelerate.cpp where there is no Accelerate: against a plain sgemm that insists on its arguments.
//
// Prints gemm_isa() and exits 0, or says which product was wrong. A test program only, see tests/test_native.py.
#include <Accelerate/Accelerate.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "../../csrc/cpu/gemm/gemm.h"
#include "../../csrc/cpu/gemm/panels.h"
#include "../../csrc/cpu/pool.h"
#include "../../csrc/half.h"

namespace {
int calls = 0;
}

// Backwards over k and in double: any order is allowed, and this one is not the chain's.
void cblas_sgemm(const enum CBLAS_ORDER order, const enum CBLAS_TRANSPOSE ta, const enum CBLAS_TRANSPOSE tb,
                 const int m, const int n, const int k, const float alpha, const float *a, const int lda,
                 const float *b, const int ldb, const float beta, float *c, const int ldc) {
    if (order != CblasRowMajor || lda < (ta == CblasTrans ? m : k) || ldb < (tb == CblasTrans ? k : n) || ldc < n ||
        lda < 1 || ldb < 1) {
        std::printf("sgemm refuses m %d n %d k %d lda %d ldb %d ldc %d\n", m, n, k, lda, ldb, ldc);
        std::exit(1);
    }
    ++calls;
    for (int i = 0; i < m; ++i)
        for (int j = 0; j < n; ++j) {
            double sum = 0;
            for (int l = k - 1; l >= 0; --l)
                sum += static_cast<double>(ta == CblasTrans ? a[l * lda + i] : a[i * lda + l]) *
                       (tb == CblasTrans ? b[j * ldb + l] : b[l * ldb + j]);
            c[i * ldc + j] = static_cast<float>(alpha * sum + (beta == 0 ? 0 : beta * c[i * ldc + j]));
        }
}

using namespace anefast;

namespace {

struct Matrix { // stored by rows, by columns, or with gaps both ways
    std::vector<float> wide;
    std::vector<uint16_t> narrow;
    MatrixView view;
    Matrix(int64_t rows, int64_t columns, bool half, int layout)
        : wide((2 * rows + 1) * (2 * columns + 1)), narrow(wide.size()) {
        for (size_t i = 0; i < wide.size(); ++i) wide[i] = std::sin(static_cast<float>(i * 7 + 1));
        half_from_floats(wide.data(), narrow.data(), wide.size());
        half_to_floats(narrow.data(), wide.data(), wide.size()); // the same values in both
        const int64_t strides[4][2] = {{columns, 1}, {1, rows}, {columns + 1, 1}, {2 * columns, 2}};
        view = {half ? static_cast<const void *>(narrow.data()) : wide.data(), half ? Elem::f16 : Elem::f32,
                strides[layout][0], strides[layout][1]};
    }
};

bool product(int64_t m, int64_t n, int64_t k, int kind, bool queued) {
    const Matrix a(m, k, kind & 1, kind >> 1 & 3), b(k, n, kind & 8, kind >> 4 & 3);
    std::vector<float> got(m * (n + 2), 0.5f), want = got;
    Gemm g{m, n, k, a.view, b.view, got.data(), Elem::f32, n + 2, (kind & 64) != 0, true};
    const int before = calls;
    FirstError failure;
    if (queued) gemm_enqueue(got.data(), g, failure), Pool::shared().drain();
    else gemm(g);
    const bool went = calls > before;
    g.c = want.data();
    gemm_reference(g);
    for (size_t i = 0; i < want.size(); ++i)
        if (!(std::fabs(got[i] - want[i]) <= 1e-5 * (1 + k))) return false;
    g.c = got.data(), g.any_order = false;
    gemm(g); // exact, so it must not have gone there
    return went == (k > 0) && calls - before <= (queued ? m : 1);
}

bool packed_product(int64_t m, int64_t n, int64_t k, bool a_turned) {
    const Matrix a(m, k, false, a_turned), b(k, n, false, 1);
    std::vector<float> packed(b_panels_floats(k, n)), got(m * n, 0.5f), want = got;
    pack_b_panels(b.view, k, n, 0, k / 2, packed.data());
    pack_b_panels(b.view, k, n, k / 2, k - k / 2, packed.data());
    const int before = calls;
    gemm_panels({m, n, k, a.view, packed.data(), got.data(), n, true});
    gemm_reference({m, n, k, a.view, b.view, want.data(), Elem::f32, n, true});
    for (size_t i = 0; i < want.size(); ++i)
        if (!(std::fabs(got[i] - want[i]) <= 1e-5 * (1 + k))) return false;
    return calls == before + 1;
}

} // namespace

int main() {
    const int64_t sizes[][3] = {{1, 1, 1}, {1, 5, 3}, {7, 1, 4}, {7, 9, 0}, {20, 30, 40}};
    for (const auto &s : sizes)
        for (int kind = 0; kind < 128; ++kind)
            for (int queued = 0; queued < 2; ++queued)
                if (!product(s[0], s[1], s[2], kind, queued)) {
                    std::printf("wrong at m %lld n %lld k %lld, kind %d\n", static_cast<long long>(s[0]),
                                static_cast<long long>(s[1]), static_cast<long long>(s[2]), kind);
                    return 1;
                }
    if (!product(700, 600, 500, 2, true)) return 1; // in several queued tasks
    if (!packed_product(11, 9, 13, false) || !packed_product(11, 9, 13, true)) return 1;
    std::printf("%s\n", gemm_isa());
    return 0;
}
