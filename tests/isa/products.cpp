// Multiplies matrices of many shapes, types and layouts on the path that ANEFAST_ISA names, with 1 to 3
// threads, and compares: to the byte with that path's definition (gemm.h), and within the error bound of an
// fp32 sum with double precision. Prints the path and what it checked; 1 is returned where something differs.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "cpu/gemm/panels.h"
#include "cpu/gemm/path.h"
#include "cpu/pool.h"
#include "cpu/scratch.h"
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

float from_bits(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

// Not finite, or on its way there; of the two NaN one has its payload where neither bf16 nor a tie would see it.
const uint32_t SPECIAL_FLOATS[] = {0x7f800000, 0x00000001, 0x7f800001, 0x80000000, 0x007fffff, 0xff7fffff,
                                   0x807fffff, 0xff800000, 0x00ffffff, 0xffc00000, 0x0480ffff, 0x7f7f8000};
const uint16_t SPECIAL_HALVES[] = {0x7c00, 0x0001, 0x7c01, 0x8000, 0x03ff, 0xfbff, 0x83ff, 0xfc00, 0x0401, 0xfe00};

struct Layout {
    bool turned = false; // columns are contiguous
    int64_t gap = 0;     // elements between rows
    int64_t step = 1;    // from element to element
    bool special = false;
};

// Nothing lies behind the last element.
Matrix random_matrix(int64_t rows, int64_t columns, Elem elem, Layout layout) {
    std::normal_distribution<float> normal;
    Matrix m;
    const int64_t outer = layout.turned ? columns : rows, inner = layout.turned ? rows : columns;
    const int64_t pitch = inner * layout.step + layout.gap, size = (outer - 1) * pitch + (inner - 1) * layout.step + 1;
    m.view.elem = elem;
    m.view.row_stride = layout.turned ? layout.step : pitch;
    m.view.col_stride = layout.turned ? pitch : layout.step;
    for (int64_t i = 0; i < size; ++i) {
        const float x = normal(rng) * (i % 97 == 0 ? 1e-5f : 1.0f); // some of them subnormal halves
        const bool special = layout.special && i % 53 == 7;
        if (special && elem == Elem::f32)
            m.floats.push_back(from_bits(SPECIAL_FLOATS[i / 53 % std::size(SPECIAL_FLOATS)]));
        else if (special) m.halves.push_back(SPECIAL_HALVES[i / 53 % std::size(SPECIAL_HALVES)]);
        else if (elem == Elem::f32) m.floats.push_back(x);
        else m.halves.push_back(half_from_float(x));
    }
    m.view.data = elem == Elem::f32 ? static_cast<const void *>(m.floats.data()) : m.halves.data();
    return m;
}

float flushed(float x) { return std::fabs(x) < 1.17549435e-38f ? 0.0f * x : x; }

// A value's two parts; subnormals are taken for 0.
float high(float x) {
    uint32_t bits;
    x = flushed(x);
    std::memcpy(&bits, &x, 4);
    return x != x ? x : from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u);
}
float low(float x) { return std::isfinite(high(x)) ? high(x - high(x)) : 0.0f; }

// One block of 32 k as one tile instruction adds it.
template <class A, class B> float add_block(float sum, int64_t k, int64_t end, A a, B b) {
    float part[2] = {0, 0};
    for (int64_t i = k; i < end; ++i) part[i % 2] = flushed(std::fma(a(i), b(i), part[i % 2]));
    return flushed(flushed(sum) + flushed(part[0] + part[1]));
}

// What a path makes of its operands, and how it sums.
enum class Path { chain, tiles_fp16, tiles_split, tiles_relaxed, pairs_relaxed };

Path path_of(const std::string &isa, Elem a, Elem b) {
    const auto is = [&](const char *name) { return isa.rfind(name, 0) == 0; };
    if (is("AMX-BF16 relaxed")) return Path::tiles_relaxed;
    if (is("AVX-512 BF16 relaxed")) return Path::pairs_relaxed;
    if (is("AMX-FP16") && a == Elem::f16 && b == Elem::f16) return Path::tiles_fp16;
    return is("AMX") ? Path::tiles_split : Path::chain;
}

// Part of a product's size that its operands' rounding may cost.
double lost(Path path) {
    switch (path) {
    case Path::tiles_split: return 1.6e-5; // 2^-16
    case Path::tiles_relaxed:
    case Path::pairs_relaxed: return 7.9e-3; // 2^-8 of each operand, so 2^-7 + 2^-16
    default: return 0;
    }
}

