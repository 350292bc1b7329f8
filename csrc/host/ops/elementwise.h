// The walk that elementwise kernels share: operands lined up with the result, blocks, threads.
#pragma once

#include <vector>

#include "convert.h"
#include "registry.h"

namespace anefast::host {

struct Parameters {
    double a = 0, b = 0;
    bool to_half = false; // the result is rounded to fp16 next: values computed in double go through to_odd
};

// out[0..n) from blocks of up to three operands.
template <class T> using Kernel = void (*)(const T *const *in, T *out, size_t n, const Parameters &p);

// Applies `f` where every tensor is fp16, fp32 or bool, and `d` otherwise.
Runnable build_elementwise(const Builder &b, const std::vector<int32_t> &operands, Kernel<float> f, Kernel<double> d,
                           Parameters parameters = {});

Runnable build_pow(const Builder &b); // both operands tensors; unary.cpp has the constant exponent

} // namespace anefast::host
