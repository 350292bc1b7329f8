// What an instruction set provides to gemm.cpp.
//
// tile.h is the code behind the tables that agree to the bit; portable.cpp, avx2.cpp,
// avx512.cpp and neon.cpp compile it, each in its own namespace. amx.cpp and
// avx512_bf16.cpp have those that sum pairs (gemm.h says how far they may differ), of operands
// that pairs.h packs. fixed_*.cpp have Q15.16 products, by fixed_tile.h. Read gemm.cpp for how the
// tables are driven.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "gemm.h"

namespace anefast {

// A strip of C: any rows by up to nr columns, over k_count steps of k. Kernels go down it in tiles of mr rows.
struct Strip {
    int64_t rows, columns, k_count;
    const void *a;        // elements of a's own type: (i, k) at a[i * a_row_stride + k]; or panels
    int64_t a_row_stride; // 0: a is panels
    int64_t a_row_bytes;  // from row to row; of panels, a row's share of one
    const void *b;        // a panel
    const float *start;   // where the chains begin, or null for 0
    int64_t start_row_stride;
    void *c;
    int64_t c_row_stride;
    bool c_half;

    // Its rows from `row` on, `most` of them at most.
    Strip part(int64_t row, int64_t most, int64_t panel_rows) const {
        Strip some = *this;
        some.rows = rows - row < most ? rows - row : most;
        const int64_t inside = a_row_stride ? 0 : row % panel_rows; // a panel, which only fp32 ones let happen
        some.a = static_cast<const char *>(a) + (row - inside) * a_row_bytes + inside * 4;
        some.start = start ? start + row * start_row_stride : nullptr;
        some.c = static_cast<char *>(c) + row * c_row_stride * (c_half ? 2 : 4);
        return some;
    }
};

constexpr int64_t THIN_MOST = 8;   // columns or rows of a thin product
constexpr int64_t THIN_BLOCK = 32; // rows of a block: vectors of any width

// A product of a wide operand, read where it lies, and a thin one: c(lane, j) = sum over k of wide(lane, k) * thin[k *
// count + j].
struct Thin {
    int64_t lanes, count, k_count; // count: 1 to THIN_MOST
    const void *wide;
    bool wide_half;
    int64_t lane_stride, k_stride; // of wide, in elements; one of them 1
    int64_t block;                 // or wide is in blocks of so many lanes, as gemm_block_rows has it; else 0
    const float *thin;
    void *c;
    int64_t c_lane_stride, c_thin_stride;
    bool c_half, accumulate;
};

// A panel holds a_panel_rows rows or nr columns for a run of k, in an order of the kernels' own in which whole
// k_units lie one after the other: k and the row or column together take packed_bytes. fp32 panels
// have (k, j) at [k * width + j].
struct GemmKernels {
    const char *isa;
    int64_t mr, nr;
    int64_t a_panel_rows;            // a multiple of mr
    int64_t k_unit;                  // panels and blocks of k are whole multiples of it, padded with 0
    int64_t packed_bytes;            // of an element in a panel
    bool (*in_place)(const Gemm &g); // is `strip` to read the rows of g.a where they lie? Null: never
    void (*strip)(const Strip &s);
    // Panels of nr columns, panel_bytes apart, the last padded with 0 as far as its strip reads it.
    void (*pack_b)(const MatrixView &b, int64_t k_first, int64_t k_count, int64_t column, int64_t columns, void *out,
                   int64_t panel_bytes);
    // Rows of a, whose k are contiguous, as fp32: out[i * out_stride + k]. Null: never asked for.
    void (*pack_a_rows)(const MatrixView &a, int64_t row, int64_t rows, int64_t k_first, int64_t k_count, float *out,
                        int64_t out_stride);
    // Panels of a_panel_rows rows, one after the other, the last padded with 0.
    void (*pack_a_panels)(const MatrixView &a, int64_t row, int64_t rows, int64_t k_first, int64_t k_count, void *out);
    void (*enter)(), (*leave)(); // around the strips of a task, on its thread; null where there is no need
    // The flops of a tile's products, `rounds` times between enter and leave with nothing loaded: what bounds `strip`.
    // Null: fp32 multiply-adds do.
    double (*in_registers)(int64_t rounds) = nullptr;
    int64_t a_packed_bytes = 0;            // of an element of A in a panel, where that is not packed_bytes
    bool whole_k = false;                  // a strip takes all k at once: its sums cannot wait as fp32
    void (*thin)(const Thin &t) = nullptr; // with the sums of `strip`, to the byte. Null: there is none

    int64_t bytes_of_a() const { return a_packed_bytes ? a_packed_bytes : packed_bytes; }
};

// Between enter and leave, however the task ends.
class Entered {
  public:
    explicit Entered(const GemmKernels &kernels) : leave(kernels.leave) {
        if (kernels.enter) kernels.enter();
    }
    ~Entered() {
        if (leave) leave();
    }
    Entered(const Entered &) = delete;
    Entered &operator=(const Entered &) = delete;

  private:
    void (*const leave)();
};

// Null where this build has no such code. The processor's consent is gemm.cpp's business.
const GemmKernels *gemm_kernels_portable();
const GemmKernels *gemm_kernels_avx2();
const GemmKernels *gemm_kernels_avx512();
const GemmKernels *gemm_kernels_neon();
const GemmKernels *gemm_kernels_amx_fp16();    // fp16 operands only
const GemmKernels *gemm_kernels_amx_bf16();    // any operands, in three passes
const GemmKernels *gemm_kernels_amx_relaxed(); // any operands, rounded to bf16, here and below
const GemmKernels *gemm_kernels_avx512_relaxed();
const GemmKernels *gemm_kernels_portable_fixed(); // Q15.16, fp16 operands only, here and below
const GemmKernels *gemm_kernels_avx2_fixed();
const GemmKernels *gemm_kernels_avx512_fixed();

// a * b + c rounded once, without the instruction. The product is exact in double; the sum is rounded to
// odd (its last bit remembers that something was lost), which makes the second rounding the only one.
static inline float fma_exact(float a, float b, float c) {
#if defined(__FMA__) || defined(__aarch64__)
    return __builtin_fmaf(a, b, c);
#else
    const double p = static_cast<double>(a) * b, q = c, s = p + q;
    const double t = s - p, lost = (p - (s - t)) + (q - t);
    int64_t bits;
    std::memcpy(&bits, &s, sizeof bits);
    if (lost != 0 && lost == lost && !(bits & 1)) // NaN: the sum is not finite, so there is nothing to mend
        bits += (lost > 0) == (s > 0) ? 1 : -1;
    double odd;
    std::memcpy(&odd, &bits, sizeof odd);
    return static_cast<float>(odd);
#endif
}

} // namespace anefast