float element(Path path, const Gemm &g, const Matrix &a, const Matrix &b, int64_t i, int64_t j, float sum) {
    const auto x = [&](int64_t k) { return a.at(i, k); };
    const auto y = [&](int64_t k) { return b.at(k, j); };
    const auto x_high = [&](int64_t k) { return high(x(k)); };
    const auto y_high = [&](int64_t k) { return high(y(k)); };
    const auto x_low = [&](int64_t k) { return low(x(k)); };
    const auto y_low = [&](int64_t k) { return low(y(k)); };
    if (path == Path::pairs_relaxed) {
        for (int64_t k = 0; k < g.k; k += 2) { // the second first
            sum = k + 1 < g.k ? flushed(std::fma(x_high(k + 1), y_high(k + 1), flushed(sum))) : flushed(sum);
            sum = flushed(std::fma(x_high(k), y_high(k), sum));
        }
        return sum;
    }
    for (int64_t k = 0; k < g.k; k += 32) {
        const int64_t end = std::min(g.k, k + 32);
        if (path == Path::tiles_fp16) sum = add_block(sum, k, end, x, y);
        if (path == Path::tiles_split) sum = add_block(sum, k, end, x_low, y_high);
        if (path != Path::tiles_fp16) sum = add_block(sum, k, end, x_high, y_high);
        if (path == Path::tiles_split) sum = add_block(sum, k, end, x_high, y_low);
    }
    return sum;
}

int failures = 0;
long checked = 0;

// To the byte, but one NaN is as good as another.
bool same(const std::vector<float> &a, const std::vector<float> &b) {
    return std::equal(a.begin(), a.end(), b.begin(),
                      [](float x, float y) { return (x != x && y != y) || !std::memcmp(&x, &y, 4); });
}
bool same(const std::vector<uint16_t> &a, const std::vector<uint16_t> &b) {
    const auto is_nan = [](uint16_t h) { return (h & 0x7fff) > 0x7c00; };
    return std::equal(a.begin(), a.end(), b.begin(),
                      [&](uint16_t x, uint16_t y) { return (is_nan(x) && is_nan(y)) || x == y; });
}

void check(int64_t m, int64_t n, int64_t k, Elem ea, Elem eb, Elem ec, Layout la, Layout lb, bool accumulate) {
    const Path path = path_of(gemm_isa(), ea, eb);
    const Matrix a = random_matrix(m, k, ea, la), b = random_matrix(k, n, eb, lb);
    const int64_t pitch = n + 5;
    const Matrix start = random_matrix(m, pitch, ec, {});
    std::vector<float> f = start.floats;
    std::vector<uint16_t> h = start.halves;
    Gemm g{m, n, k, a.view, b.view, nullptr, ec, pitch, accumulate};
    g.c = ec == Elem::f32 ? static_cast<void *>(f.data()) : h.data();
    // 1) the definition
    if (path != Path::chain) {
        for (int64_t i = 0; i < m; ++i)
            for (int64_t j = 0; j < n; ++j) {
                const float sum = element(path, g, a, b, i, j, accumulate ? f[i * pitch + j] : 0);
                if (ec == Elem::f32) f[i * pitch + j] = sum;
                else h[i * pitch + j] = half_from_float(sum);
            }
    } else {
        gemm_reference(g);
    }
    const std::vector<float> want_f = f;
    const std::vector<uint16_t> want_h = h;
    // What follows sees each element of C once, as it stays.
    std::vector<uint32_t> seen, stays;
    const auto bits = [&](int64_t i, int64_t j) {
        uint32_t x = 0;
        if (ec == Elem::f32) std::memcpy(&x, &f[i * pitch + j], 4);
        else x = h[i * pitch + j];
        return x + 1;
    };
    Epilogue epilogue;
    epilogue.unit = 1 + (m + n) % 3;
    epilogue.run = [&](int64_t row, int64_t rows, int64_t column, int64_t columns) {
        const bool whole = row % epilogue.unit == 0 && (rows % epilogue.unit == 0 || row + rows == m);
        for (int64_t i = row; i < row + rows; ++i)
            for (int64_t j = column; j < column + columns; ++j) seen[i * n + j] += whole ? bits(i, j) : 0;
    };
    g.epilogue = &epilogue;
    // The prologue makes each column of B once.
    Matrix late = b;
    late.view.data = eb == Elem::f32 ? static_cast<const void *>(late.floats.data()) : late.halves.data();
    std::vector<int> made;
    const Prologue prologue = [&](int64_t column, int64_t columns) {
        for (int64_t j = column; j < column + columns; ++j) {
            ++made[j];
            for (int64_t l = 0; l < k; ++l) {
                const int64_t e = l * b.view.row_stride + j * b.view.col_stride;
                if (eb == Elem::f32) late.floats[e] = b.floats[e];
                else late.halves[e] = b.halves[e];
            }
        }
    };
    g.b = late.view;
    g.prologue = &prologue;
    for (int threads = 1; threads <= 3; ++threads) {
        Pool::shared().set_threads(threads);
        f = start.floats;
        h = start.halves;
        seen.assign(m * n, 0);
        made.assign(n, 0);
        std::fill(late.floats.begin(), late.floats.end(), 9.0f);
        std::fill(late.halves.begin(), late.halves.end(), uint16_t{0x4880});
        gemm(g);
        stays.clear();
        for (int64_t i = 0; i < m; ++i)
            for (int64_t j = 0; j < n; ++j) stays.push_back(bits(i, j));
        checked++;
        if (!(same(f, want_f) && same(h, want_h) && seen == stays && made == std::vector<int>(n, 1)) && failures++ < 10)
            std::printf("differs: %ldx%ldx%ld a%d%d b%d%d c%d acc%d step %d special %d threads %d\n", long(m), long(n),
                        long(k), int(ea), la.turned, int(eb), lb.turned, int(ec), accumulate, int(la.step),
                        la.special || lb.special, threads);
    }
    if (ec == Elem::f32 && ea == eb) { // the same of an operand packed before, in two pieces
        Scratch panels;
        float *const packed = panels.get(b_panels_floats(k, n, eb));
        const int64_t first = std::min<int64_t>(k, 32);
        pack_b_panels(b.view, k, n, 0, first, packed);
        if (first < k) pack_b_panels(b.view, k, n, first, k - first, packed);
        f = start.floats;
        gemm_panels({m, n, k, a.view, packed, f.data(), pitch, accumulate});
        checked++;
        if (!same(f, want_f) && failures++ < 10)
            std::printf("packed differs: %ldx%ldx%ld of %d, a turned %d, b turned %d, acc%d\n", long(m), long(n),
                        long(k), int(ea), la.turned, lb.turned, accumulate);
    }
    if (la.special || lb.special) return;
    // 2) the error bound: k roundings of partial sums, and what operands lost
    for (int64_t i = 0; i < m && ec == Elem::f32; i += 7)
        for (int64_t j = 0; j < n; j += 5) {
            double sum = accumulate ? start.floats[i * pitch + j] : 0, size = std::fabs(sum);
            for (int64_t l = 0; l < k; ++l) {
                const double p = static_cast<double>(a.at(i, l)) * b.at(l, j);
                sum += p, size += std::fabs(p);
            }
            const double bound = size * ((k + 3) * 6e-8 + lost(path)) + 1e-30;
            if (!(std::fabs(f[i * pitch + j] - sum) <= bound) && failures++ < 10)
                std::printf("too far: %ldx%ldx%ld: %g from %g, bound %g\n", long(m), long(n), long(k), f[i * pitch + j],
                            sum, bound);
        }
}

