// exp, sigmoid and tanh in fp32, good to about 2 ulp, with one result per input: the array versions (any
// instruction set, any length, any alignment) give the bits of the scalar ones.
//
// That holds because each is a fixed tree of IEEE adds, multiplies, divides and integer operations, with no
// fused multiply-add: compile what includes this with -ffp-contract=off and without -ffast-math.
// NaN in, NaN out; subnormal results are kept. Measured, at worst: exp 0.95, sigmoid 2.3, tanh 1.5 ulp.
#pragma once

#include <cstdint>
#include <cstring>

namespace anefast {

void exp_floats(const float *x, float *y, int64_t n); // y may be x, here and below
void sigmoid_floats(const float *x, float *y, int64_t n);
void tanh_floats(const float *x, float *y, int64_t n);

// Softmax down the rows of a row-major matrix, a column in each lane; x is rows x n, rows `stride` apart.
// Rows are visited in order, so a sum has one order however wide the vectors are.
// most[j] = max(most[j], x[.][j])
void max_down(const float *x, int64_t rows, int64_t stride, int64_t n, float *most);
// y[i][j] = exp(x[i][j] - most[j]); sum[j] += each. Where y is not x it is written past the caches: for whoever reads
// it much later.
void exp_sum_down(const float *x, int64_t rows, int64_t stride, int64_t n, const float *most, float *sum, float *y);
// y[i][j] = x[i][j] * factor[j]
void scale_down(const float *x, int64_t rows, int64_t stride, int64_t n, const float *factor, float *y);

// out[j * stride + i] = dot product of row i of a contiguous rows x n matrix with row j of x, columns x n, as 32
// running sums: element k goes to sum k % 32, and sums are folded by halves.
void dot_rows(const float *matrix, int64_t rows, int64_t n, const float *x, int64_t columns, float *out,
              int64_t stride);

namespace vecmath {
typedef float F;
typedef int32_t I;
#include "vecmath_body.h"
} // namespace vecmath

inline float exp_float(float x) { return vecmath::exp_in(x), x; }
inline float sigmoid_float(float x) { return vecmath::sigmoid_in(x), x; }
inline float tanh_float(float x) { return vecmath::tanh_in(x), x; }

} // namespace anefast
