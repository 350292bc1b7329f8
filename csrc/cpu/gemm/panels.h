// Products whose B was packed beforehand, on the calling thread alone: for whoever reuses an operand or makes it in
// packed form. The numbers are gemm.h's; gemm() itself is for everybody else.
//
// B is packed as panels of columns in the order of the path's kernels (path.h). Where a library does products of
// any order, packed means row-major, and it does these too.
#pragma once

#include <cstdint>

#include "gemm.h"

namespace anefast {

int64_t b_panels_floats(int64_t k, int64_t n, Elem elem = Elem::f32); // what pack_b_panels writes

// out = the panels of b (k x n); of its k only those from k_first on, k_count of them, so that tasks can share it:
// k_first a multiple of 32.
void pack_b_panels(const MatrixView &b, int64_t k, int64_t n, int64_t k_first, int64_t k_count, float *out);

struct PanelGemm {
    int64_t m, n, k;
    MatrixView a;
    const float *b; // panels of what was of a's type
    float *c;
    int64_t c_row_stride;
    bool accumulate; // C += A B
};

void gemm_panels(const PanelGemm &g);

} // namespace anefast
