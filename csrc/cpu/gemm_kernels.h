// What an instruction set provides to gemm.cpp, and the arithmetic they all must agree on to the bit.
//
// gemm_tile.h is the code behind the table; gemm_portable.cpp, gemm_avx2.cpp, gemm_avx512.cpp and
// gemm_neon.cpp compile it, each in its own namespace. Read gemm.cpp for how the table is driven.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "gemm.h"

namespace anefast {

// One tile of C: up to mr rows by nr columns, over k_count steps of k.
struct Tile {
    int64_t rows, columns, k_count;
    const float *a; // (i, k) at a[i * a_row_stride + k] or, for panels, a[k * mr + i]
    int64_t a_row_stride; // 0: a is a panel
    const float *b;       // a panel: (k, j) at b[k * nr + j], all nr columns present
    const float *start;   // where the chains begin, or null for 0
    int64_t start_row_stride;
    void *c;
    int64_t c_row_stride;
    bool c_half;
};

struct GemmKernels {
    const char *isa;
    int64_t mr, nr;
    void (*tile)(const Tile &t);
    // Panels of nr columns in fp32, the last padded with 0: b(k_first + k, column + p * nr + j) goes to
    // out[p * panel_stride + k * nr + j].
    void (*pack_b)(const MatrixView &b, int64_t k_first, int64_t k_count, int64_t column, int64_t columns,
                   float *out, int64_t panel_stride);
    // Rows of a, whose k are contiguous, as fp32: out[i * out_stride + k].
    void (*pack_a_rows)(const MatrixView &a, int64_t row, int64_t rows, int64_t k_first, int64_t k_count,
                        float *out, int64_t out_stride);
    // The same as panels of mr rows, one after the other, the last padded with 0.
    void (*pack_a_panels)(const MatrixView &a, int64_t row, int64_t rows, int64_t k_first,
                          int64_t k_count, float *out);
};

// Null where this build has no such code. The processor's consent is gemm.cpp's business.
const GemmKernels *gemm_kernels_portable();
const GemmKernels *gemm_kernels_avx2();
const GemmKernels *gemm_kernels_avx512();
const GemmKernels *gemm_kernels_neon();
const GemmKernels &gemm_kernels(); // the choice for this processor, made once, by gemm.cpp

// a * b + c rounded once, without the instruction. The product is exact in double; the sum is rounded to
// odd (its last bit remembers that something was lost), which makes the second rounding the only one.
static inline float fma_exact(float a, float b, float c) {
#if defined(__FMA__) || defined(__aarch64__)
    return __builtin_fmaf(a, b, c);
#else
    const double p = static_cast<double>(a) * b, q = c, s = p + q;
    const double t = s - p, lost = (p - (s - t)) + (q - t);
    int64_t bits;
    std::memcpy(&bits, &s, sizeof bits);
    if (lost != 0 && lost == lost && !(bits & 1)) // NaN: the sum is not finite, so there is nothing to mend
        bits += (lost > 0) == (s > 0) ? 1 : -1;
    double odd;
    std::memcpy(&odd, &bits, sizeof odd);
    return static_cast<float>(odd);
#endif
}

} // namespace anefast
