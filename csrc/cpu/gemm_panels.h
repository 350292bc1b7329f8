// Products on operands that were packed beforehand, on the calling thread alone: for whoever reuses an operand
// or makes it in packed form. The numbers are gemm.h's; gemm() itself is for everybody else.
//
// B is packed as panels of columns, A as panels of rows or as rows that lie in memory, both in the order of the path's
// kernels (gemm_path.h). Where a library does products of any order, packed means row-major, A transposed, and it does
// these too.
#pragma once

#include <cstdint>

#include "gemm.h"

namespace anefast {

int64_t b_panels_floats(int64_t k, int64_t n, Elem elem = Elem::f32); // what pack_b_panels writes
int64_t a_panels_floats(int64_t m, int64_t k);

// out = the panels of b (k x n); of its k only those from k_first on, k_count of them, so that tasks can share it:
// k_first a multiple of 32.
void pack_b_panels(const MatrixView &b, int64_t k, int64_t n, int64_t k_first, int64_t k_count, float *out);
void pack_a_panels(const MatrixView &a, int64_t m, int64_t k, float *out); // fp32

struct PanelGemm {
    int64_t m, n, k;
    const void *a;
    int64_t a_row_stride; // 0: a is panels, fp32; else its rows, k contiguous
    const float *b;       // panels
    float *c;
    int64_t c_row_stride;
    bool accumulate; // C += A B
    Elem elem = Elem::f32; // of a, and of what b's panels were packed from
};

void gemm_panels(const PanelGemm &g);

} // namespace anefast
