// Prepares rows of A for the kernels: in place, or copied into a thread's own memory in the kernels' layout.
#pragma once

#include "../../round.h"
#include "kernels.h"
#include "../scratch.h"

namespace anefast {

// Points a strip to `rows` rows of a from `row` on, of their k those from k on.
inline void take_rows(const GemmKernels &kern, const MatrixView &a, int64_t row, int64_t rows, int64_t k,
                      int64_t k_count, bool in_place, Scratch &own, Strip *s) {
    if (in_place) {
        const int64_t size = a.elem == Elem::f16 ? 2 : 4;
        s->a = static_cast<const uint8_t *>(a.data) + (row * a.row_stride + k) * size;
        s->a_row_stride = a.row_stride;
        s->a_row_bytes = a.row_stride * size;
        return;
    }
    const bool by_rows = a.col_stride == 1 && kern.pack_a_rows;
    const int64_t wide = round_up(k_count, by_rows ? 16 : kern.k_unit);
    s->a_row_stride = by_rows ? wide : 0;
    s->a_row_bytes = wide * kern.bytes_of_a();
    uint8_t *const mine = own.get_bytes(round_up(rows, kern.a_panel_rows) * s->a_row_bytes);
    if (by_rows) kern.pack_a_rows(a, row, rows, k, k_count, reinterpret_cast<float *>(mine), wide);
    else kern.pack_a_panels(a, row, rows, k, k_count, mine);
    s->a = mine;
}

} // namespace anefast
