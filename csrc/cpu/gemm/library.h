// A platform's own matrix product, for products whose order of summation is free (Gemm::any_order).
//
// Its sums are fp32 too, but not gemm.h's chain: results may differ in the last bits from those of another machine, so
// only what the CPU computes for itself goes here (classifier, weight gradients), never a device program.
#pragma once

#include "gemm.h"

namespace anefast {

const char *gemm_library(); // its name, or null where this build has none; path.h says if it is to be used

// Rows first .. first + rows of C, with c_elem f32. Columns, k and strides must fit an int.
void gemm_library_rows(const Gemm &g, int64_t first, int64_t rows);

} // namespace anefast
