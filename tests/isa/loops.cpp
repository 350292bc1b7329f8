// Every loop of halves.h and vecmath.h on values of all kinds and lengths that fill no vector; prints one digest of
// all results, which no instruction set may change. NaN counts as NaN: of two of them, which one an addition hands on
// is the compiler's choice.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "cpu/halves.h"
#include "cpu/vecmath.h"
#include "half.h"

namespace {

uint64_t digest = 1469598103934665603u; // FNV-1a
void remember(const void *data, size_t bytes) {
    const auto *p = static_cast<const uint8_t *>(data);
    for (size_t i = 0; i < bytes; ++i) digest = (digest ^ p[i]) * 1099511628211u;
}
void remember(double x) {
    x = x != x ? NAN : x;
    remember(&x, sizeof x);
}
void remember(const std::vector<uint16_t> &v) {
    for (uint16_t h : v) remember(static_cast<double>(half_to_float(h)));
}
template <class T> void remember(const std::vector<T> &v) {
    for (T x : v) remember(static_cast<double>(x));
}

uint32_t state = 7;
float draw() {
    state = state * 1664525u + 1013904223u;
    return static_cast<float>(static_cast<int32_t>(state)) / 2147483648.0f;
}

const float SPECIAL[] = {0.0f, -0.0f, 65504.0f, -65504.0f, 6e-8f, INFINITY, -INFINITY, NAN};

// Halves of one kind: small, large (sums overflow to infinity), or with special values among them.
std::vector<uint16_t> halves(int64_t n, int kind) {
    std::vector<uint16_t> out;
    for (int64_t i = 0; i < n; ++i)
        out.push_back(
            half_from_float(kind == 2 && i % 7 == 3 ? SPECIAL[i / 7 % 8] : draw() * (kind == 1 ? 60000.0f : 4.0f)));
    return out;
}

void rows_of_halves(int64_t n, int kind) {
    const int64_t rows = 5, stride = n + 3;
    std::vector<uint16_t> a = halves(rows * stride, kind), b = halves(rows * stride, kind);
    for (const auto &op : anefast::half_kernels().binary) {
        std::vector<uint16_t> z(rows * stride, 1);
        op({z.data(), stride}, {a.data(), stride}, {b.data(), 0}, rows, n);
        remember(z);
    }
    std::vector<double> sum(n, 0.5);
    anefast::half_kernels().add_rows({a.data(), stride}, rows, n, sum.data());
    remember(sum);
}

// Rows with something after the n that count, up to `room`: it has no effect and becomes 0.
void softmaxes(int64_t n, int64_t room, int kind) {
    const auto scores = halves(room, kind), mask = halves(room, kind == 2 ? 0 : kind), p = halves(room, 0);
    std::vector<float> scratch((n + 15) / 16 * 16);
    for (float scale : {1.0f, 0.125f})
        for (const uint16_t *m : {static_cast<const uint16_t *>(nullptr), mask.data()}) {
            std::vector<uint16_t> probs(room, 1), ds(room, 1);
            const auto &kernels = anefast::half_kernels();
            const float top =
                kernels.softmax(scores.data(), scale, m, n, room, -INFINITY, scratch.data(), probs.data());
            const float total = kernels.softmax_grad(p.data(), scores.data(), scale, n, room, ds.data());
            for (int64_t i = n; i < room; ++i)
                if (probs[i] || ds[i]) std::abort();
            remember(top);
            remember(total);
            remember(probs);
            remember(ds);
        }
}

void floats(int64_t n) {
    std::vector<float> x, y(n);
    for (int64_t i = 0; i < n; ++i)
        x.push_back(i % 11 == 5 ? SPECIAL[i % 7] : std::ldexp(draw(), static_cast<int>(i % 40) - 32)); // no NaN
    for (auto f : {anefast::exp_floats, anefast::sigmoid_floats, anefast::tanh_floats}) {
        f(x.data(), y.data(), n);
        remember(y);
    }
    const int64_t rows = 9, stride = n + 2;
    std::vector<float> matrix, most(n, -INFINITY), sum(n, 0);
    for (int64_t i = 0; i < rows * stride; ++i) matrix.push_back(draw() * 20);
    anefast::max_down(matrix.data(), rows, stride, n, most.data());
    remember(most);
    std::vector<float> kept = matrix;
    std::vector<float> apart = matrix, twice(sum.size());
    anefast::exp_sum_down(kept.data(), rows, stride, n, most.data(), twice.data(), apart.data());
    remember(apart);
    remember(twice);
    anefast::exp_sum_down(kept.data(), rows, stride, n, most.data(), sum.data(), kept.data());
    remember(kept);
    remember(sum);
    anefast::scale_down(kept.data(), rows, stride, n, sum.data(), kept.data());
    remember(kept);
    const int64_t columns = 7; // whole tiles and single ones
    std::vector<float> factors, dots(rows * columns);
    for (int64_t i = 0; i < columns * n; ++i) factors.push_back(draw());
    anefast::dot_rows(matrix.data(), rows, n, factors.data(), columns, dots.data(), rows);
    remember(dots);
}

} // namespace

int main() {
    for (int64_t n : {1, 3, 7, 8, 15, 16, 17, 31, 33, 64, 100, 257}) {
        for (int kind = 0; kind < 3; ++kind) {
            rows_of_halves(n, kind);
            for (int64_t room : {n, n + 5, n + 16, n + 37}) softmaxes(n, room, kind);
        }
        floats(n);
    }
    std::printf("%016llx\n", static_cast<unsigned long long>(digest));
}
