// Holds the matrix product's instruction set to gemm_reference, and digests it and vecmath.
//
// Prints one line, "ISA DIGEST". The bytes are promised to be the same on every machine, so the digests of
// two machines are compared. A test program only: tests/test_native.py compiles it for this machine and,
// to run under qemu, for arm64.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

#include "../../csrc/cpu/gemm/gemm.h"
#include "../../csrc/cpu/vecmath.h"
#include "../../csrc/half.h"

using namespace anefast;

namespace {

uint64_t digest = 1469598103934665603u;
uint32_t state = 1;

void remember(const void *data, size_t bytes) {
    for (size_t i = 0; i < bytes; ++i) digest = (digest ^ static_cast<const unsigned char *>(data)[i]) * 1099511628211u;
}

float draw() { // uniform in [-1, 1), exact on every machine
    state = state * 1664525u + 1013904223u;
    return static_cast<float>(static_cast<int32_t>(state) >> 8) / (1 << 23);
}

struct Matrix {
    std::vector<float> wide;
    std::vector<uint16_t> narrow;
    MatrixView view;
    Matrix(int64_t rows, int64_t columns, bool half, bool turned) : wide(rows * columns), narrow(rows * columns) {
        for (float &x : wide) x = draw() * (state & 1 ? 1e-4f : 1.0f); // halves below 6e-5 are subnormal
        half_from_floats_portable(wide.data(), narrow.data(), narrow.size());
        view = {half ? static_cast<const void *>(narrow.data()) : wide.data(), half ? Elem::f16 : Elem::f32,
                turned ? 1 : columns, turned ? rows : 1};
    }
};

bool product(int64_t m, int64_t n, int64_t k, int kind) {
    const bool half = kind & 1, half_out = half && (kind & 8);
    const Matrix a(m, k, half, kind & 2), b(k, n, half, kind & 4);
    std::vector<float> got(m * (n + 1), 3), want = got;
    Gemm g{m, n, k, a.view, b.view, got.data(), half_out ? Elem::f16 : Elem::f32, n + 1, !half_out};
    gemm(g);
    g.c = want.data();
    gemm_reference(g);
    remember(want.data(), want.size() * sizeof(float));
    return !std::memcmp(got.data(), want.data(), want.size() * sizeof(float));
}

} // namespace

int main() {
    const int64_t sizes[][3] = {{1, 1, 1},     {6, 16, 1},   {7, 17, 9},  {5, 130, 3},
                                {13, 40, 400}, {33, 31, 90}, {3, 20, 800}};
    for (const auto &s : sizes)
        for (int kind = 0; kind < 16; ++kind)
            if (!product(s[0], s[1], s[2], kind)) {
                std::printf("%s differs from the reference at m %lld n %lld k %lld, kind %d\n", gemm_isa(),
                            static_cast<long long>(s[0]), static_cast<long long>(s[1]), static_cast<long long>(s[2]),
                            kind);
                return 1;
            }

    std::vector<float> x, y;
    for (int e = -40; e < 8; ++e) // magnitudes 2^-40 to 2^8, both signs
        for (int i = 0; i < 500; ++i) x.push_back(std::ldexp(draw(), e));
    for (float special : {0.0f, -0.0f, 88.8f, -88.8f, -104.0f, INFINITY, -INFINITY}) x.push_back(special);
    y.resize(x.size());
    for (auto f : {exp_floats, sigmoid_floats, tanh_floats}) {
        f(x.data(), y.data(), static_cast<int64_t>(x.size()));
        remember(y.data(), y.size() * sizeof(float));
    }
    const int64_t rows = 9, columns = 37;
    std::vector<float> most(columns, -INFINITY), sum(columns, 0);
    max_down(x.data(), rows, columns, columns, most.data());
    exp_sum_down(x.data(), rows, columns, columns, most.data(), sum.data(), x.data());
    scale_down(x.data(), rows, columns, columns, sum.data(), x.data());
    remember(x.data(), rows * columns * sizeof(float));
    std::printf("%s %016llx\n", gemm_isa(), static_cast<unsigned long long>(digest));
    return 0;
}
