// What the forward and the backward of attention have in common: operands as matrices, what a mask hides,
// and when hidden keys may be left out.
//
// A hidden key has a probability of exactly 0 where its score lies 105 or more below the largest of its row,
// since exp then gives 0 in fp32; products with 0 leave sums as they are while the other factor is finite.
// Both are made sure of for every tile, from norms; a tile for which they are not takes every key.
#pragma once

#include <memory>
#include <vector>

#include "../../cpu/gemm/gemm.h"
#include "../../round.h"
#include "fusion.h"

namespace anefast::host {

constexpr float UNSEEN = -2000; // a mask value from which a key counts as hidden
constexpr float FAR = 105;      // exp of minus that is 0 in fp32
constexpr float SAFE = 60000;   // below the largest fp16 by more than any rounding

// One operand of a batch of products: (rows, columns) of each, `step` elements from one to the next.
struct Matrix {
    int32_t value = -1;
    int64_t rows = 0, columns = 0, row_stride = 0, column_stride = 0, step = 0;
    MatrixView at(const uint16_t *base, int64_t batch, int64_t row = 0, int64_t column = 0) const {
        return {base + batch * step + row * row_stride + column * column_stride, Elem::f16, row_stride, column_stride};
    }
    Matrix transposed() const { return {value, columns, rows, column_stride, row_stride, step}; }
};

// Scores of queries (rows) against keys (columns) and their softmax.
struct Scores {
    Matrix q, k; // M x D, D x N
    int64_t batch = 0, m = 0, n = 0;
    double scale = 1;                    // applied and rounded by itself, if it is not 1
    int32_t mask = -1;                   // a value to add, or none
    int64_t mask_row = 0, mask_step = 0; // strides in elements
    bool mask_matters = false;           // where it hides nothing it is not 0 either
    std::vector<int64_t> visible;        // per query: keys from here on are hidden; empty: all are visible
    std::vector<float> hidden;           // per query: the largest mask value from there on
    // Where every row of the mask is `visible` zeros and then one and the same value, all of them are windows of
    // this line of n zeros and n such values, and nobody needs the mask, which grows with the square of n.
    std::shared_ptr<const std::vector<uint16_t>> line;
    int32_t probs = -1;
    std::vector<size_t> operations;

    bool reads_mask() const { return mask >= 0 && !line; }
    // Row `query` of the mask of a batch item; null where there is none. n halves.
    const uint16_t *mask_of(const Frame &frame, const std::vector<Ref> &where, int64_t item, int64_t query) const {
        if (line) return line->data() + n - visible[static_cast<size_t>(query)];
        return mask < 0 ? nullptr : frame.at<const uint16_t>(where[mask]) + item * mask_step + query * mask_row;
    }
    // A key that no query in [first, last) sees lies behind this many.
    int64_t keys(int64_t first, int64_t last) const;
};

// The operations behind a softmax if they are scores of attention.
bool find_scores(const DefUse &uses, const mil::Operation &softmax, const Claimed &claimed, Scores *scores);
// Operand `name` of a matmul as it enters the product, transposition included. False where it is not fp16
// or is repeated along the batch.
bool matrix_of(const DefUse &uses, const mil::Operation &matmul, const char *name, int64_t batch, Matrix *matrix);

// Rows [first, first + count) of the probabilities of one batch item, in `probs`, `stride` apart, zero
// up to `wanted` from where each row's keys are hidden. Returns the keys taken: `wanted`, or all N where it could not
// be proven that this is the same; `hidden_are_zero` says whether it could.
struct Bound {
    float scores = 0; // no score is larger, in absolute value, before scale and mask
    bool finite = false;
};
int64_t probabilities(const Scores &s, const Frame &frame, const std::vector<Ref> &where, int64_t item, int64_t first,
                      int64_t count, int64_t wanted, const Bound &bound, float *scratch, uint16_t *probs,
                      int64_t stride, bool *hidden_are_zero);

// The square of the largest column norm of a matrix, in fp32; not finite if an element is not.
float largest_norm2(const Matrix &m, const uint16_t *base, int64_t item);

// Floats of scratch that the softmax of a row of n takes.
inline int64_t line_floats(int64_t n) { return round_up(n, int64_t{16}); }

constexpr int64_t TILE_ROWS = 64;
inline int64_t tile_rows(int64_t m, int64_t n) {
    const int64_t most = n > 1024 ? TILE_ROWS / 2 : TILE_ROWS;
    return m < most ? m : most;
}

} // namespace anefast::host
