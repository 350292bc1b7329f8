// exp, sigmoid and tanh in fp32, good to about 2 ulp, with one result per input: the array versions (any
// instruction set, any length, any alignment) give the bits of the scalar ones.
//
// That holds because each is a fixed tree of IEEE adds, multiplies, divides and integer operations, free
// of fused multiply-adds: this header must be compiled with -ffp-contract=off and no -ffast-math.
#pragma once

#include <cstdint>
#include <cstring>

namespace anefast {

// The array versions; y may be x.
void exp_floats(const float *x, float *y, int64_t n);
void sigmoid_floats(const float *x, float *y, int64_t n);
void tanh_floats(const float *x, float *y, int64_t n);

float exp_float(float x);
float sigmoid_float(float x);
float tanh_float(float x);

} // namespace anefast