// In as many passes as the path takes, what is counted are products.
void check_peak() {
    const GemmKernels &kernels = *gemm_path().halves;
    if (!kernels.in_registers) return;
    if (kernels.enter) kernels.enter();
    const double flops = kernels.in_registers(3);
    if (kernels.leave) kernels.leave();
    const int64_t k = kernels.enter ? 32 : 2; // of one instruction
    failures += flops != 3.0 * 2 * static_cast<double>(kernels.mr * kernels.nr * k);
}

} // namespace

int main() {
    const int64_t sizes[][3] = {{1, 1, 1},    {6, 16, 1},   {7, 17, 9},    {33, 31, 40},  {32, 32, 32},
                                {64, 64, 64}, {64, 96, 33}, {48, 130, 96}, {35, 67, 416}, {3, 40, 1300}};
    const Elem half = Elem::f16, single = Elem::f32;
    const Elem types[][3] = {{half, half, half},
                             {half, half, single},
                             {single, single, single},
                             {single, half, single},
                             {half, single, half}};
    for (const auto &s : sizes)
        for (const auto &t : types)
            for (int turned = 0; turned < 4; ++turned) {
                const Layout a{(turned & 1) != 0, 3}, b{turned >> 1 != 0, s[2] % 2 ? 0 : 4};
                check(s[0], s[1], s[2], t[0], t[1], t[2], a, b, false);
                if (t[2] == single) check(s[0], s[1], s[2], t[0], t[1], t[2], a, b, true);
            }
    const int64_t odd_sizes[][3] = {{5, 37, 45}, {33, 64, 70}, {64, 32, 64}};
    for (const auto &s : odd_sizes)
        for (const auto &t : types)
            for (int turned = 0; turned < 4; ++turned)
                for (int kind = 0; kind < 3; ++kind) { // no operand contiguous; values of all kinds in A, or in B
                    const int64_t step = kind == 0 ? 3 : 1;
                    const Layout a{(turned & 1) != 0, 1, step, kind == 1}, b{turned >> 1 != 0, 0, step, kind == 2};
                    check(s[0], s[1], s[2], t[0], t[1], t[2], a, b, t[2] == single && kind == 1);
                }
    check(33, 260, 52, half, half, half, {true, 3}, {}, false); // cut by columns, as A is transposed
    check(33, 260, 52, half, half, single, {true, 3}, {true, 4}, true);
    check_peak();
    std::printf("%s: %ld products, %d wrong\n", gemm_isa(), checked, failures);
    return failures != 0;
}
