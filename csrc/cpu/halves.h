// Arithmetic on fp16 where it lies: every operation reads halves, computes in fp32 and rounds once, so a
// chain of them gives the bits of as many separate passes over memory. Also softmax of a row.
//
// Not here: what the operations mean for other dtypes (host/elementwise.cpp), or which of them belong
// together (host/fusion/fusion.h). halves_loops.h is the code; halves.cpp picks the instruction set.
#pragma once

#include <cstdint>

namespace anefast {

// A block of halves: row i starts at data + i * stride, its elements are contiguous.
struct Rows {
    uint16_t *data;
    int64_t stride; // in elements; 0 repeats one row
};

enum class Binary : uint8_t { add, sub, mul, div, maximum, minimum };

struct HalfKernels {
    // z = a op b, element by element. z may be a or b.
    void (*binary[6])(Rows z, Rows a, Rows b, int64_t rows, int64_t columns);
    // sum[j] += a[i][j], i ascending.
    void (*add_rows)(Rows a, int64_t rows, int64_t columns, double *sum);
    // z = |a|.
    void (*magnitudes)(Rows z, Rows a, int64_t rows, int64_t columns);
    // most[j] = max(most[j], a[i][j]), or |a[i][j]|; as ranks (below), from LOWEST_RANK on.
    void (*largest_rows)(Rows a, int64_t rows, int64_t columns, int16_t *most);
    void (*greatest_rows)(Rows a, int64_t rows, int64_t columns, int16_t *most);
    // Softmax of scores * scale + mask (null: none), n halves, as host/ops/normalise.cpp has it: probs[j] in fp16.
    // Rows have room for `room` >= n halves: what follows the n is read, without effect, and 0 in probs.
    // scale is an fp16 number; unless it is 1 its product is rounded. scratch: n floats rounded up to 16. Returns
    // the largest element; probs are written only if it is at least `least`, or if it is not a number and `least`
    // is minus infinity. probs may be scores.
    float (*softmax)(const uint16_t *scores, float scale, const uint16_t *mask, int64_t n, int64_t room, float least,
                     float *scratch, uint16_t *probs);
    // ds = p * (dp - sum(dp * p)) * scale, each operation rounded to fp16, the sum exact up to 8,192
    // elements; scale and room as in softmax. Returns the rounded sum. ds may be dp.
    float (*softmax_grad)(const uint16_t *p, const uint16_t *dp, float scale, int64_t n, int64_t room, uint16_t *ds);
};

// Ranks are halves as integers of the same order; any NaN is above all of them, and 0 above -0.
constexpr int16_t LOWEST_RANK = static_cast<int16_t>(0xfc00 ^ 0x7fff); // of minus infinity
inline uint16_t half_of_rank(int16_t rank) {
    if (rank > 0x7c00) return 0x7e00;
    return static_cast<uint16_t>(rank < 0 ? rank ^ 0x7fff : rank);
}

const HalfKernels &half_kernels(); // ANEFAST_ISA=portable takes the plain ones

} // namespace anefast
