// Which kernels this process multiplies with: the best the processor has, or what ANEFAST_ISA names.
// Decided once. kernels.h says what kernels are; gemm.cpp drives them.
#pragma once

#include <string>

#include "kernels.h"

namespace anefast {

struct GemmPath {
    const GemmKernels *halves, *floats; // for products of two fp16 operands; for all others
    const GemmKernels *fixed;           // for Q15.16 products
    bool relaxed;                       // operands are rounded to bf16
    bool library;                       // a product whose order of summation is free goes to library.h
    std::string isa;                    // for run headers; names a wish that could not be met
};

const GemmPath &gemm_path();

} // namespace anefast
