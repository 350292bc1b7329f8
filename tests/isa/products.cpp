// Multiplies matrices of many shapes, types and layouts on the path that ANEFAST_ISA names, with 1 to 3
// threads, and compares: to the byte with that path's definition (gemm.h), and within the error bound of an
// fp32 sum with double precision. Prints the path and what it checked; 1 is returned where something differs.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "cpu/gemm.h"
#include "cpu/pool.h"
#include "half.h"

using namespace anefast;

namespace {

struct Matrix {
    std::vector<uint16_t> halves;
    std::vector<float> floats;
    MatrixView view{};
    float at(int64_t i, int64_t j) const {
        const int64_t e = i * view.row_stride + j * view.col_stride;
        return view.elem == Elem::f32 ? floats[e] : half_to_float(halves[e]);
    }
};

std::mt19937 rng(7);

Matrix random_matrix(int64_t rows, int64_t columns, Elem elem, bool turned, int64_t gap) {
    std::normal_distribution<float> normal;
    Matrix m;
    const int64_t pitch = (turned ? rows : columns) + gap, size = pitch * (turned ? columns : rows) + 1;
    m.view.elem = elem;
    m.view.row_stride = turned ? 1 : pitch;
    m.view.col_stride = turned ? pitch : 1;
    for (int64_t i = 0; i < size; ++i) {
        const float x = normal(rng) * (i % 97 == 0 ? 1e-5f : 1.0f); // some of them subnormal halves
        if (elem == Elem::f32)
            m.floats.push_back(x);
        else
            m.halves.push_back(half_from_float(x));
    }
    m.view.data = elem == Elem::f32 ? static_cast<const void *>(m.floats.data()) : m.halves.data();
    return m;
}

float bf16(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
    std::memcpy(&x, &bits, 4);
    return x;
}

// One block of 32 k as one tile instruction adds it.
template <class A, class B> float add_block(float sum, int64_t k, int64_t end, A a, B b) {
    float part[2] = {0, 0};
    for (int64_t i = k; i < end; ++i)
        part[i % 2] = std::fma(a(i), b(i), part[i % 2]);
    return sum + (part[0] + part[1]);
}

float amx_element(const Gemm &g, const Matrix &a, const Matrix &b, int64_t i, int64_t j, float sum, bool pairs_of_fp16) {
    const auto x = [&](int64_t k) { return a.at(i, k); };
    const auto y = [&](int64_t k) { return b.at(k, j); };
    const auto x_high = [&](int64_t k) { return bf16(x(k)); };
    const auto y_high = [&](int64_t k) { return bf16(y(k)); };
    const auto x_low = [&](int64_t k) { return bf16(x(k) - bf16(x(k))); };
    const auto y_low = [&](int64_t k) { return bf16(y(k) - bf16(y(k))); };
    for (int64_t k = 0; k < g.k; k += 32) {
        const int64_t end = std::min(g.k, k + 32);
        if (pairs_of_fp16) {
            sum = add_block(sum, k, end, x, y);
        } else {
            sum = add_block(sum, k, end, x_low, y_high);
            sum = add_block(sum, k, end, x_high, y_high);
            sum = add_block(sum, k, end, x_high, y_low);
        }
    }
    return sum;
}

int failures = 0;
long checked = 0;

void check(int64_t m, int64_t n, int64_t k, Elem ea, Elem eb, Elem ec, bool ta, bool tb, bool accumulate) {
    const std::string isa = gemm_isa();
    const bool amx = isa.rfind("AMX", 0) == 0, fp16 = isa.rfind("AMX-FP16", 0) == 0 && ea == Elem::f16 && eb == Elem::f16;
    const Matrix a = random_matrix(m, k, ea, ta, 3), b = random_matrix(k, n, eb, tb, k % 2 ? 0 : 4);
    const int64_t pitch = n + 5;
    const Matrix start = random_matrix(m, pitch, ec, false, 0);
    std::vector<float> f = start.floats;
    std::vector<uint16_t> h = start.halves;
    Gemm g{m, n, k, a.view, b.view, nullptr, ec, pitch, accumulate};
    g.c = ec == Elem::f32 ? static_cast<void *>(f.data()) : h.data();
    // 1) the definition
    if (amx) {
        for (int64_t i = 0; i < m; ++i)
            for (int64_t j = 0; j < n; ++j) {
                const float sum = amx_element(g, a, b, i, j, accumulate ? f[i * pitch + j] : 0, fp16);
                if (ec == Elem::f32) f[i * pitch + j] = sum;
                else h[i * pitch + j] = half_from_float(sum);
            }
    } else {
        gemm_reference(g);
    }
    const std::vector<float> want_f = f;
    const std::vector<uint16_t> want_h = h;
    for (int threads = 1; threads <= 3; ++threads) {
        Pool::shared().set_threads(threads);
        f = start.floats;
        h = start.halves;
        gemm(g);
        const bool same = ec == Elem::f32 ? !std::memcmp(f.data(), want_f.data(), f.size() * 4)
                                          : !std::memcmp(h.data(), want_h.data(), h.size() * 2);
        checked++;
        if (!same && failures++ < 10)
            std::printf("differs: %ldx%ldx%ld a%d%d b%d%d c%d acc%d threads %d\n", long(m), long(n), long(k), int(ea), ta,
                        int(eb), tb, int(ec), accumulate, threads);
    }
    // 2) the error bound: k roundings of partial sums, and for a split operand 2^-16 of each product
    for (int64_t i = 0; i < m && ec == Elem::f32; i += 7)
        for (int64_t j = 0; j < n; j += 5) {
            double sum = accumulate ? start.floats[i * pitch + j] : 0, size = std::fabs(sum);
            for (int64_t l = 0; l < k; ++l) {
                const double p = static_cast<double>(a.at(i, l)) * b.at(l, j);
                sum += p, size += std::fabs(p);
            }
            const double bound = size * ((k + 3) * 6e-8 + (amx && !fp16 ? 1.6e-5 : 0)) + 1e-30;
            if (!(std::fabs(f[i * pitch + j] - sum) <= bound) && failures++ < 10)
                std::printf("too far: %ldx%ldx%ld: %g from %g, bound %g\n", long(m), long(n), long(k), f[i * pitch + j], sum, bound);
        }
}

} // namespace

int main() {
    const int64_t sizes[][3] = {{1, 1, 1},    {6, 16, 1},    {7, 17, 9},    {33, 31, 40},  {32, 32, 32}, {64, 64, 64},
                                {64, 96, 33}, {48, 130, 96}, {35, 67, 416}, {3, 40, 1300}};
    const Elem half = Elem::f16, single = Elem::f32;
    const Elem types[][3] = {{half, half, half}, {half, half, single}, {single, single, single}, {single, half, single}, {half, single, half}};
    for (const auto &s : sizes)
        for (const auto &t : types)
            for (int turned = 0; turned < 4; ++turned) {
                check(s[0], s[1], s[2], t[0], t[1], t[2], turned & 1, turned >> 1, false);
                if (t[2] == single)
                    check(s[0], s[1], s[2], t[0], t[1], t[2], turned & 1, turned >> 1, true);
            }
    std::printf("%s: %ld products, %d wrong\n", gemm_isa(), checked, failures);
    return failures != 0;
}
