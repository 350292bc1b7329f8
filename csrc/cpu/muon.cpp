// Muon, one matrix after the other: momentum, Newton-Schulz, step. Each part uses all threads.
#include "muon.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>

#include "../round.h"
#include "gemm/gemm.h"
#include "pool.h"
#include "scratch.h"
#include "update.h"

namespace anefast {
namespace {

constexpr int STEPS = 5;
constexpr float A = 3.4445f, B = -4.7750f, C = 2.0315f; // of the published quintic
constexpr double LEAST_NORM = 1e-7;
constexpr int64_t PANEL = 32768; // values

thread_local Scratch direction, other, squares[2];

void by_panels(int64_t size, const std::function<void(int64_t first, int64_t end)> &body) {
    Pool::shared().parallel(ceil_div(size, PANEL),
                            [&](int64_t i) { body(i * PANEL, std::min(size, (i + 1) * PANEL)); });
}

MatrixView view(const float *data, int64_t columns, bool transposed = false) {
    return {data, Elem::f32, transposed ? 1 : columns, transposed ? columns : 1};
}

void product(int64_t m, int64_t n, int64_t k, MatrixView a, MatrixView b, float *c) {
    Gemm g{};
    g.m = m, g.n = n, g.k = k, g.a = a, g.b = b;
    g.c = c, g.c_elem = Elem::f32, g.c_row_stride = n;
    g.any_order = true;
    gemm(g);
}

// Newton-Schulz of x, with x and `y` as room. Returns the one that holds the result.
float *orthogonal(float *x, float *y, int64_t rows, int64_t columns) {
    const bool wide = rows <= columns;
    const int64_t m = std::min(rows, columns), n = std::max(rows, columns), size = rows * columns;
    const double norm = std::sqrt(squared_norm(&x, &size, 1));
    const float unit = static_cast<float>(1.0 / std::max(norm, LEAST_NORM));
    by_panels(size, [&](int64_t first, int64_t end) {
        for (int64_t i = first; i < end; ++i) x[i] *= unit;
    });
    float *const gram = squares[0].get(m * m), *const by = squares[1].get(m * m);
    for (int step = 0; step < STEPS; ++step) { // x = (A + B G + C G^2) x, G = x x^T; from the right where x is tall
        product(m, m, n, view(x, columns, !wide), view(x, columns, wide), gram);
        product(m, m, m, view(gram, m), view(gram, m), by);
        by_panels(m * m, [&](int64_t first, int64_t end) {
            for (int64_t i = first; i < end; ++i) by[i] = B * gram[i] + C * by[i];
        });
        for (int64_t i = 0; i < m; ++i) by[i * m + i] += A;
        if (wide) product(rows, columns, m, view(by, m), view(x, columns), y);
        else product(rows, columns, m, view(x, columns), view(by, m), y);
        std::swap(x, y);
    }
    return x;
}

} // namespace

void newton_schulz(float *x, int64_t rows, int64_t columns) {
    const int64_t size = rows * columns;
    const float *const result = orthogonal(x, other.get(size), rows, columns);
    if (result != x) memcpy(x, result, size * sizeof(float));
}

void muon(const MuonTensor *tensors, int64_t count, float factor, float momentum) {
    const float rest = static_cast<float>(1.0 - momentum);
    for (int64_t i = 0; i < count; ++i) {
        const MuonTensor &t = tensors[i];
        const int64_t size = t.rows * t.columns;
        float *const x = direction.get(size);
        by_panels(size, [&](int64_t first, int64_t end) {
            for (int64_t j = first; j < end; ++j) {
                const float grad = t.grad[j] * factor;
                const float mean = t.momentum[j] = momentum * t.momentum[j] + rest * grad;
                x[j] = momentum * mean + rest * grad;
            }
        });
        const float *const step = orthogonal(x, other.get(size), t.rows, t.columns);
        const float keep = static_cast<float>(1.0 - static_cast<double>(t.decay));
        by_panels(size, [&](int64_t first, int64_t end) {
            for (int64_t j = first; j < end; ++j) t.weight[j] = t.weight[j] * keep - t.rate * step[j];
        });
    }
}

} // namespace anefast
