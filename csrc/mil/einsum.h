// The equation of an einsum of two operands, taken apart.
#pragma once

#include <string>

namespace anefast::mil {

struct Equation {
    std::string x, y, z, summed; // an index a letter; summed: those of x or y that z lacks
    std::string wrong;           // what is wrong with it; empty: nothing
};

// "nchw,nwhu->nchu". Letters, each at most once in an operand; what the result names is in one of them.
Equation equation_of(const std::string &text);

} // namespace anefast::mil
