// Products of any order through Apple's Accelerate, which has the matrix unit of an Apple CPU to itself.
//
// Only where the framework's header is: on a Mac, and in the tests, which bring a header and a plain sgemm of
// their own. Elsewhere the two functions say that there is no library, and gemm.cpp does everything.
#include "library.h"

#if __has_include(<Accelerate/Accelerate.h>)

#ifdef __clang__ // the interface that replaces this one is not in macOS before 13.3
#pragma clang diagnostic ignored "-Wdeprecated-declarations"
#endif
#include <Accelerate/Accelerate.h>

#include <algorithm>
#include <climits>
#include <vector>

#include "../../half.h"

namespace anefast {
namespace {

// An operand as sgemm takes it: fp32, row-major as it is stored, perhaps to be read transposed.
struct Operand {
    const float *data;
    CBLAS_TRANSPOSE turned;
    int pitch;
};

// rows x columns of v from row `first` on, converted or gathered into `room` where sgemm could not read it in place.
Operand operand(const MatrixView &v, int64_t first, int64_t rows, int64_t columns, std::vector<float> &room) {
    const bool turned = v.col_stride != 1 && v.row_stride == 1, plain = v.col_stride == 1 || turned;
    const int64_t high = turned ? columns : rows, wide = turned ? rows : columns;
    const int64_t stride = std::max(wide, turned ? v.col_stride : v.row_stride);
    const int64_t start = first * v.row_stride;
    const CBLAS_TRANSPOSE said = turned ? CblasTrans : CblasNoTrans;
    if (v.elem == Elem::f32 && plain && stride <= INT_MAX)
        return {static_cast<const float *>(v.data) + start, said, static_cast<int>(stride)};
    room.resize(high * wide);
    if (plain)
        for (int64_t i = 0; i < high; ++i) {
            if (v.elem == Elem::f32)
                std::copy_n(static_cast<const float *>(v.data) + start + i * stride, wide, &room[i * wide]);
            else half_to_floats(static_cast<const uint16_t *>(v.data) + start + i * stride, &room[i * wide], wide);
        }
    else
        for (int64_t i = 0; i < rows; ++i)
            for (int64_t j = 0; j < columns; ++j) {
                const int64_t at = start + i * v.row_stride + j * v.col_stride;
                room[i * columns + j] = v.elem == Elem::f32 ? static_cast<const float *>(v.data)[at]
                                                            : half_to_float(static_cast<const uint16_t *>(v.data)[at]);
            }
    return {room.data(), said, static_cast<int>(wide)};
}

} // namespace

const char *gemm_library() { return "Accelerate"; }

void gemm_library_rows(const Gemm &g, int64_t first, int64_t rows) {
    std::vector<float> a_room, b_room;
    const Operand a = operand(g.a, first, rows, g.k, a_room), b = operand(g.b, 0, g.k, g.n, b_room);
    cblas_sgemm(CblasRowMajor, a.turned, b.turned, static_cast<int>(rows), static_cast<int>(g.n), static_cast<int>(g.k),
                1.0f, a.data, a.pitch, b.data, b.pitch, g.accumulate ? 1.0f : 0.0f,
                static_cast<float *>(g.c) + first * g.c_row_stride, static_cast<int>(g.c_row_stride));
}

} // namespace anefast

#else

namespace anefast {
const char *gemm_library() { return nullptr; }
void gemm_library_rows(const Gemm &, int64_t, int64_t) {}
} // namespace anefast

#endif
