// Thin products (thin.cpp): for gemm.cpp, which asks first.
#pragma once

#include "gemm.h"

namespace anefast {

bool is_thin(const Gemm &g);
void gemm_thin(const Gemm &g, bool alone); // alone: on the calling thread

} // namespace anefast
